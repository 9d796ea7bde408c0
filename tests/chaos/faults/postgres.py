"""A PostgreSQL server: restarted, killed, away, silent, slow, full, another one in its place, its rights taken away."""

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable

from tests.chaos import boxes
from tests.chaos.case import Case, NotRun, nothing
from tests.chaos.faults.processes import NODE, members, middle
from tests.chaos.postgres_run import DATABASE, PostgresRun, copy
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.chaos.workload import Workload

LONG = Workload(keys=100)
LONGER = Workload(keys=120, limit=4)
"""Little is computed while nothing can be recorded."""


def server_of(run: Run) -> PostgresRun:
    """Return the run as what it is."""
    assert isinstance(run, PostgresRun)
    return run


def at_work(run: Run) -> PostgresRun:
    """Wait for some moment while evaluations run."""
    middle(run)
    return server_of(run)


def pause(run: Run, least: float, most: float) -> None:
    """Wait for a time that is chosen at random."""
    time.sleep(run.rng.uniform(least, most))


# ------------------------------------------------------------------------------------------------- away, and back


def restarted(run: Run, number: signal.Signals, times: int = 1) -> None:
    """Restart the server; it is away for some seconds."""
    for _ in range(times):
        here = at_work(run)
        here.server.stop(number)
        pause(run, 0, 2)
        here.server.start()


def gone(run: Run) -> None:
    """End the server for longer than anybody waits for it."""
    at_work(run).server.stop()
    run.wait()
    server_of(run).server.start()
    run.start()


def disconnected(run: Run) -> None:
    """End the connections of the program, again and again."""
    here = at_work(run)
    for _ in range(8):
        here.server.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", DATABASE)
        pause(run, 0, 0.4)


def backend_killed(run: Run) -> None:
    """Kill the process that serves the program: the server ends all connections, and recovers."""
    here = at_work(run)
    if not (serving := here.serving()):
        raise NotRun("nobody served the program at that moment")
    send(serving[0], signal.SIGKILL)


# ------------------------------------------------------------------------------------------------ silent, and slow


def silent(run: Run, whole: bool) -> None:
    """Stop the process that serves the program, or all of the server, for good."""
    here = at_work(run)
    stopped = here.backends() if whole else here.serving()
    if not stopped:
        raise NotRun("nobody served the program at that moment")
    for pid in stopped:
        send(pid, signal.SIGSTOP)
    run.wait()
    for pid in stopped:
        send(pid, signal.SIGCONT)
    run.start()


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process of the server, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def slow(run: Run) -> None:
    """Let the server stand still most of the time."""
    here = at_work(run)
    for _ in range(12):
        stopped = here.backends()
        for pid in stopped:
            send(pid, signal.SIGSTOP)
        pause(run, 0.1, 0.6)
        for pid in stopped:
            send(pid, signal.SIGCONT)
        pause(run, 0, 0.1)


def locked(run: Run, seconds: float) -> None:
    """Hold a lock on the table, as a careless administrator does."""
    here = at_work(run)
    here.server.admin(f"BEGIN; LOCK TABLE hyperflow_entries; SELECT pg_sleep({seconds}); COMMIT", database=DATABASE)


# ------------------------------------------------------------------------------------------- another, full, refused


def another_takes_over(run: Run, older: bool) -> None:
    """Put another server into the place of the first: an empty one, or one from an older copy."""
    here = server_of(run)
    other = here.files / "other"
    other.mkdir()
    if older:
        at_work(run)
        here.server.stop()
        copy(here.files, other)
        here.server.start()
        run.until("ack", min(run.workload.keys, run.seen("ack") + 10))
    else:
        copy(here.template, other)
        at_work(run)
    here.server.stop()
    if run.seen("ack") > run.workload.keys - 10:
        raise NotRun("the work was done before")
    (here.files / "data").rename(here.files / "first")
    (other / "data").rename(here.files / "data")
    here.server.start()
    run.wait()
    run.start()


def replaced_between(run: Run) -> None:
    """Kill all; when the program starts again, another server is there."""
    here = at_work(run)
    for process in members(run, ("head", *NODE)):
        process.signal(signal.SIGKILL)
    run.wait()
    here.server.stop()
    copy(here.template, here.files)
    here.server.start()
    run.start()


def small_disk(run: Run) -> None:
    """Give the server a disk of its own."""
    here = server_of(run)
    owner = here.files.stat()
    boxes.mount(run, here.files, "size=120m")
    os.chown(here.files, owner.st_uid, owner.st_gid)
    copy(here.template, here.files)


def full(run: Run) -> None:
    """Fill the server's disk."""
    boxes.fill(at_work(run).files)


def emptied(run: Run) -> None:
    """Free the server's disk; if it has ended for that, start it again."""
    here = server_of(run)
    boxes.free(here.files)
    if not here.server.running:
        here.server.start()


def sequence_set_back(run: Run) -> None:
    """Set the numbers of entries back, as a restore of the data alone does, and end the connections."""
    here = at_work(run)
    here.server.admin("ALTER TABLE hyperflow_entries ALTER id RESTART WITH 1", database=DATABASE)
    disconnected(run)


def ordered(run: Run, statement: str) -> None:
    """Give an order as the administrator, and end the connections, so that it holds."""
    here = at_work(run)
    here.server.admin(statement, database=DATABASE)
    here.server.admin("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", DATABASE)


def taken_back(run: Run, statement: str) -> None:
    """Give an order as the administrator."""
    server_of(run).server.admin(statement, database=DATABASE)


# ----------------------------------------------------------------------------------------------------------- cases


def head_killed_with(run: Run, number: signal.Signals) -> None:
    """Kill the head, and end the server at the same moment."""
    here = at_work(run)
    for process in members(run, ("head",)):
        process.signal(signal.SIGKILL)
    here.server.stop(number)
    run.wait()
    here.server.start()
    run.start()


def _case(name: str, attack: Callable[[Run], None], **more: object) -> Case:
    settings: dict[str, object] = {"workload": LONG, "world": "postgres", **more}
    return Case(table="PostgreSQL", name=name, attack=attack, **settings)  # type: ignore[arg-type]


def part(attack: Callable[..., None], **more: object) -> Callable[[Run], None]:
    """Return an attack with its details."""
    return functools.partial(attack, **more)


AWAY = r"tried for|is lost|silent"
ANOTHER = "is not there any more"
RIGHTS = (
    ("read-only", f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on", "only be read|read-only",
     f"SET transaction_read_only = off; ALTER DATABASE {DATABASE} RESET default_transaction_read_only"),
    ("login refused", "ALTER ROLE anna NOLOGIN", "not permitted to log in", "ALTER ROLE anna LOGIN"),
    ("rights taken", "ALTER TABLE hyperflow_entries OWNER TO admin", "denied|GRANT",
     "ALTER TABLE hyperflow_entries OWNER TO anna"),
    ("connections used up", "ALTER ROLE anna CONNECTION LIMIT 0", "too many", "ALTER ROLE anna CONNECTION LIMIT -1"),
)  # fmt: skip

TABLE = (
    _case("restarted", part(restarted, number=signal.SIGINT), survives=True),
    _case("restarted three times", part(restarted, number=signal.SIGINT, times=3), survives=True),
    _case("killed and started", part(restarted, number=signal.SIGQUIT), survives=True),
    _case("backend killed", backend_killed, survives=True),
    _case("connections ended", disconnected, survives=True),
    _case("away for good", gone, told=AWAY),
    _case("backend silent", part(silent, whole=False), survives=True),
    _case("silent", part(silent, whole=True), told=AWAY),
    _case("slow", slow, survives=True),
    _case("table locked for 3 s", part(locked, seconds=3), survives=True),
    _case("sequence set back", sequence_set_back, survives=True),
    _case("disk full", full, before=small_disk, mend=emptied, told="space|" + AWAY),
    _case(
        "an empty one takes over",
        part(another_takes_over, older=False),
        workload=LONGER,
        tries=frozenset({Promise.DAMAGE}),
        told=ANOTHER,
    ),
    _case(
        "an older copy takes over",
        part(another_takes_over, older=True),
        workload=LONGER,
        tries=frozenset({Promise.DAMAGE}),
        told=ANOTHER,
    ),
    _case(
        "an empty one is there at the next start",
        replaced_between,
        excused={Promise.DURABLE: "a program that begins cannot know what another server had"},
    ),
    *(
        _case(name, part(ordered, statement=order), told=told, mend=part(taken_back, statement=back))
        for name, order, told, back in RIGHTS
    ),
    *(
        _case(f"and head {name} at once", part(head_killed_with, number=number))
        for name, number in (("killed", signal.SIGQUIT), ("ended", signal.SIGINT))
    ),
    _case("nothing breaks", nothing, survives=True, quiet=True),
)
