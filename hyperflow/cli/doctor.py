"""The doctor: runs all checks, those of different nodes side by side, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from hyperflow.cli import checks, reach, verdicts
from hyperflow.cli.check import Check, Status, bounded, in_thread, skipped
from hyperflow.errors import ConfigurationError
from hyperflow.slurm.allocation import Allocation

NODES_AT_A_TIME = 32

ORDER = (
    *("configuration", "Slurm", "allocation", "run directory", "SQLite"),
    *("nodes", "ssh", "srun", "shared directory", "Python", "CPUs"),
)
"""The order of checks in the report; within one, the nodes keep their order."""


async def examine(variables: Mapping[str, str], nodes: Sequence[str], run_dir: Path, seconds: float) -> list[Check]:
    """Run all checks, and return what they found.

    Args:
        variables: The environment variables.
        nodes: The nodes to check; if empty, those of the allocation.
        run_dir: The directory for runs; if it does not exist, it is made for the checks and removed.
        seconds: How long each check may take.
    """
    configuration, settings = checks.configuration(variables)
    async with asyncio.TaskGroup() as group:
        slurm = group.create_task(bounded(seconds, "Slurm", None, checks.slurm(variables, seconds)))
        finding = group.create_task(_find_allocation(variables, seconds))
    found, granted = finding.result()
    with tempfile.TemporaryDirectory(prefix="hyperflow-doctor-", ignore_cleanup_errors=True) as scratch:
        held = ExitStack()
        try:
            place, directory = await _prepare(run_dir, seconds, held)
            site = reach.Site(
                settings=settings,
                directory=directory,
                scratch=Path(scratch),
                seconds=seconds,
                in_allocation=granted is not None,
                granted={node.name: node.cpus for node in granted.nodes} if granted else {},
            )
            made = [configuration, slurm.result(), found, place]
            made += await _check_places(_named(nodes, granted), granted, site, slurm.result())
            return sorted(made, key=lambda check: ORDER.index(check.name))
        finally:
            await _let_go(held, seconds)


def _named(nodes: Sequence[str], granted: Allocation | None) -> list[str]:
    if nodes or granted is None:
        return list(dict.fromkeys(nodes))
    return [node.name for node in granted.nodes]


async def _find_allocation(variables: Mapping[str, str], seconds: float) -> tuple[Check, Allocation | None]:
    kept: list[Allocation | None] = []

    async def find() -> Check:
        check, granted = await checks.find_allocation(variables, seconds)
        kept.append(granted)
        return check

    check = await bounded(seconds, "allocation", None, find(), "`scontrol ping` shows whether the controller answers")
    return check, kept[0] if kept else None


async def _prepare(run_dir: Path, seconds: float, held: ExitStack) -> tuple[Check, Path | None]:
    """Make a directory in the run directory, which `held` removes."""
    kept: list[Path] = []

    async def prepare() -> Check:
        try:
            # If the thread ends too late, its directory stays: the file system hangs anyway.
            kept.append(await in_thread(lambda: held.enter_context(checks.directory_for_checks(run_dir))))
        except ConfigurationError as error:
            return checks.no_run_directory(run_dir, str(error))
        return await in_thread(lambda: checks.run_directory(run_dir))

    late = "Its file system hangs: choose another with --run-dir, or tell the administrators"
    check = await bounded(seconds, "run directory", None, prepare(), late)
    return check, kept[0] if kept and check.status in (Status.OK, Status.WARNING) else None


async def _let_go(held: ExitStack, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await in_thread(held.close)
    except TimeoutError:
        pass  # it hangs; a check has reported that


async def _check_places(nodes: list[str], granted: Allocation | None, site: reach.Site, slurm: Check) -> list[Check]:
    """Check SQLite, this machine and the nodes, all at once."""
    here = (granted.here if granted else None) or socket.gethostname()
    room = asyncio.Semaphore(NODES_AT_A_TIME)

    async def check_node(node: str) -> list[Check]:
        async with room:
            return await reach.check_node(node, site)

    async with asyncio.TaskGroup() as group:
        database = group.create_task(_check_sqlite(site))
        this = group.create_task(reach.check_this_machine(here, site))
        others = [group.create_task(check_node(node)) for node in nodes if granted is None or node != granted.here]
    made = [database.result()]
    if not nodes:
        made.append(verdicts.no_nodes(str(slurm.data.get("nodes", ""))))
    return made + this.result() + [check for other in others for check in other.result()]


async def _check_sqlite(site: reach.Site) -> Check:
    directory = site.directory
    if directory is None:
        return skipped("SQLite", "the run directory cannot be written")
    late = checks.no_sqlite("").fix
    return await bounded(site.seconds, "SQLite", None, in_thread(lambda: checks.sqlite(directory)), late)
