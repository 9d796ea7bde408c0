"""Room at Slurm: how many jobs of a program may be queued or running there at a time."""

from __future__ import annotations

import asyncio


class Room:
    """How many jobs may be with Slurm at a time; first come, first served."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._inside = 0
        self._queue: list[asyncio.Future[None]] = []

    async def enter(self, at_once: bool) -> None:
        """Wait for room; with `at_once` (it is with Slurm already), count only."""
        while not at_once and self._limit is not None and self._inside >= self._limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._queue:
                    self._queue.remove(turn)
                else:  # its turn had come, and it is not there to take it
                    self._wake()
                raise
        self._inside += 1

    def leave(self) -> None:
        """Make room."""
        self._inside -= 1
        self._wake()

    def _wake(self) -> None:
        if self._queue:
            turn = self._queue.pop(0)
            if not turn.done():
                turn.set_result(None)
