"""Commands with files, in the head and on a worker: planned at home, run in a sandbox, landed at home.

The head prepares where outputs come (staging/landing.py), sends the command, and gives what has come its names when the
evaluation has ended. In between nothing is awaited here but the evaluation, so options, tries and cancels are those of
any other. `carry_out` knows nothing of how a command is run: `remote_command` runs it as ranks.py does, an array as
its own.

Rejected: outputs as the evaluation's result. They would pass through the memory of worker, launcher and head at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from hyperflow import aio, environment, failures, files
from hyperflow.command import CommandResult
from hyperflow.errors import ConfigurationError, MisuseError
from hyperflow.flow import Job
from hyperflow.staging.file import File
from hyperflow.staging.keeping import follow
from hyperflow.staging.landing import Landing
from hyperflow.staging.landings import Landings
from hyperflow.staging.naming import Inputs, Outputs, Plan, Planner, Word, as_program, as_word
from hyperflow.staging.output import Output
from hyperflow.staging.parts import Manifest, Ticket
from hyperflow.staging.sandbox import Sandbox
from hyperflow.worker.worker import worker_info

T = TypeVar("T")
R = TypeVar("R")

Run = Callable[..., Awaitable[CommandResult]]

LAST_LINES = 20
"""Lines of a log in which it is looked for why a command has failed."""


def plan_of(
    argv: Sequence[Word],
    *,
    inputs: Inputs | None = None,
    outputs: Outputs | None = None,
    on_failure: Outputs | None = None,
    stdin: str | os.PathLike[str] | File | None = None,
    stdout: str | os.PathLike[str] | Output | None = None,
    base: str | os.PathLike[str] | None = None,
) -> Plan:
    """Give everything its name in the sandbox; raises ConfigurationError or MisuseError for what makes no sense.

    `base` is the directory that relative paths mean, by default that of this process; `on_failure` are outputs that
    come only when the command has failed.
    """
    if isinstance(argv, (str, bytes)):
        raise MisuseError(f"a command is a list of words, no shell: {argv.split()!r}")
    planner = Planner(os.path.abspath(base or os.curdir))
    planner.add_inputs(inputs)
    words = [_word(planner, word) for word in argv]
    if not words:
        raise MisuseError("remote_command([]): the program's name is missing")
    if isinstance(argv[0], File):
        words[0] = as_program(words[0], words[0])
    elif "/" in words[0] and not os.path.isabs(words[0]) and os.path.normpath(words[0]) not in planner.inputs:
        words[0] = os.path.join(planner.base, words[0])
    planner.add_outputs(outputs)
    planner.add_outputs(on_failure, on_failure=True)
    source = "" if stdin is None else planner.input(stdin if isinstance(stdin, File) else planner.file(stdin))
    target = "" if stdout is None else planner.output(stdout if isinstance(stdout, Output) else Output(stdout))
    return planner.plan(words, source, target)


def _word(planner: Planner, word: Word) -> str:
    if isinstance(word, File):
        return as_word(planner.input(word))
    if isinstance(word, Output):
        name = planner.output(word)
        if planner.outputs[os.fspath(word.path)].kind == "files":
            raise ConfigurationError(
                f"{word!r} is a pattern, which no command understands as a word; name it in outputs=[...]"
            )
        return as_word(name)
    try:
        text = os.fspath(word)
    except TypeError as error:
        raise MisuseError(f"a command is a list of words, paths, File and Output: {error}; write str(...)") from None
    if "\0" in text:
        raise ConfigurationError(f"{text!r} has a NUL character, which no word of a command can have")
    return text


# ---- in the head -----------------------------------------------------------------------------------------------------


async def carry_out(plan: Plan, submit: Callable[[Plan, Ticket], Job[tuple[R, str]]]) -> tuple[R, dict[str, File]]:
    """Run a command in a sandbox, and return its result with its outputs, by the names that the user gave them.

    `submit` makes the flow of an evaluation that runs it within `Sandbox.opened(plan, ticket)`, and returns its result
    with `Sandbox.run`. Raises what that raises; OutputFailed; ConfigurationError for a place that cannot be written.
    """
    env = environment.current()
    if env.options.nodes > 1:
        raise several_nodes(env.options.nodes)
    landings = Landings.of(env)
    landing = landings.open(plan)
    try:
        async with landings.turn(env.evaluator.cpus):
            return await _carried_out(plan, landings, landing, submit)
    finally:
        landings.close(landing, plan)


async def _carried_out(
    plan: Plan, landings: Landings, landing: Landing, submit: Callable[[Plan, Ticket], Job[tuple[R, str]]]
) -> tuple[R, dict[str, File]]:
    ended: Manifest | None = None
    try:
        await landings.sweep(landing)
        await in_thread(lambda: _prepare(plan, landing))
        try:
            result, run = await _evaluated(landing, submit(plan, landing.ticket))
        except Exception as error:
            await landing.settled()
            if (failed := landing.newest(failed=True)) is not None:
                await _land_beside(error, landing, failed)
            raise
        await landing.settled()
        manifest = landing.manifest(run)
        landed = await in_thread(lambda: {} if manifest is None else landing.land(manifest))
        ended = manifest
        return result, {name: File(place) for name, place in landed.items()} | _kept(manifest)
    finally:
        await aio.settled(asyncio.ensure_future(_end(landing, ended)))


def _kept(manifest: Manifest | None) -> dict[str, File]:
    """Return the files that stay where they were made; they are wanted for as long as these are."""
    made: dict[str, File] = {}
    for kept in () if manifest is None else manifest.kept:
        name = os.path.basename(kept.name)
        at = kept.at
        made[kept.name] = file = File.known(at.path, at.digest, at.size, node=at.node, name=name)
        follow(file, at.digest)
    return made


def _prepare(plan: Plan, landing: Landing) -> None:
    for file in plan.inputs.values():
        _ = file.digest  # read here, and not in the loop
    landing.prepare()


async def _end(landing: Landing, manifest: Manifest | None) -> None:
    await landing.settled()
    await asyncio.get_running_loop().run_in_executor(None, landing.clean, manifest)


async def _evaluated(landing: Landing, flow: Job[T]) -> T:
    """Await the evaluation; what goes wrong with outputs at home ends it."""
    future = flow.start()
    landing.on_failure = future.cancel
    try:
        return await future
    except asyncio.CancelledError:
        if landing.failure is not None and not aio.cancelling():
            raise landing.failure from None
        raise
    finally:
        landing.on_failure = lambda: None


async def _land_beside(error: Exception, landing: Landing, manifest: Manifest) -> None:
    """A command has failed: bring what is to come then; its error counts more than those of that."""
    try:
        landed = await in_thread(lambda: landing.land(manifest))
    except Exception as other:  # noqa: BLE001 (see above)
        failures.add_note(error, f"(of what was to come home when it fails: {other})")
    else:
        if landed:
            failures.add_note(error, f"(come home, because it has failed: {', '.join(landed.values())})")


async def in_thread(work: Callable[[], T]) -> T:
    """Do something that blocks; a cancel waits for it."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    await aio.settled(future)
    return future.result()


def several_nodes(nodes: int) -> ConfigurationError:
    """Return the error for a command with files on several nodes."""
    return ConfigurationError(
        f"nodes={nodes} and files: a command's sandbox is on one node. For ranks on several, give paths that all of "
        "them see (a shared directory), without inputs=, outputs=, File and Output"
    )


# ---- on the worker ---------------------------------------------------------------------------------------------------


async def in_sandbox(plan: Plan, ticket: Ticket, run: Run, how: Mapping[str, Any]) -> tuple[CommandResult, str]:
    """Run a command in its sandbox, as `run(words, **how)` does."""
    log_file = worker_info().log_file
    start = log_size(log_file)
    with Sandbox.opened(plan, ticket) as box:
        streams = {name: value for name, value in (("stdin", box.stdin), ("stdout", box.stdout)) if value}
        env = box.variables | dict(how.get("env") or {})
        result = await run(box.words, **{**how, **streams, "env": env, "cwd": box.home})
        if result.returncode != 0:
            box.failed = True
            box.said = result.stderr or (files.tail(log_file, lines=LAST_LINES, start=start) if log_file else "")
    return attrs.evolve(result, argv=plan.words), box.run


def log_size(path: str) -> int:
    """Return how long a log is; 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
