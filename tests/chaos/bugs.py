"""Bugs on purpose: named replacements of one function each, for `controls.py`.

With CHAOS_BUG=NAME in its environment and `installed` on its PYTHONPATH, each Python process of a run has the bug, on
all hosts. It is put in when the module has been imported, before anybody can use it. Nothing but
the standard library is imported here, because this runs at the start of each of these processes.
"""

import asyncio
import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

VARIABLE = "CHAOS_BUG"


class Bug(NamedTuple):
    """Which function is replaced, and by what: `make` gets the right one."""

    module: str
    function: str
    make: Callable[[Any], Any]


def acknowledge_before_commit(record: Any) -> Any:
    """A result is acknowledged at once, and written a little later."""
    later: set[asyncio.Future[None]] = set()

    def early(*arguments: Any) -> asyncio.Future[None]:
        def write() -> None:
            with contextlib.suppress(Exception):  # the database has been closed meanwhile
                later.add(record(*arguments))

        loop = asyncio.get_running_loop()
        loop.call_later(0.3, write)
        done = loop.create_future()
        done.set_result(None)
        return done

    return early


def lock_freed_early(take: Any) -> Any:
    """A function on a worker gets its lock, and the next one does, too."""

    def taken(client: Any, keys: Any) -> Any:
        number = take(client, keys)
        client.release(number)
        return number

    return taken


def private_checks_off(objection: Any) -> Any:
    """Nobody asks who could have written a file."""
    return lambda found: ""


def no_checksum(is_sound: Any) -> Any:
    """Each entry of the database is taken for sound."""
    return lambda *entry: True


def no_clean_up(kill_all: Any) -> Any:
    """What is left of workers is not ended."""
    return lambda pids, signum=9: None


def stale_recall(retract: Any) -> Any:
    """The launcher publishes what the worker had started a moment ago, and believes that."""

    def stale(page: Any, below: Any) -> Any:
        started = page.started
        time.sleep(0.03)
        page.words[page.BELOW] = below
        page.words[page.FROM] = started + 1
        return started + 1

    return stale


def cpus_returned_early(take: Any) -> Any:
    """The CPUs of a worker are free as soon as it has them."""

    def taken(crew: Any, *args: Any) -> Any:
        worker, is_new = take(crew, *args)
        crew.release(worker)
        return worker, is_new

    return taken


def older_start_taken(read_result: Any) -> Any:
    """The first result that a job has left is read, from whichever start."""
    return lambda directory, epoch: read_result(directory, directory.results()[0])


def rows_dropped(read: Any) -> Any:
    """When the rows of a job are taken over, one of each piece gets lost."""

    def fewer(*arguments: Any) -> Any:
        piece = read(*arguments)
        del piece.rows[:1]
        return piece

    return fewer


def cancelled_is_retried(cancel: Any) -> Any:
    """A cancelled evaluation is killed, and not forgotten."""

    def killed(endings: Any, evaluation: Any) -> None:
        if evaluation.task.worker is not None:
            endings._head.scheduler.kill(evaluation.task.worker)
            endings._head.flush_soon()
        else:
            cancel(endings, evaluation)

    return killed


def heartbeat_ignored(beat: Any) -> Any:
    """Nobody notices that a node is silent."""
    return lambda link, now, lapse: None


def fsync_left_out(prepare: Any) -> Any:
    """SQLite does not wait for the disk."""

    def prepared(connection: Any, path: Any) -> Any:
        wal = prepare(connection, path)
        connection.execute("PRAGMA synchronous = OFF")
        return wal

    return prepared


BUGS: dict[str, Bug] = {
    "acknowledge before commit": Bug("hyperflow.database.store", "Store.record", acknowledge_before_commit),
    "lock freed early": Bug("hyperflow.worker.lock_client", "LockClient.take_blocking", lock_freed_early),
    "private checks off": Bug("hyperflow.private", "objection", private_checks_off),
    "no checksum": Bug("hyperflow.database.entries", "is_sound", no_checksum),
    "no clean-up": Bug("hyperflow.wire.processes", "kill_all", no_clean_up),
    "stale recall": Bug("hyperflow.wire.claim_page", "ClaimPage.retract", stale_recall),
    "CPUs returned early": Bug("hyperflow.scheduling.crew", "Crew.take", cpus_returned_early),
    "result of an older start taken": Bug("hyperflow.master.rundir", "JobDirectory.read_result", older_start_taken),
    "rows dropped in a merge": Bug("hyperflow.database.ingest", "_read", rows_dropped),
    "retry of a cancelled": Bug("hyperflow.head.endings", "Endings.cancelled", cancelled_is_retried),
    "heartbeat ignored": Bug("hyperflow.head.link", "Link.beat", heartbeat_ignored),
    "fsync left out": Bug("hyperflow.database.file", "_prepare", fsync_left_out),
}


def install() -> None:
    """Put the bug into this process that its environment names, if it names one."""
    if (name := os.environ.get(VARIABLE)) is not None:
        sys.meta_path.insert(0, _Replacing(BUGS[name]))


class _Replacing(MetaPathFinder):
    """Lets a module be found as usual, and replaces the function when it has been executed."""

    def __init__(self, bug: Bug) -> None:
        self.bug = bug

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find the one module that has the function."""
        if name != self.bug.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            replace(module, self.bug)

        loader.exec_module = exec_module
        return spec


def replace(module: ModuleType, bug: Bug) -> None:
    """Replace the function."""
    *path, last = bug.function.split(".")
    owner: Any = module
    for name in path:
        owner = getattr(owner, name)
    setattr(owner, last, bug.make(getattr(owner, last)))
