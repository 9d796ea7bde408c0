"""The manager of a named pool: a process of the user's by itself, which holds its allocations and lends their nodes.

    python -c "... from hyperflow.pools.named.manager import main; main()" NAME

`hyperflow pool start` starts it, in a session of its own: no terminal can hang it up, and its output goes to the pool's
log. What the pool may have stands in pool.json.

Guarantees:
- One manager at a time has a pool: the lock of its allocations' directory (see `journal`) refuses a second one.
- Killed, it leaves everything as it is: allocations live for some minutes (see `claim`), programs go on. The next
  manager of this pool takes the allocations over by its journal, and keeps what programs have for them.
- SIGTERM ends it as `hyperflow pool stop --now` does. It ends by itself when nobody has used the pool for a day.
- The allocation that `hyperflow pool start` asks for at once is given back when no program has wanted anything for the
  idle timeout, and asked for again when one does; unless the user has named a least number of allocations.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import attrs

from hyperflow._version import __version__
from hyperflow.aio import settled
from hyperflow.config import read_settings
from hyperflow.control import pools, server
from hyperflow.control.place import listening
from hyperflow.errors import ConfigurationError, HyperflowError, LauncherError
from hyperflow.pools.named import leases, loans, named
from hyperflow.pools.named.lender import Lender
from hyperflow.pools.named.named import ALLOCATIONS, LEASES, About, Named
from hyperflow.pools.pool import Pool
from hyperflow.pools.users import PoolNode

logger = logging.getLogger("hyperflow.pools")

UNUSED_SECONDS = 24 * 3600.0
"""After so long without any use it ends."""

LOOK = 1.0
"""Seconds between two looks whether it is used."""

READY = "HYPERFLOW_POOL_READY"
"""The variable with the number of the descriptor by which the manager says that it is there, or why not."""


async def _cpus_of(host: PoolNode) -> int:
    """Return how many CPUs a process has on a host, by ssh; raises LauncherError."""
    from hyperflow.transports.ssh import Ssh  # noqa: PLC0415 (asyncssh costs 0.1 s, and most pools have no hosts)

    count = "import os; print(len(os.sched_getaffinity(0)))"
    said = await Ssh(host.host or host.name, read_settings()).output([sys.executable, "-P", "-c", count])
    if not said.split() or not said.split()[-1].isdecimal():
        raise LauncherError(f"{host.name}: asked for its number of CPUs, it says {said[:200]!r}")
    return int(said.split()[-1])


class Manager:
    """Holds a pool until somebody stops it. For the control API it is the pool, with programs."""

    def __init__(self, pool: Named, held: Pool) -> None:
        self.pool = held
        self.lender = Lender(pool.name, pool.home, held.wake, _cpus_of)
        self._named = pool
        self._ending = asyncio.Event()
        self._cause = ""
        self._keeps = pool.about.keeps
        self.about: About | None = None
        """What pool.json says, once this process manages the pool: also what was changed, for the next one."""

    def info(self) -> dict[str, Any]:
        cpus, lent = self.lender.cpus()
        shown = self.pool.info()
        if self._cause:
            shown |= {"state": "stopping", "why": self._cause}
        return {**shown, "name": self._named.name, "cpus": cpus, "cpus_lent": lent, "programs": self.lender.table()}

    def set(self, **changes: Any) -> None:
        self.pool.set(**changes)
        self._keeps = self._keeps or "min_allocations" in changes
        if self.about is not None:
            self.about = attrs.evolve(self.about, options=self.about.options.changed(**changes), keeps=self._keeps)
            with suppress(ConfigurationError):  # a full disk: it counts until this process ends
                _write(self._named, self.about)

    def pause(self) -> None:
        self.pool.pause()

    def resume(self, **changes: Any) -> None:
        self.pool.resume(**changes)

    def asked(self) -> int:
        return 0

    def keep_away(self, node: str, /) -> None:
        pass  # nodes of a named pool are given back by its programs

    def take_back(self, node: str, /) -> bool:
        del node
        return False

    def stop(self, cause: str, now: bool) -> None:
        """End: at once, or when programs have nothing any more."""
        self._cause = self._cause or cause
        self.lender.stop(f"is stopped ({cause})")
        if now:
            self._ending.set()

    async def run(self) -> str:
        """Return why it ends."""
        while not self._ending.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._ending.wait()
            idle = time.monotonic() - self.lender.last_wanted
            if self._cause and self.lender.is_idle():
                break
            if self.pool.options.min_allocations and not self._keeps and idle > self.pool.options.idle_timeout:
                logger.info("no program has wanted anything for %.0f s: allocations are given back", idle)
                self.pool.set(min_allocations=0)
            if idle > UNUSED_SECONDS and not self.lender.programs:
                self._cause = "nobody has used it for a day"
                break
        return self._cause


@asynccontextmanager
async def _leases(pool: Named, lender: Lender) -> AsyncIterator[None]:
    """Let programs borrow, within a scope."""
    (pool.home / LEASES).mkdir(mode=0o700, exist_ok=True)
    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(lender.serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    with listening(pool.home / LEASES) as (listener, _):
        serving_on = await asyncio.start_unix_server(accept, sock=listener, limit=leases.LONGEST)
        lending = asyncio.create_task(lender.run(), name="lending")
        try:
            yield
        finally:
            serving_on.close()
            ending = [lending, *serving]
            for task in ending:
                task.cancel()
            await settled(*ending)


async def manage(pool: Named, ready: Any) -> None:
    """Be the manager of a pool until it is stopped.

    Args:
        pool: Which one.
        ready: Called when programs may come.

    Raises:
        ConfigurationError: It has a manager, or Slurm does not take what it wants.
    """
    held = Pool(pool.about.options, pool.home / ALLOCATIONS, pool.name, read_settings())
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(held)  # who has its lock is the manager
        mine = Manager(pool, held)
        mine.lender.remember()
        about = attrs.evolve(pool.about, manager=named.this_process(pool.name), ended=None, cause="")
        _write(pool, about)
        mine.about = about
        for number in (signal.SIGTERM, signal.SIGINT):
            name = signal.Signals(number).name
            asyncio.get_running_loop().add_signal_handler(number, mine.stop, f"{name} has come", True)
        async with held.serving(mine.lender), _leases(pool, mine.lender), server.serve(pool.home, _routes(mine)):
            ready()
            cause = await mine.run()
            mine.lender.stop(f"has ended ({cause})")
            await mine.lender.release_all(cause)
    with suppress(OSError):
        (pool.home / loans.FILE).unlink(missing_ok=True)
    _write(pool, attrs.evolve(about, manager=None, ended=time.time(), cause=cause, options=pool.about.options))


def _write(pool: Named, about: About) -> None:
    try:
        named.write(pool.home, about)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {pool.home}/{named.FILE}: {error.strerror or error}; free space there, or set "
            "XDG_STATE_HOME to another directory"
        ) from error


def _routes(mine: Manager) -> list[Any]:
    web = importlib.import_module("aiohttp.web")

    async def stop(request: Any) -> Any:
        body = await server.read_body(request, "now", "cause")
        mine.stop(str(body.get("cause") or "`hyperflow pool stop`")[:1000], body.get("now") is True)
        return web.json_response(mine.info())

    return [*pools.routes(lambda: mine), web.post("/pool/stop", stop)]


def main() -> None:
    """Run the manager of the pool that the command line names."""
    (name,) = sys.argv[1:]
    number = int(os.environ.pop(READY))

    def tell(**said: Any) -> None:
        nonlocal number
        if number >= 0:
            with suppress(OSError):  # whoever has started us did not wait
                os.write(number, json.dumps(said).encode() + b"\n")
            os.close(number)
            number = -1

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logger.info(
        "process %d on %s manages the pool %s (hyperflow %s)", os.getpid(), socket.gethostname(), name, __version__
    )
    try:
        pool = named.read(name)
        if pool is None:
            raise ConfigurationError(f"there is no pool {name}")
        asyncio.run(manage(pool, tell))
    except HyperflowError as error:
        logger.error("%s", error)
        tell(error=str(error))
        sys.exit(1)
    except Exception as error:
        logger.exception("a defect")
        tell(error=f"{type(error).__name__}: {error}")
        raise
    logger.info("the end")
