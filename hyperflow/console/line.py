"""The command line of a Cluster program, and the run that it asks for; see `hyperflow.main`."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
from cyclopts import App, CycloptsError
from rich.console import Console

from hyperflow import failures, pages
from hyperflow import flow as flows
from hyperflow._cluster import ClusterEnv, open_cluster, remote_eval_job
from hyperflow._job import run_in_new_loop
from hyperflow.console.display import logging_to, say, showing
from hyperflow.console.interrupt import Interruption
from hyperflow.console.options import RUNNING, Resources, Running, failure_policy, joined
from hyperflow.console.rehearsal import rehearse
from hyperflow.console.table import as_typed, counts_in_words, jobs_in_words, resume_command
from hyperflow.control import place
from hyperflow.errors import ConfigurationError, HyperflowError, MisuseError
from hyperflow.flow import Cluster, Flow
from hyperflow.master.lifecycle import WITH_SLURM, State
from hyperflow.master.rundir import find
from hyperflow.offers import Offers
from hyperflow.program import ProgramInfo, is_url
from hyperflow.saying import age
from hyperflow.slurm.client import SlurmClient

WRONG = 2
"""Exit code: usage error."""

INTERRUPTED = 128
"""Exit code, plus the signal's number: a signal ended the program."""


def run_program(fn: Callable[..., Flow[Any]], argv: Sequence[str], offers: Offers | None = None) -> int:
    """Run a program as its command line says, and return the exit code; `offers`: what the nodes of its jobs have."""
    name = Path(sys.argv[0]).name
    app = App(
        name=name,
        version_flags=[],
        help_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # or it would end the process in silence
    )
    app["--help"].group = RUNNING
    app.default(
        joined(fn, lambda call, running, resources: _Run(call, running, resources, offers or Offers()).exit_code())
    )
    try:
        return app(list(argv), exit_on_error=False, print_error=False) or 0
    except CycloptsError as error:
        return _complain(error, WRONG)


def run_flow(flow: Flow[Any], running: Running, resources: Resources, program: ProgramInfo | None = None) -> int:
    """Run a flow as the command line of a program would have it run, and return the exit code.

    Args:
        flow: It.
        running: How to run it.
        resources: What to ask Slurm for.
        program: A run whose directory was made, and which nobody has begun; None for one that `running` names.
    """
    return _Run(flow.used, running, resources, Offers(), program).exit_code()


def _complain(error: object, code: int) -> int:
    print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
    if isinstance(error, HyperflowError):
        print(pages.about_error(type(error)), file=sys.stderr)
    return code


class _ProgramError(Exception):
    """Wraps the program's own error: that one gets its traceback, other errors are explained in one line."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


@attrs.define
class _Run:
    """One run of a program; `call` calls its function, which returns a flow."""

    call: Callable[[], Any]
    running: Running
    resources: Resources
    offers: Offers
    program: ProgramInfo | None = None
    console: Console = attrs.field(factory=lambda: Console(stderr=True, highlight=False))
    code: int = 0

    def exit_code(self) -> int:
        """Run it, and return the exit code."""
        try:
            flow = self.call()
            flows.check(flow, "hyperflow.main")
            if not isinstance(flow, Cluster):
                flow = remote_eval_job(flow)  # a single job runs in one allocation
            if self.running.dry_run:
                self._rehearse(flow)
            else:
                run_in_new_loop(self._run(flow))
        except _ProgramError as failure:
            failures.shorten(failure.error)
            traceback.print_exception(failure.error)
            return 1
        except ConfigurationError as error:
            return _complain(error, WRONG)
        except HyperflowError as error:
            return _complain(error, 1)
        except KeyboardInterrupt:
            return _complain("interrupted", INTERRUPTED + 2)
        return self.code

    def _rehearse(self, flow: Flow[Any]) -> None:
        if self.running.resume is not None:
            raise ConfigurationError("--dry-run shows how a new run begins; leave --resume out")
        earlier = self.running.database
        if earlier is not None and is_url(earlier):
            raise ConfigurationError("--dry-run does not look into a database on a server; leave --database out")
        scripts = run_in_new_loop(rehearse(flow, self.running.base_dir, self.resources.options(), earlier))
        if not scripts:
            say(self.console, "the program has ended without a job")
        for number, script in enumerate(scripts, 1):
            print(f"# ---- job {number} " + "-" * 60 + f"\n{script}")

    async def _run(self, flow: Flow[Any]) -> None:
        if not self.running.local and self.running.resume is None:
            await SlurmClient().check(patient=False)  # before there is a directory
        async with self._cluster() as env:
            log_file = env.program.log_dir / "master.log"
            with logging_to(self.console, log_file, self.running.verbose):
                address = place.read(env.master.run.home)
                control = as_typed(address.path) if address is not None else "none"
                logs, database = as_typed(env.program.log_dir), as_typed(env.program.database)
                run = f"run {env.program.program_id}"
                say(self.console, f"{run}: logs {logs}, database {database}, control {control}")
                await self._await(flow, env)

    def _cluster(self) -> AbstractAsyncContextManager[ClusterEnv]:
        running, offers = self.running, self.offers
        # Before there is a directory: a mistake in the options leaves nothing behind.
        policy, sbatch = failure_policy(running.on_error), self.resources.options()
        if self.program is not None:
            program = self.program
        elif running.resume is not None:
            program = find(running.resume, running.base_dir)
        else:
            earlier = running.database
            named = {"database": earlier} if earlier is not None and is_url(earlier) else {"start_from": earlier}
            program = ProgramInfo.new(running.base_dir, **named)
        return open_cluster(
            program,
            local=running.local,
            max_jobs=running.max_jobs,
            sbatch=sbatch,
            on_error=policy,
            mail=running.mail,
            echo=running.echo,
            progress=False,  # there is the table of jobs
            gpus=offers.gpus,
            memory=offers.memory,
            resources=dict(offers.resources),
        )

    async def _await(self, flow: Flow[Any], env: ClusterEnv) -> None:
        began = time.monotonic()
        async with showing(env.master, self.console) as display:
            work = flow.start()
            interruption = Interruption(work, env.master, display, self.console, self.running.on_interrupt)
            with interruption.listening():
                try:
                    await asyncio.wait([work])
                finally:
                    work.cancel()
                    await interruption.settled()
        took = age(time.monotonic() - began)
        states = [job.state for job in env.master.jobs()]
        jobs = counts_in_words(states)
        again = f"to go on: {resume_command(env.master.run.home)}"
        if interruption.signal is not None:
            self.code = INTERRUPTED + interruption.signal
            left = left_in_words(states, interruption.cancelled, self.running.local)
            say(self.console, f"interrupted after {took}: {left}; {again}")
        elif (error := work.exception()) is not None:
            say(self.console, f"failed after {took} ({jobs}), with {type(error).__name__}; {again}")
            if env.master.numbers(State.FAILED):
                say(self.console, "a failed job fails in the same way then, unless before: hyperflow retry --all")
            raise _ProgramError(error)
        else:
            say(self.console, f"done after {took}: {jobs}")
            if env.recording is not None:
                env.recording.result(work.result())
            _print_result(work.result())


def left_in_words(states: Sequence[State], cancelled: bool, local: bool) -> str:
    """Say what has become of the jobs of a program that was interrupted; `cancelled`: its user wanted that."""
    if cancelled:
        return f"{jobs_in_words(states.count(State.CANCELLED))} cancelled"
    if not (count := sum(state in WITH_SLURM for state in states)):
        return counts_in_words(states)
    return f"{jobs_in_words(count)} {'ended with it' if local else 'left with Slurm'}"


def _print_result(result: Any) -> None:
    if isinstance(result, Flow):
        raise MisuseError(f"the program returned the flow {result.used()!r}, not its result; write: return await ...")
    if result is not None:
        print(result)
