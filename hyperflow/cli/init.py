"""`hyperflow init`: looks at the machine, and writes a configuration and a batch script for it."""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import App, Parameter, validators
from rich.text import Text

from hyperflow import config, files
from hyperflow.cli import drafts, machine
from hyperflow.cli.answers import REFUSED, answering, cancel_on_signals
from hyperflow.cli.drafts import Choice
from hyperflow.cli.machine import Machine
from hyperflow.console.table import plain_table, print_note, print_table
from hyperflow.errors import ConfigurationError, SlurmError
from hyperflow.saying import in_one_line, printable, unfit_name
from hyperflow.slurm.client import PollIntervals, SlurmClient

TRIED = ".hyperflow-init-"
"""What the name of the directory begins with in which the doctor tries things."""

FINDINGS = ("ssh", "srun", "shared directory", "Python", "SQLite")
"""What is shown of the doctor's checks."""


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(init))


@attrs.frozen
class Target:
    """A file that is to be written: what it is for, its text, and the text that is there (None for no file)."""

    what: str
    path: Path
    text: bytes
    before: bytes | None

    @property
    def diff(self) -> list[str]:
        """How the file would change, as lines of a unified diff."""
        old = (self.before or b"").decode(errors="replace").splitlines()
        new = self.text.decode(errors="replace").splitlines()
        name = printable(str(self.path))
        return list(difflib.unified_diff(old, new, "/dev/null" if self.before is None else name, name, lineterm=""))

    def write(self, force: bool) -> str:
        """Write it, and return what became of it: "written", "unchanged", "kept".

        Raises:
            ConfigurationError: It cannot be written.
        """
        if self.before == self.text:
            return "unchanged"
        if self.before is not None and not force:
            return "kept"
        if self.path.is_symlink() and force:
            raise ConfigurationError(f"{self.path} is a symbolic link; name the file itself with --{self.what}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if force:
                files.write_whole(self.path, self.text)
            else:
                files.put_new(self.path, self.text)
        except FileExistsError:  # another process was quicker, or it is a link to nothing
            same = not self.path.is_symlink() and files.read_text(self.path).encode() == self.text
            return "unchanged" if same else "kept"
        except OSError as error:
            fix = f"name another place with --{self.what}"
            raise ConfigurationError(f"cannot write {self.path}: {error.strerror or error}; {fix}") from None
        return "written"


def init(  # noqa: PLR0913 (each is an option of the command line)
    program: Path | None = None,
    *,
    partition: str = "",
    nodes: int | None = None,
    cpus: int | None = None,
    time: str = "",
    config: Path | None = None,
    script: Path = Path("job.sbatch"),
    force: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    timeout: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 10.0,
) -> int:
    """Look at this machine, and write a commented configuration and a batch script for it.

    It asks Slurm for its partitions, tries one node as `hyperflow doctor` does (by ssh; in an allocation by srun, too),
    and looks at the file systems of this directory and of Python. Each line of what it writes says what was found. A
    file that is there stays, unless --force is given. Without Slurm it writes the configuration only.

    Exit codes: 0, done; 1, refused, or a file that differs was kept, or Slurm does not answer or refuses the script.

    Parameters
    ----------
    program
        What the script runs; by default `hyperflow doctor`, which checks the allocation.
    partition
        By default the site's default one.
    nodes
        How many nodes the script asks for; by default 2.
    cpus
        CPUs on each node; by default 4, or all where jobs get whole nodes.
    time
        The time limit, as for sbatch: minutes, or 2:00:00; by default an hour.
    config
        Where the configuration goes; by default where hyperflow looks for it, ~/.config/hyperflow/config.toml.
    script
        Where the batch script goes.
    force
        Replace files that are there.
    dry_run
        Write nothing; show what would be written, as differences to what is there.
    timeout
        Seconds that each question to Slurm, and each try of a node, may take.
    """
    place = _place(config)
    if program is not None and (reason := unfit_name(str(program))):
        raise ConfigurationError(f"{str(program)!r} cannot be named in a batch script: {reason}")
    if sys.stderr.isatty():
        print("Looking ...", file=sys.stderr)
    from hyperflow._job import run_in_new_loop  # noqa: PLC0415 (it takes a while)

    directory = Path(f"{TRIED}{os.urandom(4).hex()}").absolute()  # of its own: two may look at once
    looking = _look(partition, (nodes, cpus, time), directory, timeout)
    try:
        found, choice = run_in_new_loop(looking)
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    targets = [_target("config", place, drafts.configuration(found))]
    failures = [found.slurm.problem] if found.slurm.problem else []
    if choice is not None:
        elsewhere = None if config is None and "HYPERFLOW_CONFIG" not in os.environ else place
        text = drafts.script(found, choice, program, elsewhere)
        targets.append(_target("script", script, text))
        failures += run_in_new_loop(_refusal(text, timeout))
    _print_findings(found, choice)
    kept, unwritten = _show(targets) if dry_run else _write(targets, force)
    for failure in (*unwritten, *failures):
        print("\n".join(map(printable, f"hyperflow: {failure}".splitlines())), file=sys.stderr)
    if not unwritten:
        after = _next(found, choice, script, place if config is not None else None)
        print_note("next: " + ", then ".join(f"`{command}`" for command in after), sys.stdout)
    return REFUSED if kept or unwritten or failures else 0


def _place(given: Path | None) -> Path:
    """Return where the configuration goes."""
    if given is not None:
        return given.absolute()
    if not any(os.environ.get(name) for name in ("HYPERFLOW_CONFIG", "XDG_CONFIG_HOME", "HOME")):
        raise ConfigurationError("HOME is not set, so there is no place for the configuration: name one with --config")
    return config.place(os.environ).absolute()


async def _look(
    partition: str, wanted: tuple[int | None, int | None, str], directory: Path, seconds: float
) -> tuple[Machine, Choice | None]:
    cancel_on_signals()
    slurm = await machine.look_at_slurm(os.environ, seconds)
    if partition and not slurm.version:
        raise ConfigurationError(f"--partition {partition}: there is no Slurm here: {slurm.absent}")
    choice = drafts.choose(slurm, partition, *wanted)
    chosen = choice.partition if choice is not None else None
    return await machine.look_around(os.environ, slurm, chosen, directory, seconds), choice


async def _refusal(text: str, seconds: float) -> list[str]:
    """Ask Slurm whether it would take a script; return what it says if not."""
    try:
        await SlurmClient(PollIntervals(timeout=seconds)).test(text)
    except SlurmError as error:
        return [f"Slurm would refuse the script: {error}"]
    return []


def _target(what: str, path: Path, text: str) -> Target:
    """Read what is there; raises ConfigurationError for what is no ordinary file."""
    before: bytes | None = None
    try:
        with files.opened(path) as file:
            before = file.read()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}; name another with --{what}") from None
    return Target(what, path, text.encode(errors="surrogateescape"), before)


def _next(found: Machine, choice: Choice | None, script: Path, place: Path | None) -> list[str]:
    """Return what to type next."""
    variable = f"HYPERFLOW_CONFIG={shlex.quote(str(place))} " if place is not None else ""
    doctor = "hyperflow doctor"
    if choice is None:
        return [variable + doctor]
    ssh = found.check("ssh")
    named = f" --nodes {found.node}" if ssh is not None and ssh.status == "ok" else ""
    return [f"{variable}{doctor}{named}", f"sbatch {shlex.quote(str(script))}"]


def _print_findings(found: Machine, choice: Choice | None) -> None:
    table = plain_table()
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.show_header = False
    for status, name, node, text in _findings(found, choice):
        table.add_row(*map(Text, (status, name, node, in_one_line(text))))
    print_table(table, sys.stdout)


def _findings(found: Machine, choice: Choice | None) -> list[tuple[str, str, str, str]]:
    """Return what was found, line by line: how it is, what, where, and in words."""
    slurm = found.slurm
    rows: list[tuple[str, str, str, str]] = []
    if not slurm.version:
        rows.append(("skipped", "Slurm", "", f"{slurm.absent}: so no batch script; run_job_local() needs none"))
    elif slurm.problem:
        rows.append(("FAILED", "Slurm", "", slurm.problem))
    else:
        count = len(slurm.partitions)
        unread = f"; {slurm.unread} lines of sinfo were not understood" if slurm.unread else ""
        rows.append(("ok", "Slurm", "", f"{slurm.version}, {count} partition{'s' * (count != 1)}{unread}"))
    if choice is not None:
        bad = not choice.partition.up or choice.partition.nodes == choice.partition.broken
        rows.append(("warning" if bad else "ok", "partition", "", drafts.partition_in_words(choice.partition)))
    settings = found.check("configuration")
    if settings is not None and settings.status == "failed":
        rows.append(("FAILED", "configuration", "", f"the one that is there: {settings.detail}"))
    for name in FINDINGS:
        check = found.check(name)
        if check is not None and check.status != "skipped":
            status = "FAILED" if check.status == "failed" else str(check.status)
            if name == "ssh" and status == "FAILED":
                status = "warning"  # in an allocation it may work, and srun may do
            rows.append((status, name, check.node or "", check.detail))
    rows.append(_directory(found))
    return rows


def _directory(found: Machine) -> tuple[str, str, str, str]:
    """Return what was found of the current directory."""
    made = found.check("run directory")
    if made is not None and made.status == "failed":
        return "FAILED", "directory", "", re.sub(rf"/{TRIED}\w+(/[\w-]+)?", "", made.detail).partition(";")[0]
    words = {True: "shared", False: "of this machine alone", None: "mostly shared; no node was asked"}[found.shared]
    lonely = found.shared is False and found.slurm.version
    text = f"{found.directory} is on {found.directory_type or 'an unknown type of file system'}, {words}"
    return "warning" if lonely else "ok", "directory", "", text


def _show(targets: Sequence[Target]) -> tuple[bool, list[str]]:
    """Print how the files would change; nothing is kept, and nothing fails."""
    for target in targets:
        print("\n".join(map(printable, target.diff)) or f"{printable(str(target.path))}: would not change")
    return False, []


def _write(targets: Sequence[Target], force: bool) -> tuple[bool, list[str]]:
    """Write the files, and say of each what became of it; return whether one was kept, and why others failed."""
    kept, failures = False, list[str]()
    for target in targets:
        name = printable(str(target.path))
        try:
            state = target.write(force)
        except ConfigurationError as error:
            failures.append(str(error))
            continue
        if state == "kept":
            kept = True
            changed = sum(line[:1] in "+-" for line in target.diff[2:])
            print(f"kept {name}, which differs in {changed} lines: --dry-run shows them, --force replaces it")
        else:
            print(f"wrote {name}" if state == "written" else f"{name} is as it would be written")
    return kept, failures
