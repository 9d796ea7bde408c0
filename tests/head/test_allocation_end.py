"""When a job is told that its allocation ends."""

import asyncio
import time

import pytest

from hyperflow.head.allocation_end import USUAL_MARGIN, Drain, End


@pytest.mark.parametrize(("margin", "share"), [(0.0, 0.25), (0.5, 0.5)])
async def test_a_short_allocation(margin: float, share: float) -> None:
    """By default the last quarter of a short one is kept for the end, not all of it; a margin that is given counts."""
    told: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    lasts = 1.0
    drain = Drain(lambda ending: told.set_result(ending.seconds), lambda ending: None)
    drain.expect(End(time.time() + lasts, margin))
    left = await told
    drain.close()
    assert 0 <= left <= share * lasts
    assert lasts < USUAL_MARGIN
