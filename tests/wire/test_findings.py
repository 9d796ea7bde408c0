"""What a process finds out about its machine, all together."""

import pytest

from hyperflow.wire import domains, findings, gpus
from hyperflow.wire.gpus import Card


def test_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are the environment's, or else those of all cards; domains have those that hang there."""
    asked: list[dict[str, int]] = []

    def near(_: object, gpus: dict[str, int]) -> tuple[()]:
        asked.append(gpus)
        return ()

    monkeypatch.setattr(gpus, "cards", lambda: [Card("GPU-aa", 1), Card("GPU-bb", 0)])
    monkeypatch.setattr(domains, "domains", near)

    free, bound = findings.look({}), findings.look({"CUDA_VISIBLE_DEVICES": "GPU-bb,MIG-x"})

    assert (free.gpus, free.gpus_from, free.cards) == (("0", "1"), "", 2)
    assert (bound.gpus, bound.gpus_from, bound.cards) == (("GPU-bb", "MIG-x"), "CUDA_VISIBLE_DEVICES", 2)
    assert asked == [{"0": 1, "1": 0}, {"GPU-bb": 0}]
    assert free.total_memory > 0
