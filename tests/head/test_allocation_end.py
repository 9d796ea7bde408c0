"""When a job is told that its allocation ends."""

import asyncio
import time

import pytest

from hyperflow.head.allocation_end import USUAL_MARGIN, End, EndWatch


@pytest.mark.parametrize(("margin", "share"), [(0.0, 0.25), (0.5, 0.5)])
async def test_a_short_allocation(margin: float, share: float) -> None:
    """By default the last quarter of a short one is kept for the end, not all of it; a margin that is given counts."""
    told: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    lasts = 1.0
    watch = EndWatch(End(time.time() + lasts, margin), lambda why, seconds: told.set_result(seconds))
    left = await told
    watch.close()
    assert 0 <= left <= share * lasts
    assert lasts < USUAL_MARGIN
