"""A Cluster program on this machine: its master killed, results that come late, and results of another user's.

What needs Slurm is in `master`, `run_files` and `slurm_commands`; here is what can be tried in a few seconds.
"""

import functools
import signal

from hyperflow.master import calls
from hyperflow.master.lifecycle import Epoch
from hyperflow.master.rundir import VALUE, JobDirectory
from tests.chaos.case import Case, NotRun, nothing
from tests.chaos.faults.processes import chosen
from tests.chaos.faults.run_files import another_users
from tests.chaos.here_run import HereRun
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.chaos.workload import Workload
from tests.helpers import block_until

WORK = Workload(keys=30, seconds=0.15, world="cluster", jobs=2, words=("--local", "--on-error", "raise"))
FIRST = Epoch(1, 0)


def kill_master(run: Run, number: signal.Signals = signal.SIGKILL, times: int = 1) -> None:
    """Kill the master at work; its jobs end with it."""
    for time in range(times):
        run.at_work()
        chosen(run, "head").signal(number)
        run.wait()
        block_until(lambda: not run.left(), 15, "the jobs have ended with their master", state=run.left)
        if time < times - 1:
            run.start()


def directory(run: Run, number: int) -> JobDirectory:
    """Return the directory of a job."""
    assert isinstance(run, HereRun)
    if run.home is None:
        raise NotRun("there was no run directory")
    return JobDirectory(run.home / "jobs" / str(number))


def late_result(run: Run) -> None:
    """Let the result of a job's first start come when the second one is at work, as from a node that comes back."""
    kill_master(run)
    began = [entry for entry in run.ledger.entries() if entry.what == "began"]
    if len(began) != 1:
        raise NotRun("the first job had ended before")
    (first,) = began
    run.start()
    run.until("began", 1)
    place = directory(run, first.key + 1)
    if not run.running or place.results():
        raise NotRun("the job had ended before")
    place.write_result(FIRST, 1, VALUE, calls.pack_value(first.told, "a job"))


def result_of_another(run: Run) -> None:
    """Let another user have written the result of a job, which the program has when it is resumed."""
    run.until("received", 1)
    chosen(run, "head").signal(signal.SIGKILL)
    run.wait()
    block_until(lambda: not run.left(), 15, "the jobs have ended with their master", state=run.left)
    (key, *_) = [entry.key for entry in run.ledger.entries() if entry.what == "received"]
    path = directory(run, key + 1).result(FIRST)
    if not path.exists():
        raise NotRun("the job has no result")
    another_users(run, path)
    run.start()


_case = functools.partial(Case, table="programs", workload=WORK, world="here", tries=frozenset({Promise.NEWEST}))

TABLE = (
    _case(name="nothing breaks", attack=nothing, survives=True, quiet=True),
    *(
        _case(name=f"master {number.name[3:]} at work", attack=functools.partial(kill_master, number=number))
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)
    ),
    _case(name="master KILL twice", attack=functools.partial(kill_master, times=2)),
    _case(name="a late result of an older start", attack=late_result, survives=True),
    _case(
        name="result of another user's",
        attack=result_of_another,
        tries=frozenset({Promise.NEWEST, Promise.PRIVATE}),
        told="belongs to user",
    ),
)
