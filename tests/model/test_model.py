"""A few histories of each model, as many as a second allows; `make model` plays a hundred thousand."""

import pytest

from tests.model.models import MODELS, SHARES, split
from tests.model.simulator import Event, history, play, search, with_smaller_numbers, without_needless

HISTORIES = {
    "scheduler": 120,
    "resources": 80,
    "membership": 60,
    "speculation": 120,
    "locks": 250,
    "lifecycle": 250,
    "master": 10,
}


@pytest.mark.parametrize("name", MODELS)
def test_promises_hold(name: str) -> None:
    """Whatever happens in whatever order, no promise is broken."""
    found = search(MODELS[name], range(HISTORIES[name]))

    assert found is None, f"{found.promise}: {found.detail}\n{found.events}"


@pytest.mark.parametrize("name", MODELS)
def test_same_seed_same_history(name: str) -> None:
    """A seed says all: the events, and what follows from them."""
    model = MODELS[name]
    assert history(model, 7) == history(model, 7) != history(model, 8)
    assert set(model.opening) | model.always <= {word for seed in range(20) for word, *_ in history(model, seed)}
    with model.surroundings():
        assert play(model, history(model, 7)) is None


def test_each_model_gets_its_share() -> None:
    """All histories are shared out; a few of the slow one are enough."""
    assert split(100_000) == SHARES
    assert split(5, "locks") == {"locks": 5}
    assert min(split(10).values()) == 1


def test_history_is_made_small() -> None:
    """What a failure does not need is taken out, and numbers become small."""

    def fails(events: list[Event]) -> bool:
        return [1] in events and [99] in events

    events: list[Event] = [[number] for number in range(100)]
    assert without_needless(events, fails) == [[1], [99]]
    assert with_smaller_numbers([["a", 70], ["b", 9]], lambda them: them[0][1] >= 3) == [["a", 3], ["b", 0]]
