"""Jobs as a table."""

from __future__ import annotations

import io
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from hyperflow.master.lifecycle import State
from hyperflow.master.view import JobView
from hyperflow.saying import age

STYLES = {
    State.NEW: "dim",
    State.SUBMITTING: "cyan",
    State.QUEUED: "cyan",
    State.RUNNING: "green",
    State.ENDED: "green",
    State.DONE: "dim green",
    State.FAILED: "bold red",
    State.HELD: "bold yellow",
    State.CANCELLED: "dim",
}

URGENCY = (
    *(State.HELD, State.FAILED, State.RUNNING, State.ENDED, State.QUEUED),
    *(State.SUBMITTING, State.NEW, State.CANCELLED, State.DONE),
)
"""When not all jobs fit, jobs in the first of these states are shown."""

NARROW = 90
"""In a narrower terminal the table omits columns that `hyperflow why` also shows."""

UNLIMITED = 100_000

GAP = 2
"""Blanks between columns."""

CUT: tuple[str, ...] = ("job", "nodes or reason")
"""Columns to cut when the table is too wide."""

RIGHT = ("#", "Slurm", "done/run/fail", "d/r/f", "since")


def jobs_table(
    jobs: Sequence[JobView], now: float, *, width: int, rows: int | None = None, slurm: bool = True
) -> Table:
    """Return the table of jobs for a terminal of this width, with so many rows; `slurm` shows their ids there."""
    picked = shown(jobs, rows)
    columns = _columns(picked, now, slurm, width >= NARROW)
    longest = {heading: max(map(cell_len, [heading, *cells])) for heading, cells in columns.items()}
    # rich itself would shrink all columns alike, and cut states and numbers.
    room = width - sum(longest[heading] + GAP for heading in columns if heading not in CUT) - GAP * len(CUT)
    mine, other = (longest[heading] for heading in CUT)
    widths = dict(zip(CUT, _shared(mine, other, max(room // 2, 4)), strict=True))
    columns["job"] = [_without_middle(cell, widths["job"]) for cell in columns["job"]]
    table = plain_table()
    for heading in columns:
        fixed, least = widths.get(heading), None if heading in widths else longest[heading]
        justify: JustifyMethod = "right" if heading in RIGHT else "left"
        table.add_column(heading, justify=justify, no_wrap=True, width=fixed, min_width=least)
    for job, *cells in zip(picked, *columns.values(), strict=True):
        table.add_row(*(Text(cell, STYLES[job.state] if cell == str(job.state) else "") for cell in cells))
    return table


def plain_table() -> Table:
    """Return a table without lines."""
    return Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")


def _columns(jobs: Sequence[JobView], now: float, slurm: bool, wide: bool) -> dict[str, list[str]]:
    """Return the cells of all columns, by heading."""
    columns = {"#": [str(job.number) for job in jobs], "job": [one_line(job.name) for job in jobs]}
    columns["state"] = [str(job.state) for job in jobs]
    if slurm and wide:
        columns["Slurm"] = ["" if job.batch_id is None else str(job.batch_id) for job in jobs]
    columns["nodes or reason"] = [one_line(job.cause or job.reason or job.nodes) for job in jobs]
    counts = [f"{job.progress.done}/{job.progress.running}/{job.progress.failed}" for job in jobs]
    columns["done/run/fail" if wide else "d/r/f"] = counts
    if wide:
        columns["since"] = [age(now - job.since) for job in jobs]
    return columns


def _without_middle(text: str, width: int) -> str:
    """Return a text that fits, with its beginning and its end: calls of one function differ anywhere."""
    if cell_len(text) <= width or width < 3:
        return text
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    while cell_len(head) > width // 2:
        head = head[:-1]
    while cell_len(tail) > width - 1 - cell_len(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def _shared(one: int, other: int, half: int) -> tuple[int, int]:
    """Return the widths of two columns that share two halves; what one does not need, the other gets."""
    if one <= half:
        return one, min(other, 2 * half - one)
    return min(one, 2 * half - min(other, half)), min(other, half)


def shown(jobs: Sequence[JobView], rows: int | None) -> list[JobView]:
    """Return as many jobs as fit, the most urgent ones, in their order."""
    if rows is None or len(jobs) <= rows:
        return list(jobs)
    chosen = sorted(jobs, key=lambda job: URGENCY.index(job.state))[: max(rows, 1)]
    kept = {job.number for job in chosen}
    return [job for job in jobs if job.number in kept]


def counts_in_words(states: Iterable[State]) -> str:
    """Return the number of jobs in each state: `1 held, 3 running, 12 done`."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in URGENCY if counts[state]) or "no jobs yet"


def jobs_in_words(count: int) -> str:
    """Return `1 job`, `2 jobs`."""
    return "1 job" if count == 1 else f"{count} jobs"


def held_in_words(jobs: Iterable[JobView]) -> str:
    """Return what to type about held jobs, "" if there are none."""
    held = [job.number for job in jobs if job.state is State.HELD]
    return f"held jobs wait for you: hyperflow why {held[0]}" if held else ""


def as_typed(where: Path | str) -> str:
    """Return a path as users type it: relative if it is below the current directory."""
    try:
        return str(where.relative_to(Path.cwd())) if isinstance(where, Path) else where
    except (ValueError, OSError):
        return str(where)


def resume_command(home: Path) -> str:
    """Return the command that continues a run."""
    return shlex.join(["hyperflow", "resume", as_typed(home)])


def print_lines(rows: Sequence[Sequence[str]], file: TextIO) -> None:
    """Print rows in columns, the first one as headings, uncut. (rich takes 0.3 ms for a row.)"""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell + " " * (width - cell_len(cell) + GAP) for cell, width in zip(row, widths, strict=True))
        file.write("".join(cells).rstrip() + "\n")


def width_of(file: TextIO) -> int:
    """Return how long a line may be: as wide as the terminal; in a file, as long as it is."""
    return Console(file=file).width if file.isatty() else UNLIMITED


def print_note(text: str, file: TextIO) -> None:
    """Print a sentence, broken between words where it is longer than a line may be."""
    print(textwrap.fill(text, width_of(file), break_long_words=False, break_on_hyphens=False), file=file)


def print_table(table: Table, file: TextIO) -> None:
    """Print a table: cut to the width of a terminal; to a file in full, one line for each row."""
    if file.isatty():
        Console(file=file, highlight=False).print(table)
        return
    buffer = io.StringIO()
    Console(file=buffer, width=UNLIMITED, color_system=None, highlight=False).print(table)
    file.writelines(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def one_line(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())
