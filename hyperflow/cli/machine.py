"""What `hyperflow init` finds out about a machine: its Slurm, one of its nodes, the directory, Python.

Each question has a time limit, and what it starts is killed with all its children when that is over. Nothing is left
behind, and nothing is submitted.
"""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import attrs

from hyperflow.cli.check import Check, in_thread
from hyperflow.database import place
from hyperflow.errors import SlurmError
from hyperflow.saying import printable
from hyperflow.slurm import nodelist, partitions
from hyperflow.slurm.commands import Commands
from hyperflow.slurm.partitions import Partition


@attrs.frozen
class Slurm:
    """What Slurm says of itself.

    Args:
        version: As `sinfo --version` has it; "" where there is no Slurm here, and `absent` says why.
        problem: Why nothing is known of its partitions, although there is a Slurm.
        unread: How many lines of sinfo were not understood.
        accounts: The accounts of this user, as far as accounting tells them.
        accounting: Whether a job needs an account that Slurm knows.
        tmp: Where nodes have room for temporary files, as the site says it; "" for /tmp.
    """

    version: str = ""
    absent: str = "there is no sinfo in PATH"
    problem: str = ""
    partitions: tuple[Partition, ...] = ()
    unread: int = 0
    accounts: tuple[str, ...] = ()
    accounting: bool = False
    tmp: str = ""


@attrs.frozen
class Machine:
    """What was found.

    Args:
        directory: Where the job is to run, and the type of its file system; `python`, the interpreter, in the same way.
        modules: The modules that are loaded here.
        node: The node that was tried, "" for none; `checks` is what the doctor found there and here.
    """

    host: str
    slurm: Slurm
    directory: Path
    directory_type: str
    python: Path
    python_type: str
    modules: tuple[str, ...] = ()
    node: str = ""
    checks: tuple[Check, ...] = ()

    def check(self, name: str) -> Check | None:
        """Return what the doctor found of the node that was tried; of this machine, if none was."""
        of_one = {None, self.node or self.host}
        return next((check for check in self.checks if check.name == name and check.node in of_one), None)

    @property
    def shared(self) -> bool | None:
        """Whether nodes see the directory; None if nobody knows."""
        tried = self.check("shared directory")
        if tried is not None and tried.status in {"ok", "warning"}:
            return True
        if (tried is not None and tried.status == "failed") or self.directory_type in place.LOCAL_FILE_SYSTEMS:
            return False
        return None


async def look_at_slurm(variables: Mapping[str, str], seconds: float) -> Slurm:
    """Ask Slurm what it has, each question for so many seconds."""
    commands = Commands(variables)
    if not commands.has("sinfo"):
        return Slurm()
    try:
        version = await commands.output("sinfo", "--version", timeout=seconds)
        nodes = await commands.output(*partitions.ASK_NODES, timeout=seconds)
    except SlurmError as error:
        from hyperflow.cli import doctor  # noqa: PLC0415 (asyncssh: every command would wait for it)

        if doctor.NOT_CONFIGURED in str(error):
            return Slurm(absent="its commands are here, but no configuration; SLURM_CONF names it on a cluster")
        return Slurm("Slurm", problem=str(error))
    rules, settings, accounts = "", dict[str, str](), tuple[str, ...]()
    try:
        rules = await commands.output(*partitions.ASK_RULES, timeout=seconds)
        settings = partitions.configuration(await commands.output(*partitions.ASK_CONFIGURATION, timeout=seconds))
        accounts = await _accounts(commands, seconds)
    except SlurmError:
        pass  # what is missing is not written
    found, unread = partitions.read(nodes, rules)
    problem = ""
    if not found:
        first = printable(next(iter(nodes.splitlines()), "nothing"))[:100]
        problem = f"sinfo names no partition that you may use; it said: {first}"
    enforced = settings.get("AccountingStorageEnforce", "none").lower()
    tmp = settings.get("TmpFS", "")
    return Slurm(
        version=printable(version.strip())[:60] or "Slurm",
        problem=problem,
        partitions=found,
        unread=unread,
        accounts=accounts,
        accounting="associations" in enforced,
        tmp=tmp if tmp.startswith("/") and tmp.isprintable() and not set(tmp) & set("%\"'\\ ") else "",
    )


async def _accounts(commands: Commands, seconds: float) -> tuple[str, ...]:
    if not commands.has("sacctmgr"):
        return ()
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ()
    asked = ("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=Account")
    names = (await commands.output(*asked, timeout=seconds)).split()
    return tuple(name for name in dict.fromkeys(names) if partitions.is_name(name))


async def look_around(
    variables: Mapping[str, str], slurm: Slurm, chosen: Partition | None, directory: Path, seconds: float
) -> Machine:
    """Look at this machine, and try one node of a partition as a run would use it."""
    node = _node_of(chosen) if chosen is not None and "SLURM_JOB_ID" not in variables else ""
    checks: list[Check] = []
    if not slurm.problem:
        limits = {f"HYPERFLOW_{name}_TIMEOUT": f"{seconds:g}" for name in ("CONNECT", "START")}
        from hyperflow.cli import doctor  # noqa: PLC0415 (as above)

        checks = await doctor.examine({**variables, **limits}, [node] * bool(node), directory, seconds)
    if "SLURM_JOB_ID" in variables:
        node = next((check.node for check in checks if check.name == "ssh" and check.node), "")
    python = Path(sys.executable)
    return Machine(
        host=socket.gethostname(),
        slurm=slurm,
        directory=directory.parent,
        directory_type=await in_thread(lambda: place.file_system_type(directory.parent)),
        python=python,
        python_type=await in_thread(lambda: place.file_system_type(Path(sys.prefix))),
        modules=tuple(filter(str.isprintable, filter(None, variables.get("LOADEDMODULES", "").split(":")))),
        node=node,
        checks=tuple(checks),
    )


def _node_of(chosen: Partition) -> str:
    try:
        return next(iter(nodelist.expand(chosen.ready)), "")
    except SlurmError:
        return ""
