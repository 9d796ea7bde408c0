"""The models notice bugs: each of `bugs` makes its model break the promise that is named with it."""

from pathlib import Path

import pytest

from tests.model.bugs import BUGS, Bug
from tests.model.models import MODELS
from tests.model.simulator import Found, play, search


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_bug_is_found(bug: Bug, tmp_path: Path) -> None:
    """It is found within some hundred histories, and what is kept of it shows it again; without the bug, it is fine."""
    model = MODELS[bug.model]
    with bug.in_place():
        found = search(model, range(bug.first, bug.first + 150), small=bug.model != "master")
    assert found is not None
    assert found.promise in bug.promises, found
    kept = Found.read(found.keep(tmp_path))
    assert kept == found
    with model.surroundings():
        assert play(model, kept.events) is None
        with bug.in_place():
            again = play(model, kept.events)
    assert again is not None
    assert again.promise == found.promise
