"""Turns of the event loop, for what blocks it some milliseconds, such as bringing a file to the disk.

A hundred calls at once, or one answer of squeue about a hundred jobs, would block it for seconds: `hyperflow list`, the
table and Ctrl-C would have to wait. So each waits for a turn of its own, in the order of arrival, and between two of
them everybody else has one. (Rejected: writing in threads. What comes after what on the disk is what a kill at any
moment is safe by, and has to be seen in the code.)
"""

from __future__ import annotations

import asyncio


class Turns:
    """Gives out one turn in each round of the event loop."""

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()
        self._given = False

    async def wait(self) -> None:
        """Wait for a turn; the first in a round has it at once."""
        async with self._one_at_a_time:
            if self._given:
                await asyncio.sleep(0)
            self._given = True
            asyncio.get_running_loop().call_soon(self._next_round)

    def _next_round(self) -> None:
        self._given = False
