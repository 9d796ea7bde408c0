"""An environment for the cells of a notebook: opened in one, in force in all later ones, closed when asked to.

    env = await hf.start_local(cpus=4)
    await my_job()                          # in this cell and all later ones
    await env.close()

Guarantees: on the event loop where it was started, the environment is in force wherever no other is; scopes win. It is
opened and closed by one task of its own. Interrupting a cell cancels what the cell awaits and leaves it open. The end
of the event loop or of the interpreter closes it, if nobody has, and what is temporary goes.

Why not a context variable, as for a scope: each cell runs in a copy of the kernel's context, so what one cell sets is
gone in the next. Why not a global variable: an environment belongs to one event loop, and other threads have others.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import attrs

from hyperflow import cells, environment
from hyperflow._job import JobEnv, open_local_job
from hyperflow.aio import before_exit
from hyperflow.errors import MisuseError
from hyperflow.saying import short_repr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hyperflow.environment import Environment
    from hyperflow.program import ProgramInfo

E = TypeVar("E", bound="Environment")

_starting: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
"""The event loops on which one is being opened."""


EXIT_SECONDS = 4.0
"""How long the interpreter's end waits for that of an environment. Jupyter kills a kernel that takes five."""


@attrs.define(eq=False)
class _Holder:
    """A task that opens an environment, holds it until it is told to close, and closes it."""

    opener: AbstractAsyncContextManager[Any]
    opened: asyncio.Future[Any]
    closing: asyncio.Event = attrs.field(factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def hold(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self.opener as env:
                if not isinstance(env, environment.Environment):
                    raise MisuseError(f"start: what was opened is no environment but {short_repr(env, 100)}")
                environment.set_started(loop, env)
                environment.closers[env] = self.close
                unwatch = cells.watch()
                self.opened.set_result(env)
                try:
                    with suppress(asyncio.CancelledError):  # the loop ends: as if it had been asked to close
                        await self.closing.wait()
                finally:
                    environment.set_started(loop, None)
                    if unwatch is not None:
                        unwatch()
        except BaseException as error:
            if self.opened.done():
                raise
            if isinstance(error, asyncio.CancelledError):
                self.opened.cancel()
            else:
                self.opened.set_exception(error)

    def close_at_exit(self) -> None:
        """Close the environment when the interpreter ends, if its loop can still do that."""
        if self.task is None or self.task.done():
            return
        loop = self.task.get_loop()
        if loop.is_closed() or loop.is_running():
            return
        self.closing.set()
        deadline = loop.time() + EXIT_SECONDS
        loop.call_at(deadline, loop.stop)
        while not self.task.done() and loop.time() < deadline:  # what a kernel has left in its loop may stop it, too
            with suppress(Exception):
                loop.run_until_complete(self.task)

    async def close(self) -> None:
        """Close the environment, from the loop where it was opened."""
        assert self.task
        if self.task.done():
            return
        if self.task.get_loop().is_closed():
            raise MisuseError(
                "env.close(): the event loop of this environment has ended before it was closed; its processes end "
                "with this one. Open another one here: env = await hyperflow.start_local()"
            )
        if self.task.get_loop() is not asyncio.get_running_loop():
            raise MisuseError("env.close(): the environment belongs to another event loop; close it there")
        self.closing.set()
        await asyncio.shield(self.task)


_holders: WeakSet[_Holder] = WeakSet()


def _close_all() -> None:
    for holder in list(_holders):
        holder.close_at_exit()


before_exit(_close_all)


async def start(opener: AbstractAsyncContextManager[E]) -> E:
    """Open an environment that stays: `env = await start(open_slurm_job())` in a cell, `await flow` in all later ones.

    Args:
        opener: open_local_job(...), open_slurm_job(...), open_cluster(...): what `async with` would take.

    It is in force on this event loop, wherever no other is, until `await env.close()`. When the kernel ends, its
    processes end. Interrupting a cell cancels what the cell awaits; the environment stays. Cancelling the start itself
    closes what was opened so far.

    Raises:
        MisuseError: An environment was started here already.

    Also what the opener raises.
    """
    loop = asyncio.get_running_loop()
    if environment.started() is not None or loop in _starting:
        raise MisuseError(
            "an environment was started in this kernel (on this event loop) already, and is in force here: use it, or "
            "close it first: await env.close()"
        )
    if not isinstance(opener, AbstractAsyncContextManager):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MisuseError(
            f"start({opener!r}): write await hyperflow.start(hyperflow.open_slurm_job()), or "
            "await hyperflow.start_local(cpus=4)"
        )
    holder = _Holder(opener, loop.create_future())
    holder.task = loop.create_task(holder.hold(), name="hyperflow holds an environment")
    _holders.add(holder)
    _starting.add(loop)
    try:
        env: E = await asyncio.shield(holder.opened)
    except asyncio.CancelledError:
        holder.closing.set()  # an opener may have come to its end in spite of the cancel
        holder.task.cancel()
        with suppress(BaseException):
            await holder.task
        raise
    finally:
        _starting.discard(loop)
    return env


async def start_local(  # noqa: PLR0913 (those of open_local_job)
    *,
    cpus: int | None = None,
    gpus: Sequence[str] | None = None,
    memory: int | str | None = None,
    resources: Mapping[str, int] | None = None,
    program: ProgramInfo | None = None,
    preload: Sequence[str] = (),
    echo: bool = False,
    progress: bool = True,
    scratch: str | None = None,
    cache: int | str | None = None,
) -> JobEnv:
    """Open an environment on this machine that stays: `env = await start_local(cpus=4)` in a cell of a notebook.

    Takes the arguments of open_local_job; see `start` for the rest.
    """
    return await start(
        open_local_job(
            cpus=cpus,
            gpus=gpus,
            memory=memory,
            resources=resources,
            program=program,
            preload=preload,
            echo=echo,
            progress=progress,
            scratch=scratch,
            cache=cache,
        )
    )
