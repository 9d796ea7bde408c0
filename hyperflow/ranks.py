"""Parallel programs (MPI) as evaluations: on the CPUs of one node, or of several.

`remote_command` is an evaluation of `run_ranks`, which runs mpirun or srun as `run_command` runs a program. On other
nodes, mpirun starts its daemons through us in place of ssh (head/ranks.py); ranks that srun starts are ended by a guard
on each node.

Guarantees: when this returns, raises or is cancelled, no rank is left on any node; when the evaluation ends in another
way (a time limit, its worker's death, the loss of a node, the end of the run), none is left within seconds.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs

from hyperflow import command, environment, files, mpirun, staged
from hyperflow.command import CommandResult, run_command
from hyperflow.errors import CommandFailed, ConfigurationError, HyperflowError
from hyperflow.flow import Job, Native
from hyperflow.options import LONGEST_NAME, OptionChanges
from hyperflow.remote import remote_eval
from hyperflow.saying import unfit_name
from hyperflow.staging.file import File
from hyperflow.staging.naming import Inputs, Outputs, Plan
from hyperflow.staging.output import Output
from hyperflow.staging.parts import Ticket
from hyperflow.transports.process import portable_environment, python_command
from hyperflow.wire import here
from hyperflow.worker import rank_guard
from hyperflow.worker.programs import Programs
from hyperflow.worker.worker import WorkerInfo, lock_client, places, worker_info

Launcher: TypeAlias = Literal["auto", "mpirun", "srun"]

_AGENT = Path(__file__).with_name("worker") / "rank_agent.py"


def remote_command(  # noqa: PLR0913 (each is a keyword)
    argv: Sequence[str | os.PathLike[str] | File | Output],
    *,
    inputs: Inputs | None = None,
    outputs: Outputs | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    memory: int | str | None = None,
    nodes: int | None = None,
    ranks_per_node: int = 1,
    launcher: Launcher = "auto",
    capture: bool = False,
    check: bool = False,
    stdin: bytes | os.PathLike[str] | File | None = None,
    stdout: os.PathLike[str] | Output | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Job[CommandResult]:
    """Run an external program as an evaluation: by itself, or as the ranks of a parallel program (MPI).

        result = await hf.remote_command(["lmp", "-in", path], nodes=2, ranks_per_node=64, check=True)
        await hf.remote_command(["bwa", hf.File("genome.fa"), hf.Output("out.sam")], cpus=4, check=True)

    Args:
        argv: The program and its arguments, without mpirun or srun. A word may be a `File` that it reads, or an
            `Output` that it makes.
        inputs: More files that it reads: a sequence, or a mapping that says what each is called in its directory.
        outputs: More that it makes. A text is its name in the directory and at home, such as "out/*.dat" or "results/";
            `Output(path)` comes to the path, and the command writes the last part of it.
        cpus: As for `using(cpus=...)`; `gpus` and `memory` likewise.
        nodes: On how many nodes; all or none of them, see `using(nodes=...)`, which it takes the place of.
        ranks_per_node: How many ranks on each. They share its CPUs; more than there are are refused.
        launcher: What starts the ranks: "mpirun" (the one in PATH: of the MPI that the program was built with), "srun"
            (in a Slurm allocation), or "auto": mpirun if there is one. With neither, one rank is a plain program.
        env: Variables to add, of mpirun and of each rank.
        threads: The value of OMP_NUM_THREADS and the like; by default each rank's share of the CPUs.

    The rest is as in `run_command`. Where `using(cpus=...)` says nothing, there are as many CPUs on each node as ranks.
    Each rank is bound to its share of the evaluation's CPUs on its node, which are in `HYPERFLOW_CPUS`.

    Awaiting it returns a CommandResult; how much CPU time and memory it has used is known of the first node only. With
    `check`, it raises CommandFailed, which names the rank that has ended first, and its node, where mpirun says it. In
    progress, `hyperflow show` and the like it has the program's name, or that of `using(name=...)`.

    **With files**, it runs in a directory of its own on one node, made for it and removed afterwards, where its inputs
    are read-only links; TMPDIR is another one there. Relative paths of inputs and outputs are relative to `cwd`, by
    default the program's directory; so is a program with a slash. Outputs come home when it has ended, whole or not at
    all: `result.files[name]`. Those with `on_failure=True` come only if it has failed (ended by a signal, or with
    another code than 0), the others only if it has not. Raises OutputFailed when one is missing or cannot come,
    ConfigurationError (before anything runs) when a place cannot be written or another command has it, ScratchFull when
    no node has room. Cancelling leaves each destination as it was. Cost, beside the files: about 5 ms.
    """
    for word in (*argv, stdin, stdout):
        if isinstance(word, (File, Output)):
            has_files = True
            break
    else:
        has_files = bool(inputs or outputs)
    words = [] if has_files else command.words_of(argv)  # type: ignore[arg-type]
    if ranks_per_node < 1 or (nodes is not None and nodes < 1):
        raise ConfigurationError(f"nodes={nodes!r}, ranks_per_node={ranks_per_node!r}: whole numbers, at least 1")
    if launcher not in ("auto", "mpirun", "srun"):
        raise ConfigurationError(f'launcher={launcher!r}: "auto", "mpirun" or "srun" is needed')
    how = {
        "ranks_per_node": ranks_per_node,
        "launcher": None if launcher == "auto" else launcher,
        "capture": capture,
        "check": check,
        "stdin": stdin,
        "stdout": stdout,
        "cwd": cwd,
        "env": env,
        "threads": threads,
    }
    asked = {"cpus": cpus, "gpus": gpus, "memory": memory, "nodes": nodes}
    changes: Any = {name: value for name, value in asked.items() if value is not None}
    if has_files:
        if nodes is not None and nodes > 1:
            raise staged.several_nodes(nodes)
        source = None if isinstance(stdin, bytes) else stdin
        plan = staged.plan_of(argv, inputs=inputs, outputs=outputs, stdin=source, stdout=stdout, base=cwd)
        how |= {"stdin": stdin if isinstance(stdin, bytes) else None, "stdout": None, "cwd": None}
        return Job(Native("remote_command", _staged_command, (plan, changes, _said(how))))
    return Job(Native("remote_command", _remote_command, (words, changes, _said(how))))


def _said(how: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in how.items() if value is not None and value is not False}


async def _remote_command(words: list[str], changes: OptionChanges, how: dict[str, Any]) -> CommandResult:
    _complete(changes := changes.copy(), words, how["ranks_per_node"])
    result: CommandResult = await remote_eval(run_ranks, words, **how).using(**changes)
    return result


async def _staged_command(plan: Plan, changes: OptionChanges, how: dict[str, Any]) -> CommandResult:
    _complete(changes := changes.copy(), plan.words, how["ranks_per_node"])

    def submit(plan: Plan, ticket: Ticket) -> Job[tuple[CommandResult, str]]:
        return remote_eval(staged.in_sandbox, plan, ticket, run_ranks, how).using(**changes)

    result, made = await staged.carry_out(plan, submit)
    return attrs.evolve(result, files=made)


def _complete(changes: OptionChanges, words: Sequence[str], ranks: int) -> None:
    """Ask for what follows from a command."""
    options = environment.current().options
    if options.cpus == 1 < ranks and "cpus" not in changes:
        changes["cpus"] = ranks
    if options.name is None and not unfit_name(name := Path(words[0]).name[:LONGEST_NAME]):
        changes["name"] = name


async def run_ranks(  # noqa: PLR0913 (each is a keyword)
    argv: Sequence[str | os.PathLike[str]],
    *,
    ranks_per_node: int = 1,
    launcher: Launcher = "auto",
    capture: bool = False,
    check: bool = False,
    stdin: bytes | os.PathLike[str] | None = None,
    stdout: os.PathLike[str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> CommandResult:
    """Run a parallel program on all nodes of this evaluation (`worker_info().nodes`), as remote_command does.

    For functions that do more than that: await it in an evaluation that was given `using(nodes=2)`, say, as often as
    they like. Arguments, results and errors are those of `remote_command`.
    """
    words = command.words_of(argv)
    info = command.info_of(words)
    nodes = info.nodes or (info.node,)
    if len(nodes) == 1 == ranks_per_node and launcher == "auto":
        plain: Any = {"capture": capture, "check": check, "stdin": stdin, "stdout": stdout, "cwd": cwd, "env": env}
        return await run_command(words, threads=threads, **plain)
    if info.cpus and ranks_per_node > len(info.cpus):
        raise ConfigurationError(
            f"ranks_per_node={ranks_per_node}: the evaluation has {len(info.cpus)} CPUs on {info.node}, and ranks that "
            f"share one wait for each other; ask for using(cpus={ranks_per_node})"
        )
    each = max(len(info.cpus) // ranks_per_node, 1)
    mark = os.urandom(16).hex()
    named = _encoded({mpirun.MARK: mark})
    variables = mpirun.of_no_rank(command.environment_of(info, env, None).items()) | named
    kind, program = _launcher(launcher, variables, info)
    job = {"SLURM_JOB_ID": os.environ["SLURM_JOB_ID"]} if kind == "mpirun" and "SLURM_JOB_ID" in os.environ else {}
    rank = mpirun.wrapped(words, each, threads or each, job)
    said_from = _size(info.log_file)
    begin = _by_srun if kind == "srun" else _by_mpirun
    try:
        async with begin(program, nodes, ranks_per_node, variables) as (line, known):
            result = await command.run(
                [*line, *rank], known, info, capture=capture, stdin=stdin, stdout=stdout, cwd=cwd
            )
    finally:
        rank_guard.sweep(f"{mpirun.MARK}={mark}")  # what a killed mpirun has left on this node
    result = attrs.evolve(result, argv=tuple(words))
    if check and result.returncode != 0:
        said = result.stderr if capture else files.tail(info.log_file, lines=60, start=said_from)
        log_file = "" if capture else info.log_file
        raise CommandFailed(
            words, result.returncode, result.stderr, log_file, mpirun.blame(said, nodes, ranks_per_node)
        )
    return result


def _launcher(wanted: Launcher, variables: Mapping[bytes, bytes], info: WorkerInfo) -> tuple[str, str]:
    """Return which of the two starts the ranks, and where it is; raises ConfigurationError."""
    found = {
        "mpirun": command.found("mpirun", variables) or command.found("mpiexec", variables),
        "srun": command.found("srun", variables) if b"SLURM_JOB_ID" in variables else None,
    }
    for kind in ("mpirun", "srun") if wanted == "auto" else (wanted,):
        if (program := found[kind]) is not None:
            return kind, program
    if wanted == "srun":
        outside = "" if b"SLURM_JOB_ID" in variables else ", or this is not within a Slurm allocation"
        raise ConfigurationError(f'launcher="srun": no srun is in PATH on {info.node}{outside}')
    path = os.fsdecode(variables.get(b"PATH", b""))
    raise ConfigurationError(
        f"there is no mpirun in PATH on {info.node} to start ranks with ({path}); load the module of the MPI that the "
        'program was built with before the run, or for each node: run_job_slurm(prologue="module load openmpi")'
    )


@asynccontextmanager
async def _by_mpirun(
    program: str, nodes: Sequence[str], ranks: int, variables: Mapping[bytes, bytes]
) -> AsyncIterator[tuple[list[str], dict[bytes, bytes]]]:
    """Yield the command that starts ranks, and its variables; within the scope, it can start daemons on other nodes."""
    line = mpirun.mpirun(program, _is_hydra(program), nodes, ranks)
    known = mpirun.for_mpirun(variables.items())
    if len(nodes) == 1:
        yield line, known | _encoded(mpirun.variables_of_mpirun("false"))
        return
    programs = _programs(variables)
    async with programs.opened():
        yield line, known | _encoded(mpirun.variables_of_mpirun(_agent()))


def _agent() -> str:
    """Return the path of a program that mpirun can run in the place of ssh: one word, as some MPIs want it.

    It is beside the logs, once for all workers, so that nothing is left when one is killed.
    """
    file = Path(worker_info().log_file).with_name("rank-agent")
    if not file.exists():
        new = file.with_name(f"{file.name}.{os.urandom(8).hex()}")
        new.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-I", "-S", str(_AGENT)])} "$@"\n')
        new.chmod(0o700)
        new.rename(file)
    if set(str(file)) & set(" :;,"):
        raise ConfigurationError(f"mpirun cannot run {file}, because its path has blanks or punctuation")
    return str(file)


@asynccontextmanager
async def _by_srun(
    program: str, nodes: Sequence[str], ranks: int, variables: Mapping[bytes, bytes]
) -> AsyncIterator[tuple[list[str], dict[bytes, bytes]]]:
    """The same for srun; within the scope, a guard waits on each other node, which ends the ranks there with it."""
    mpi = "" if b"SLURM_MPI_TYPE" in variables else mpirun.best_mpi(_says(program, "--mpi=list"))
    mark = f"{mpirun.MARK}={os.fsdecode(variables[mpirun.MARK.encode()])}"
    known = mpirun.for_srun(variables.items())
    line = mpirun.srun(program, nodes, ranks, mpi)
    if len(nodes) == 1:
        yield line, known
        return
    known |= _encoded({here.VARIABLE: mpirun.choosing(places(), worker_info().pinned)})
    programs = _programs(variables)
    async with programs.opened():
        for node in nodes:
            programs.start(node, [*python_command("hyperflow.worker.rank_guard"), mark], "/", os.environ)
        yield line, known


def _programs(variables: Mapping[bytes, bytes]) -> Programs:
    client = lock_client()
    if client is None:
        raise HyperflowError("ranks on several nodes can only be started in a function that runs on a worker")
    return Programs(client, os.fsdecode(variables[mpirun.MARK.encode()]), portable_environment)


def _encoded(variables: Mapping[str, str]) -> dict[bytes, bytes]:
    return {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _is_hydra(program: str) -> bool:
    return mpirun.is_hydra(_says(program, "--version"))


@functools.cache
def _says(*words: str) -> str:
    """Return what a program prints about itself; it is asked once in a process."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr
