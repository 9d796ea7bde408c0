"""The checks that are not about one node: Slurm, the allocation, the run directory, SQLite in it.

Each returns a Check. Blocking work runs in a separate thread.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from hyperflow.cli import verdicts
from hyperflow.cli.check import Check, failed, in_thread, ok, skipped, warning
from hyperflow.config import Settings, read_settings
from hyperflow.database import place
from hyperflow.database.file import DatabaseFile
from hyperflow.database.ownership import Ownership
from hyperflow.errors import ConfigurationError, DatabaseError, SlurmError
from hyperflow.program import ProgramInfo
from hyperflow.slurm import allocation
from hyperflow.slurm.scontrol import run_command

NOT_CONFIGURED = "Could not establish a configuration source"
"""Slurm's commands print this on a machine where they are installed but not configured."""

LITTLE_SPACE = 1 << 30
"""With fewer free bytes than this in the run directory, there is a warning."""


def configuration(variables: Mapping[str, str]) -> tuple[Check, Settings]:
    """Read the settings; if they cannot be read, the other checks use the defaults."""
    try:
        settings = read_settings(variables)
    except ConfigurationError as error:
        fix = "Correct it there, or remove it; the other checks are made with the defaults"
        return failed("configuration", str(error), fix), Settings()
    changed = {
        field.name: value
        for field in attrs.fields(Settings)
        if (value := getattr(settings, field.name)) != field.default
    }
    words = ", ".join(f"{name} = {value!r}" for name, value in changed.items()) or "all settings have their defaults"
    return ok("configuration", words, **attrs.asdict(settings)), settings


async def slurm(variables: Mapping[str, str], seconds: float) -> Check:
    """Check that Slurm is there and its controller answers; `data["nodes"]` is then the list of all nodes."""
    if shutil.which("sinfo", path=variables.get("PATH")) is None:
        if "SLURM_JOB_ID" in variables:
            fix = f"Put Slurm's commands into PATH, which is {variables.get('PATH', '')}"
            return failed("Slurm", "there is an allocation, but no sinfo in PATH", fix)
        return skipped("Slurm", "there is no sinfo in PATH; without Slurm there is run_job_local()")

    def look() -> tuple[str, str]:
        limit = max(seconds - 1, 1.0)
        version = run_command(["sinfo", "--version"], {}, limit).strip()
        return version, run_command(["sinfo", "--noheader", "--format=%N"], {}, limit).strip()

    try:
        version, nodes = await in_thread(look)
    except SlurmError as error:
        if NOT_CONFIGURED in str(error) and "SLURM_JOB_ID" not in variables:
            fix = "If this machine belongs to a cluster, SLURM_CONF has to name its slurm.conf"
            return skipped("Slurm", "its commands are here, but no configuration; there is run_job_local()", fix)
        fix = "`scontrol ping` shows whether the controller runs; SLURM_CONF and munge have to be right on this host"
        return failed("Slurm", str(error), fix)
    return ok("Slurm", f"{version}; the controller answers", version=version, nodes=" ".join(nodes.split()))


async def find_allocation(variables: Mapping[str, str], seconds: float) -> tuple[Check, allocation.Allocation | None]:
    """Read the allocation of this process."""
    name = "allocation"
    if "SLURM_JOB_ID" not in variables:
        return skipped(name, "this is not inside one"), None
    try:
        granted = await in_thread(
            lambda: allocation.find(variables, functools.partial(run_command, timeout=max(seconds - 1, 1.0)))
        )
    except SlurmError as error:
        fix = "The variables SLURM_* of a job have to be as Slurm set them; `env | grep ^SLURM_` shows them"
        return failed(name, str(error), fix), None
    end = "no time limit"
    if granted.end_time is not None:
        left = max(granted.end_time - time.time(), 0.0) / 60
        end = f"ends at {datetime.fromtimestamp(granted.end_time).astimezone():%Y-%m-%d %H:%M} (in {left:.0f} minutes)"
    data: dict[str, Any] = {
        "job_id": granted.job_id,
        "nodes": {node.name: node.cpus for node in granted.nodes},
        "here": granted.here,
        "end_time": granted.end_time,
        "restart_count": granted.restart_count,
    }
    words = f"job {granted.job_id}: {variables['SLURM_JOB_NODELIST']}, {granted.cpus} CPUs, {end}"
    return ok(name, words, **data), granted


@contextmanager
def directory_for_checks(run_dir: Path) -> Iterator[Path]:
    """Make a program's directory, as a run does; afterwards remove all that was made. Blocks.

    Raises:
        ConfigurationError: It cannot be made or written.
    """
    made = [path for path in (run_dir, *run_dir.parents) if not path.exists()]
    program = attrs.evolve(ProgramInfo.new(run_dir), temporary=True)
    try:
        yield program.log_dir.parent
    finally:
        program.remove()
        for path in made:
            with suppress(OSError):  # somebody else uses it now
                path.rmdir()


def run_directory(run_dir: Path) -> Check:
    """Report on a run directory that can be written: file system and free space."""
    free, kind = shutil.disk_usage(run_dir).free, place.file_system_type(run_dir)
    detail = f"{run_dir} on {kind or 'an unknown type of file system'}, {free / 1e9:.1f} GB free"
    data: dict[str, Any] = {"path": str(run_dir), "file_system": kind, "free_bytes": free}
    if free < LITTLE_SPACE:
        return warning("run directory", detail, "Free space there, or choose another with --run-dir", **data)
    return ok("run directory", detail, **data)


def no_run_directory(run_dir: Path, error: str) -> Check:
    """Report that the run directory cannot be used."""
    fix = "Choose one that can be written: `hyperflow doctor --run-dir DIR`, and ProgramInfo.new(DIR) in the program"
    return failed("run directory", error, fix, path=str(run_dir))


def sqlite(directory: Path) -> Check:
    """Make a results database, and use it as a run does. Blocks."""
    path = directory / "results.sqlite"
    try:
        place.check(path)
        ownership = Ownership.acquire(path, directory.name)
        try:
            file = DatabaseFile.open(path, directory.name)
            try:
                started = time.perf_counter()
                file.insert([("doctor", "key", "value")])
                seconds = time.perf_counter() - started
                wal = file.wal
            finally:
                file.close()
            again = DatabaseFile.open(path, directory.name)
            try:
                found = again.load("doctor")["key"].text
            finally:
                again.close()
        finally:
            ownership.release()
    except (ConfigurationError, DatabaseError, OSError, KeyError) as error:
        return no_sqlite(str(error))
    if found != "value":
        return no_sqlite(f"what was written was not there when it was read: {found!r}")
    return verdicts.database(place.file_system_type(path), place.is_local(path), wal, seconds)


def no_sqlite(error: str) -> Check:
    """Report that a database cannot be in the run directory."""
    fix = "Keep the database elsewhere: ProgramInfo.new(DIR, database=FILE); only the program itself needs to see FILE"
    return failed("SQLite", error, fix)
