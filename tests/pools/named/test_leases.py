"""Tests of the connection between a program and the manager of a named pool."""

import asyncio
import contextlib
from pathlib import Path

import uvloop

from hyperflow.pools.named.leases import Stream


def test_closed_again_after_a_cancel(tmp_path: Path) -> None:
    """Who closes a connection whose first closing was cancelled is not cancelled with it, on either loop."""

    async def main(place: str) -> None:
        async with await asyncio.start_unix_server(lambda _, writer: writer.close(), place):
            stream = Stream(*await asyncio.open_unix_connection(place))
            stream.write("demand", wants=[])
            first = asyncio.create_task(stream.close())
            await asyncio.sleep(0)
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await first
            async with asyncio.timeout(5):
                await stream.close()

    for number, loop in enumerate((asyncio.new_event_loop, uvloop.new_event_loop)):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main(str(tmp_path / f"{number}")))
