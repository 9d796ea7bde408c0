"""Handles Ctrl-C, SIGTERM and SIGHUP in a program that has jobs with Slurm.

On a terminal, Ctrl-C asks: leave the jobs with Slurm, cancel them, or continue. A second Ctrl-C leaves them. Without a
terminal, and on SIGTERM and SIGHUP, the jobs are left: a job left by mistake costs a `scancel`, a job cancelled by
mistake costs all that it has computed.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, Signals, getsignal
from typing import Any, Literal, TypeAlias

import attrs
from rich.console import Console

from hyperflow.console.display import LiveTable, say
from hyperflow.console.table import jobs_in_words
from hyperflow.master.lifecycle import WITH_SLURM
from hyperflow.master.master import Master

Policy: TypeAlias = Literal["ask", "leave", "cancel"]

QUESTION = (
    "\nInterrupted, with {jobs} at Slurm.\n"
    "  l  leave there; `hyperflow resume` continues later (also: Ctrl-C)\n"
    "  c  cancel\n"
    "  g  go on\n"
    "l, c or g? "
)


@attrs.define(eq=False)
class Interruption:
    """Ends a program after a signal: `signal`. Tells whether its jobs are `cancelled`."""

    _work: asyncio.Future[Any]
    _master: Master
    _display: LiveTable
    _console: Console
    _policy: Policy
    signal: Signals | None = attrs.field(default=None, init=False)
    cancelled: bool = attrs.field(default=False, init=False)
    _question: asyncio.Task[None] | None = attrs.field(default=None, init=False)
    _ending: asyncio.Task[None] | None = attrs.field(default=None, init=False)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals within a scope; an ignored one, such as SIGHUP under nohup, stays ignored."""
        loop = asyncio.get_running_loop()
        ours = (SIGINT, SIGTERM, SIGHUP)
        heard = [number for number in ours if getsignal(number) is not SIG_IGN]
        for number in heard:
            handler = self._interrupted if number is SIGINT else functools.partial(self._end, number, False)
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    async def settled(self) -> None:
        """Withdraw a pending question, and wait until the decision is carried out."""
        if self._question is not None:
            self._question.cancel()
            await asyncio.wait([self._question])
        if self._ending is not None:
            await self._ending

    def _interrupted(self) -> None:
        if self.signal is not None:  # it takes long: from now on, Ctrl-C is a KeyboardInterrupt
            waits = "the jobs to end" if self._master.batch.local else "Slurm"
            stay = "" if self._master.batch.local else ", and jobs may stay there"
            say(self._console, f"still waiting for {waits}; another Ctrl-C ends this at once{stay}")
            asyncio.get_running_loop().remove_signal_handler(SIGINT)
        elif self._question is not None and not self._question.done():
            self._end(SIGINT, False)
        elif self._policy == "ask" and not self._master.batch.local and self._jobs() and _somebody_is_there():
            self._question = asyncio.create_task(self._ask(), name="question after Ctrl-C")
        else:
            self._end(SIGINT, self._policy == "cancel")

    def _jobs(self) -> list[int]:
        return self._master.numbers(*WITH_SLURM)

    async def _ask(self) -> None:
        self._display.aside()
        try:
            while True:
                jobs = jobs_in_words(len(self._jobs()))
                self._console.print(QUESTION.format(jobs=jobs), markup=False, highlight=False, end="")
                answer = (await _line()).strip().lower()[:1]
                if answer in ("l", "c"):
                    self._end(SIGINT, answer == "c")
                if answer in ("l", "c", "g"):
                    return
        except EOFError:
            self._end(SIGINT, False)
        finally:
            self._display.back()

    def _end(self, number: Signals, cancel_jobs: bool) -> None:
        if self.signal is not None:
            return
        self.signal, self.cancelled = number, cancel_jobs
        if self._question is not None:
            self._question.cancel()
        self._ending = asyncio.create_task(self._leave(), name="end of the program")

    async def _leave(self) -> None:
        if self.cancelled:
            say(self._console, "cancelling the jobs ...")
        try:
            await self._master.leave(cancel_jobs=self.cancelled)
        finally:
            self._work.cancel()


def _somebody_is_there() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


async def _line() -> str:
    """Return the next line of standard input; raises EOFError at its end."""
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[bytes] = loop.create_future()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        try:
            data = os.read(descriptor, 4096)
        except OSError:
            data = b""
        if not typed.done():
            typed.set_result(data)

    loop.add_reader(descriptor, read)
    try:
        data = await typed
    finally:
        loop.remove_reader(descriptor)
    if not data:
        raise EOFError
    return data.decode(errors="replace")
