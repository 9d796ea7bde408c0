"""What a run changes in the process that it owns, and what it leaves as the user has set it."""

import asyncio
import gc

import pytest

import hyperflow as hf
from hyperflow.concurrent import STARTS_BETWEEN_PAUSES
from hyperflow.testing import open_inline_job


@hf.job
async def threshold() -> tuple[int, int, int]:
    """Tell how often Python looks for garbage."""
    return gc.get_threshold()


@pytest.mark.parametrize("set_before", [(700, 10, 10), (123, 4, 5)])
def test_garbage_is_looked_for_less_often(set_before: tuple[int, int, int]) -> None:
    """While a run owns the process, unless the user has said otherwise; afterwards it is as before."""
    before = gc.get_threshold()
    gc.set_threshold(*set_before)
    try:
        within = hf.run_job_local(threshold(), cpus=1)
        assert gc.get_threshold() == set_before
    finally:
        gc.set_threshold(*before)
    assert within == (set_before if set_before == (123, 4, 5) else (20_000, 20, 20))


async def test_the_loop_has_turns_while_many_are_started() -> None:
    """Whoever starts very many flows does not keep the event loop from everything else until the last is started."""
    started: list[int] = []
    seen: list[int] = []

    def flow(n: int) -> hf.Job[int]:
        started.append(n)
        return hf.pure(n)

    def look() -> None:
        seen.append(len(started))
        if len(started) < many:
            asyncio.get_running_loop().call_soon(look)

    many = 4 * STARTS_BETWEEN_PAUSES
    async with open_inline_job(cpus=1):
        asyncio.get_running_loop().call_soon(look)
        assert await hf.map_concurrently(flow, range(many)) == list(range(many))
    assert len({count for count in seen if 0 < count < many}) >= 3
