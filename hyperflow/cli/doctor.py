"""The doctor: runs all checks, those of different nodes side by side, and leaves nothing behind.

The checks that are not about one node are here; `reach` has those of a node. Blocking work runs in a separate thread.
"""

from __future__ import annotations

import asyncio
import functools
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path

import attrs

from hyperflow.cli import reach, verdicts
from hyperflow.cli.check import Check, bounded, failed, in_thread, ok, skipped, warning
from hyperflow.config import Settings, read_settings
from hyperflow.database import place
from hyperflow.database.file import DatabaseFile
from hyperflow.database.ownership import Ownership
from hyperflow.errors import ConfigurationError, DatabaseError, SlurmError
from hyperflow.program import ProgramInfo
from hyperflow.slurm import allocation
from hyperflow.slurm.allocation import Allocation
from hyperflow.slurm.commands import Commands
from hyperflow.slurm.scontrol import run_command

NODES_AT_A_TIME = 32

ORDER = (
    *("configuration", "Slurm", "allocation", "run directory", "SQLite"),
    *("nodes", "ssh", "srun", "shared directory", "Python", "CPUs", "GPUs", "memory"),
)
"""The order of checks in the report; within one, the nodes keep their order."""

NOT_CONFIGURED = "Could not establish a configuration source"
"""Slurm's commands print this on a machine where they are installed but not configured."""

LITTLE_SPACE = 1 << 30
"""With fewer free bytes than this in the run directory, there is a warning."""

OTHER_DATABASE = (
    "Keep the database elsewhere: ProgramInfo.new(DIR, database=FILE); only the program itself needs to see FILE"
)


async def examine(variables: Mapping[str, str], nodes: Sequence[str], run_dir: Path, seconds: float) -> list[Check]:
    """Run all checks, each for so many seconds, and return what they found.

    If no nodes are named, those of the allocation are checked. A run directory that does not exist is made and removed.
    """
    configuration, settings = _check_configuration(variables)
    with tempfile.TemporaryDirectory(prefix="hyperflow-doctor-", ignore_cleanup_errors=True) as scratch:
        held = ExitStack()
        try:
            async with asyncio.TaskGroup() as group:
                slurm = group.create_task(bounded(seconds, "Slurm", None, _check_slurm(variables, seconds)))
                finding = group.create_task(_check_allocation(variables, seconds))
            allotted = finding.result()
            late = "Its file system hangs: choose another with --run-dir, or tell the administrators"
            directory = await bounded(seconds, "run directory", None, _check_run_directory(run_dir, held), late)
            granted: Allocation | None = allotted.found
            site = reach.Site(
                settings=settings,
                directory=directory.found,
                scratch=Path(scratch),
                seconds=seconds,
                granted={node.name: node for node in granted.nodes} if granted else None,
            )
            made = [configuration, slurm.result(), allotted, directory]
            nodes = list(dict.fromkeys(nodes)) or list(site.granted or ())
            if not nodes:
                made.append(_no_nodes(slurm.result()))
            made += await _check_places(nodes, granted, site)
            return sorted(made, key=lambda check: ORDER.index(check.name))
        finally:
            with suppress(TimeoutError):  # it hangs; a check has reported that
                async with asyncio.timeout(seconds):
                    await in_thread(held.close)


def _check_configuration(variables: Mapping[str, str]) -> tuple[Check, Settings]:
    """Read the settings; if they cannot be read, the other checks use the defaults."""
    try:
        settings = read_settings(variables)
    except ConfigurationError as error:
        fix = "Correct it there, or remove it; the other checks are made with the defaults"
        return failed("configuration", str(error), fix), Settings()
    changed = attrs.asdict(settings, filter=lambda field, value: value != field.default)
    words = ", ".join(f"{name} = {value!r}" for name, value in changed.items()) or "all settings have their defaults"
    return ok("configuration", words, **attrs.asdict(settings)), settings


async def _check_slurm(variables: Mapping[str, str], seconds: float) -> Check:
    """Check that Slurm is there and its controller answers; `data["nodes"]` is then the list of all nodes."""
    if shutil.which("sinfo", path=variables.get("PATH")) is None:
        if "SLURM_JOB_ID" in variables:
            fix = f"Put Slurm's commands into PATH, which is {variables.get('PATH', '')}"
            return failed("Slurm", "there is an allocation, but no sinfo in PATH", fix)
        return skipped("Slurm", "there is no sinfo in PATH; without Slurm there is run_job_local()")

    commands = Commands(variables)
    try:
        version = await commands.output("sinfo", "--version", timeout=max(seconds - 1, 1.0))
        nodes = await commands.output("sinfo", "--noheader", "--format=%N", timeout=max(seconds - 1, 1.0))
    except SlurmError as error:
        if NOT_CONFIGURED in str(error) and "SLURM_JOB_ID" not in variables:
            fix = "If this machine belongs to a cluster, SLURM_CONF has to name its slurm.conf"
            return skipped("Slurm", "its commands are here, but no configuration; there is run_job_local()", fix)
        fix = "`scontrol ping` shows whether the controller runs; SLURM_CONF and munge have to be right on this host"
        return failed("Slurm", str(error), fix)
    return ok(
        "Slurm", f"{version.strip()}; the controller answers", version=version.strip(), nodes=" ".join(nodes.split())
    )


async def _check_allocation(variables: Mapping[str, str], seconds: float) -> Check:
    """Read the allocation of this process; it is the `found` of the check."""
    name = "allocation"
    if "SLURM_JOB_ID" not in variables:
        return skipped(name, "this is not inside one")

    async def check() -> Check:
        ask = functools.partial(run_command, timeout=max(seconds - 1, 1.0))
        try:
            granted = await in_thread(lambda: allocation.find(variables, ask))
        except SlurmError as error:
            fix = "The variables SLURM_* of a job have to be as Slurm set them; `env | grep ^SLURM_` shows them"
            return failed(name, str(error), fix)
        end = "no time limit"
        if granted.end_time is not None:
            left = max(granted.end_time - time.time(), 0.0) / 60
            at = datetime.fromtimestamp(granted.end_time).astimezone()
            end = f"ends at {at:%Y-%m-%d %H:%M} (in {left:.0f} minutes)"
        data = {member: getattr(granted, member) for member in ("job_id", "here", "end_time", "restart_count")}
        words = f"job {granted.job_id}: {variables['SLURM_JOB_NODELIST']}, {granted.cpus} CPUs, {end}"
        check = ok(name, words, **data, nodes={node.name: node.cpus for node in granted.nodes})
        return attrs.evolve(check, found=granted)

    return await bounded(seconds, name, None, check(), "`scontrol ping` shows whether the controller answers")


async def _check_run_directory(run_dir: Path, held: ExitStack) -> Check:
    """Make a directory in the run directory; it is the `found` of the check, and `held` removes it."""
    name = "run directory"

    def look() -> Check:
        directory = held.enter_context(_directory_for_checks(run_dir))
        free, kind = shutil.disk_usage(run_dir).free, place.file_system_type(run_dir)
        detail = f"{run_dir} on {kind or 'an unknown type of file system'}, {free / 1e9:.1f} GB free"
        check = ok(name, detail, path=str(run_dir), file_system=kind, free_bytes=free)
        if free < LITTLE_SPACE:
            check = warning(name, detail, "Free space there, or choose another with --run-dir", **check.data)
        return attrs.evolve(check, found=directory)

    try:
        return await in_thread(look)  # if it ends too late, its directory stays: the file system hangs anyway
    except ConfigurationError as error:
        fix = f"Choose one that can be written: {verdicts.OTHER_RUN_DIR}"
        return failed(name, str(error), fix, path=str(run_dir))


@contextmanager
def _directory_for_checks(run_dir: Path) -> Iterator[Path]:
    """Make a program's directory, as a run does; afterwards remove all that was made. Blocks."""
    made = [path for path in (run_dir, *run_dir.parents) if not path.exists()]
    program = attrs.evolve(ProgramInfo.new(run_dir), temporary=True)
    try:
        yield program.log_dir.parent
    finally:
        program.remove()
        for path in made:
            with suppress(OSError):  # another process uses it now
                path.rmdir()


async def _check_places(nodes: Sequence[str], granted: Allocation | None, site: reach.Site) -> list[Check]:
    """Check SQLite, this machine and the nodes, all at once."""
    here = granted.here if granted else None
    room = asyncio.Semaphore(NODES_AT_A_TIME)

    async def check_node(node: str) -> list[Check]:
        async with room:
            return await reach.check_node(node, site)

    async with asyncio.TaskGroup() as group:
        database = group.create_task(_check_sqlite(site))
        this = group.create_task(reach.check_this_machine(here or socket.gethostname(), site))
        others = [group.create_task(check_node(node)) for node in nodes if node != here]
    return [database.result(), *this.result(), *(check for other in others for check in other.result())]


def _no_nodes(slurm: Check) -> Check:
    example = slurm.data.get("nodes") or "node[1-3]"
    fix = f"`hyperflow doctor --nodes '{example}'`, or run it within an allocation: `salloc --nodes=2 hyperflow doctor`"
    return skipped("nodes", "no allocation, and none were named", fix)


async def _check_sqlite(site: reach.Site) -> Check:
    directory = site.directory
    if directory is None:
        return skipped("SQLite", "the run directory cannot be written")
    return await bounded(site.seconds, "SQLite", None, in_thread(lambda: sqlite(directory)), OTHER_DATABASE)


def sqlite(directory: Path) -> Check:
    """Make a results database, and use it as a run does. Blocks."""
    path, program = directory / "results.sqlite", directory.name
    try:
        place.check(path)
        with ExitStack() as stack:
            stack.callback(Ownership.acquire(path, program).release)
            with closing(DatabaseFile.open(path, program)) as file:
                started = time.perf_counter()
                file.insert([("doctor", "key", "value")])
                seconds = time.perf_counter() - started
                wal = file.wal
            with closing(DatabaseFile.open(path, program)) as again:
                found = again.load("doctor")["key"].text
    except (ConfigurationError, DatabaseError, OSError, KeyError) as error:
        return failed("SQLite", str(error), OTHER_DATABASE)
    if found != "value":
        return failed("SQLite", f"what was written was not there when it was read: {found!r}", OTHER_DATABASE)
    return verdicts.database(place.file_system_type(path), place.is_local(path), wal, seconds)
