"""Room at Slurm: first come, first served, and nobody's turn is lost."""

import asyncio

from hyperflow.master.room import Room


async def test_a_turn_that_is_not_taken() -> None:
    """Who is cancelled just when its turn has come leaves it to the next one."""
    room = Room(1)
    await room.enter(at_once=False)
    one = asyncio.create_task(room.enter(at_once=False))
    two = asyncio.create_task(room.enter(at_once=False))
    await asyncio.sleep(0)  # both stand in the queue
    room.leave()
    one.cancel()
    async with asyncio.timeout(5):
        await two
    assert one.cancelled()
