"""Histories that once broke a promise; what they found is mended."""

from tests.model.models import MODELS
from tests.model.simulator import KEPT, Found, play


def test_kept_histories() -> None:
    """None of them breaks a promise any more."""
    paths = sorted(KEPT.glob("*.json"))
    assert paths
    for path in paths:
        found = Found.read(path)
        model = MODELS[found.model]
        with model.surroundings():
            broken = play(model, found.events)
        assert broken is None, f"{path.name}: {broken}"
