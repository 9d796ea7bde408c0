"""{every command of Slurm that a master or a job uses} x {empty, cut, slow, lies, hangs, error, killed} x {moments}."""

import functools
from collections.abc import Callable

import attrs

from tests.chaos.case import Case, NotRun
from tests.chaos.login_run import COMMANDS, LoginRun
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.chaos.workload import Workload

# The third job is submitted while the others run.
WORK = Workload(keys=36, seconds=0.4, world="cluster", jobs=3, words=("--on-error", "raise", "--max-jobs", "2"))

LONG = attrs.evolve(WORK, keys=72, seconds=0.8)
"""Jobs that still run when squeue has not listed them twice, or when somebody has typed `hyperflow cancel`."""

AWAY = "Unable to contact slurm controller (connect failure)"

WAYS = {
    "is empty": "exit 0",
    "is cut": 'out=$(mktemp); real "$@" > $out; head -c $(($(stat -c %s $out) * 2 / 3)) $out; rm $out; exit 0',
    "is slow": 'sleep 2; real "$@"; exit $?',
    "hangs": "exec sleep 1000",
    "says that Slurm is away": f'echo "error: {AWAY}" >&2; exit 1',
    "says something unknown": 'echo "quota service: internal problem 17" >&2; exit 3',
    "prints rubbish": "head -c 4000 /dev/urandom; exit 0",
    "is killed": "kill -9 $$",
    "does it, then hangs": 'real "$@" > /dev/null; exec sleep 1000',
    "does it, then fails": 'real "$@" > /dev/null; echo "error: Socket timed out on send/recv operation" >&2; exit 1',
}
"""What can happen to any command."""

GONE = "slurm_load_jobs error: Invalid job id specified"


def _says(state: str) -> str:
    """Let squeue give jobs that have not ended another state."""
    return f'real "$@" | sed "s/RUNNING/{state}/; s/PENDING/{state}/"; exit 0'


ACCOUNTS = """for word in "$@"; do case $word in --jobs=*)
for job in $(echo ${word#--jobs=} | tr , " "); do printf '%s\\037FAILED\\0371:0\\037node1\\037x\\037x\\n' $job; done
esac; done; exit 0"""

LIES = {
    "sbatch": {
        "tells another number": 'real "$@" > /dev/null; echo 4000000; exit 0',
        "only pretends": "echo 4000000; exit 0",
    },
    "squeue": {
        "leaves jobs out": 'real "$@" | tail -n 0; exit 0',
        "says that all are pending": _says("PENDING"),
        "says that all have failed": _says("FAILED"),
        "says that all are completed": _says("COMPLETED"),
        "says that all have lost a node": _says("NODE_FAIL"),
        "has a warning for each line": 'real "$@" | sed "s/^/squeue: warning: /"; exit 0',
    },
    "scontrol": {"knows no job": f'echo "{GONE}" >&2; exit 1'},
    "sacct": {"says that all have failed": ACCOUNTS},
    "scancel": {"only pretends": "exit 0"},
}
"""What only this command can do."""

TOLD = {
    ("sbatch", "says something unknown"): "quota service: internal problem 17",
    ("sbatch", "only pretends"): "Slurm has forgotten it",
    ("squeue", "says that all have failed"): "FAILED",
    ("squeue", "says that all are completed"): "COMPLETED",
    ("squeue", "says that all have lost a node"): "NODE_FAIL",
    ("sacct", "says that all have failed"): "FAILED",
}
"""What a program cannot see through, and what it has to say then."""


def _at_start(run: Run) -> None:
    """Do nothing: the first call is the one."""


MOMENTS: dict[str, Callable[[Run], None]] = {"at the start": _at_start, "at work": Run.at_work}


def fail(run: Run, name: str, lines: str, moment: str) -> None:
    """Let a command fail some times from a moment on, and make sure that it was called then."""
    assert isinstance(run, LoginRun)
    MOMENTS[moment](run)
    run.shims.fail(name, lines, run.rng.randint(1, 4))
    if name in {"scontrol", "sacct"}:  # they are asked about jobs that squeue does not have
        run.shims.fail("squeue", "exit 0", run.rng.randint(2, 4))
    if name == "scancel":
        for word in ("cancel", "retry"):
            run.type(word, "1", "--run", str(run.home))
    run.until_true(lambda: run.shims.failed(name), f"{name} is called", patience=60)
    if not run.shims.failed(name):
        raise NotRun(f"{name} was not called any more")


def fail_in_jobs(run: Run, name: str, lines: str) -> None:
    """Let a command fail some times where jobs run it."""
    assert isinstance(run, LoginRun)
    run.job_shims.fail(name, lines, run.rng.randint(1, 4))
    run.until_true(lambda: run.job_shims.failed(name), f"{name} is called by a job", patience=60)


def repair(run: Run) -> None:
    """Let all commands be the real ones."""
    assert isinstance(run, LoginRun)
    for name in COMMANDS:
        run.shims.restore(name)
        run.job_shims.restore(name)


def _case(name: str, way: str, lines: str, moment: str) -> Case:
    told = TOLD.get((name, way), "")
    if name == "squeue" and moment == "at the start":
        told = told or "no usable Slurm here"  # nothing has begun
    return Case(
        table="slurm commands",
        name=f"{name} {way} {moment}",
        attack=functools.partial(fail, name=name, lines=lines, moment=moment),
        mend=repair,
        workload=WORK if name in {"sbatch", "squeue"} else LONG,
        world="cluster",
        survives=not told,
        told=told,
        tries=frozenset({Promise.NEWEST}),
    )


IN_JOBS = tuple(
    Case(
        table="slurm commands",
        name=f"scontrol in a job {way}",
        attack=functools.partial(fail_in_jobs, name="scontrol", lines=lines),
        mend=repair,
        workload=WORK,
        world="cluster",
        survives=True,
        tries=frozenset({Promise.NEWEST}),
    )
    for way, lines in (WAYS | LIES["scontrol"]).items()
    if "hangs" not in way  # it is waited for longer than a case may take
)

TABLE = (
    *(
        _case(name, way, lines, moment)
        for name, lies in LIES.items()
        for way, lines in (WAYS | lies).items()
        for moment in MOMENTS
        if moment == "at work" or name in {"sbatch", "squeue"}
    ),
    *IN_JOBS,
)
