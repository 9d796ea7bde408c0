"""The built-in program that runs arrays: on this machine, in an allocation, in Slurm jobs of its own, on a pool.

Guarantees: all that it needs is in the run's directory before anything runs, so that it goes on from there: after a
crash, in a process of its own, with other tasks. The exit code is 0 if all that was asked for is done, 1 if something
has failed, was skipped or cancelled, 2 if nothing could run.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from hyperflow._cluster import cluster, remote_eval_job
from hyperflow._job import run_in_new_loop, run_job_local, run_job_slurm
from hyperflow.commands.array import run_array
from hyperflow.commands.shares import chosen_of, shares_of
from hyperflow.commands.spec import PLACE, ArraySpec, Way
from hyperflow.commands.starts import Start
from hyperflow.commands.tally import Counts
from hyperflow.concurrent import map_concurrently
from hyperflow.errors import AllocationEnding, ConfigurationError, HyperflowError, ImpossibleRequest
from hyperflow.flow import Flow
from hyperflow.program import ProgramInfo, is_url
from hyperflow.records import record
from hyperflow.saying import printable
from hyperflow.slurm.script import SbatchOptions

WRONG = 2
INTERRUPTED = 130


def check_way(spec: ArraySpec) -> ArraySpec:
    """Return an array that can run where it is to, as far as that is known here: with as many shares as there can be.

    Raises:
        ConfigurationError, SlurmError: It cannot.
    """
    way = spec.way
    if way.place == "slurm":
        from hyperflow.console.options import failure_policy  # noqa: PLC0415 (the other ways need none of it)
        from hyperflow.slurm.client import SlurmClient  # noqa: PLC0415 (the same)

        failure_policy(way.on_error)
        SbatchOptions(**way.sbatch)
        spec = attrs.evolve(spec, way=attrs.evolve(way, jobs=shares_of(spec, way.jobs)))
        run_in_new_loop(SlurmClient().check(patient=False))
    elif way.place == "elastic":
        _pool_of(way)
    elif way.place == "pool":
        from hyperflow.pools.named import named  # noqa: PLC0415 (the same)

        named.find(way.pool).address()
    return spec


def make(spec: ArraySpec, base_dir: Path, database: str | None) -> ProgramInfo:
    """Make a run of an array; nothing of it runs yet. Raises ConfigurationError."""
    named = {"database": database} if database is not None and is_url(database) else {"start_from": database}
    program = ProgramInfo.new(base_dir, **named)
    place = program.log_dir.parent / PLACE
    try:
        spec.write(place)
        if database is not None:
            (place / "database").write_text(str(program.database if is_url(database) else program.start_from))
    except OSError as error:
        raise ConfigurationError(f"{place} cannot be written: {error.strerror}") from None
    return program


def run(home: Path, chosen: str = "") -> int:
    """Run the tasks of an array that are not done, or go on with them, and return the exit code; blocks.

    Args:
        home: The directory of its run.
        chosen: Which tasks: numbers, "failed", or "" for all.

    Raises:
        ConfigurationError: It cannot be read, or runs.
    """
    directory = home / PLACE
    spec = ArraySpec.read(directory)
    check_idle(home)
    chosen_of(spec, chosen)
    before = Start.read(directory)
    start = Start(1, chosen) if before is None else before.next(chosen, takes_over=spec.way.place == "slurm")
    start.write(directory)
    return _Run(home, spec, start).exit_code()


def check_idle(home: Path) -> None:
    """Raise ConfigurationError if a run is alive."""
    import time  # noqa: PLC0415 (for this)

    from hyperflow.control.client import owner  # noqa: PLC0415 (the same)

    found, master = record.read(home / "log" / record.NAME), owner(home)
    if master is not None or (found is not None and found.state(time.time()) is record.State.RUNNING):
        who = f"process {master.pid} on {master.host}" if master is not None else str(found.owner if found else "")
        name = typed(home)
        raise ConfigurationError(
            f"{name} still runs, in {who}: wait until it has ended (hyperflow wait {name}), or end it, and type that "
            "again"
        )


def typed(home: Path) -> str:
    """Return what people type for a run: its id, or its directory where it is not in the usual one."""
    from hyperflow.console.table import as_typed  # noqa: PLC0415 (only to be shown)

    usual = home.parent == Path.cwd() / "hyperflow-runs"
    return home.name if usual else shlex.quote(as_typed(home))


class _Run:
    """One start of an array."""

    def __init__(self, home: Path, spec: ArraySpec, start: Start) -> None:
        self._home, self._spec, self._start = home, spec, start
        self._counts: Counts | None = None

    def exit_code(self) -> int:
        ways: dict[str, Callable[[], int]] = {
            "local": lambda: self._as_job(
                lambda job: run_job_local(job, program=self._program(), progress=self._way.progress)
            ),
            "allocation": lambda: self._as_job(
                lambda job: run_job_slurm(job, program=self._program(), progress=self._way.progress)
            ),
            "pool": lambda: self._on_pool(self._way.pool),
            "elastic": lambda: self._on_pool(""),
            "slurm": self._as_cluster,
        }
        code = ways[self._way.place]()
        if self._counts is not None:
            ended = attrs.evolve(self._start, counts=self._counts)
            ended.write(self._home / PLACE)
            self._say_end(self._counts)
            return ended.exit_code
        return code

    @property
    def _way(self) -> Way:
        return self._spec.way

    def _program(self) -> ProgramInfo:
        found = record.read(self._home / "log" / record.NAME)
        return self._new() if found is None else ProgramInfo.existing(self._home, self._home.name, found.database)

    def _new(self) -> ProgramInfo:
        """Return the program of a run that has not begun."""
        program = ProgramInfo.existing(self._home, self._home.name, self._home / "results.sqlite")
        kept = self._home / PLACE / "database"
        if not kept.exists():
            return program
        database = kept.read_text()
        if is_url(database):
            return ProgramInfo.existing(self._home, self._home.name, database)
        return attrs.evolve(program, start_from=Path(database))

    def _job(self, which: int = 0, shares: int = 1) -> Flow[Counts]:
        return run_array(str(self._home / PLACE), self._start.number, (which, shares), self._start.chosen)

    def _on_pool(self, name: str) -> int:
        from hyperflow._pool import run_job_pool  # noqa: PLC0415 (the other ways need none of it)

        pool = name or _pool_of(self._way)
        return self._as_job(lambda job: run_job_pool(job, pool, program=self._program(), progress=self._way.progress))

    def _as_job(self, run_it: Callable[[Flow[Counts]], Counts]) -> int:
        try:
            self._counts = run_it(self._job())
        except KeyboardInterrupt:
            return self._left("interrupted", INTERRUPTED)
        except AllocationEnding as error:
            return self._left(f"{error}", 1)
        except ImpossibleRequest as error:  # it would be the same again
            return self._left(f"{error}", WRONG, "ask for less (--cpus, --gpus, --memory), and type it again")
        except ConfigurationError as error:
            return self._left(f"{error}", WRONG)
        except HyperflowError as error:
            return self._left(f"{error}", 1)
        return 0

    def _left(self, why: str, code: int, to_do: str = "") -> int:
        """Say what has ended it before its tasks had."""
        to_do = to_do or f"to go on: hyperflow resume {typed(self._home)}; what is done is not done again"
        _say(f"{why}\n{to_do}")
        attrs.evolve(self._start, error=why).write(self._home / PLACE)
        return code

    def _as_cluster(self) -> int:
        from hyperflow.console.line import run_flow  # noqa: PLC0415 (the other ways need none of it)
        from hyperflow.console.options import Resources, Running  # noqa: PLC0415 (the same)

        found: list[Counts] = []
        jobs = [self._job(which, self._way.jobs) for which in range(self._way.jobs)]
        begun = (self._home / "program.json").exists()
        running = Running(
            resume=str(self._home) if begun else None, on_error=self._way.on_error, base_dir=self._home.parent
        )
        flow = in_slurm_jobs(jobs, found)
        code = run_flow(flow, running, Resources(**self._way.sbatch), program=None if begun else self._program())
        if found and code == 0:
            self._counts = found[0]
        elif code == 1:
            attrs.evolve(self._start, error="it has failed").write(self._home / PLACE)
        return code

    def _say_end(self, counts: Counts) -> None:
        name = typed(self._home)
        lines = [counts.in_words()]
        if counts.failures:
            first = counts.failures[0]
            lines += [
                f"  hyperflow tasks {name} --failed",
                f"  hyperflow output {name} {first} --stderr",
                f"  hyperflow retry {name} --tasks failed",
            ]
        if counts.cancelled:
            lines.append(f"  hyperflow resume {name}    # what was cancelled, too")
        _say("\n".join(lines))


@cluster
async def in_slurm_jobs(jobs: list[Flow[Counts]], found: list[Counts]) -> None:
    """Run the shares of an array, each in a Slurm job, and put what came of them into `found`."""
    counts = await map_concurrently(remote_eval_job, jobs)
    found.append(sum(counts[1:], counts[0]))


def _pool_of(way: Way) -> Any:
    from hyperflow.pools.nodepool import NodePool  # noqa: PLC0415 (the other ways need none of it)

    return NodePool(sbatch=SbatchOptions(**way.sbatch), max_allocations=way.allocations)


def _say(text: str) -> None:
    print("\n".join(map(printable, f"hyperflow: {text}".split("\n"))), file=sys.stderr, flush=True)
