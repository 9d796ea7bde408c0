"""The master loses power at each step of one run."""

import pytest

from tests.model.master import MasterModel
from tests.model.simulator import Event, play

BEFORE: list[Event] = [["setting", 2, 1, 0], ["resume", 0, 0, 0]]
"""(One job is submitted again when it fails.)"""

AFTER: list[Event] = [
    ["call", 0, 0, 0],
    ["call", 1, 0, 0],
    ["pass_time", 2, 0, 0],
    ["begin", 0, 0, 0],
    ["begin", 0, 0, 0],
    ["pass_time", 3, 0, 0],
    ["end", 0, 3, 0],  # without a result
    ["end", 0, 0, 1],
    ["pass_time", 4, 0, 0],
    ["retry", 0, 0, 0],
    ["resume", 0, 0, 0],
    ["pass_time", 4, 0, 0],
]


def steps_of_whole_run() -> int:
    """Return how many steps the run has that nobody disturbs."""
    world = MasterModel()
    try:
        for event in (*BEFORE, *AFTER):
            world.do(event)
        return len(world.disk.steps)
    finally:
        world.close()


@pytest.mark.timeout(300)  # some hundred runs
def test_power_is_lost_at_every_step() -> None:
    """Wherever its machine ends, the next master comes to the same end. (`tests/master/test_crash.py` kills it.)"""
    with MasterModel.surroundings():
        steps = steps_of_whole_run()
        assert steps > 100
        for at in range(steps):
            broken = play(MasterModel, [*BEFORE, ["crash_at", at, 1, at % 2], *AFTER])
            assert broken is None, f"power lost at step {at}: {broken}"
