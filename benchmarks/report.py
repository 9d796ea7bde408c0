"""From results to docs/benchmarks.json, .md and .svg; `python -m benchmarks.report` makes the last two anew.

Guarantees: docs/benchmarks.json has every figure of every turn, and the other two are made of nothing else. A run that
asks some of the questions replaces their figures and leaves the others, each with its own date; figures of another
machine are dropped. All figures are judged by the goals of today. In docs/benchmarks.md only what stands between
`<!-- made: NAME -->` and `<!-- end -->` is replaced: the prose around is written by hand, and survives.
"""

import contextlib
import datetime
import importlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import OURS, QUESTIONS, TOP, Question, Result

Record = dict[str, Any]
"""One question and what was found, as it is in the JSON file."""

DATA, TEXT = (TOP / "docs" / f"benchmarks.{suffix}" for suffix in ("json", "md"))
PLOT = TOP / "docs" / "pictures" / "benchmarks.svg"
NODES_PLOT = TOP / "docs" / "pictures" / "nodes.svg"

FEW = 6
"""Figures of a contestant that are told beside it; more have a table of their own."""

OURS_TOO = ("numpy", "asyncssh", "uvloop", "dill")
"""What hyperflow itself stands on here."""

TOOLS = ("cloudpickle", "matplotlib", "psutil", "py-spy", "scipy")
"""Of the requirements, those that are no peers."""

START = """\
# Benchmarks

What hyperflow costs, beside other libraries that can do the same work and beside the bare thing underneath.

    make bench                                # all questions, in .venv-bench, where the peers are installed
    .venv-bench/bin/python -m benchmarks many # one question; --write puts its figures in here
    .venv-bench/bin/python -m benchmarks goals # what has to be reached, a line each; also single ones, by name
    .venv-bench/bin/python -m benchmarks scale # the head alone, with 10 to 4,000 nodes (--nodes, --seconds, ...)

<!-- made: pictures -->
<!-- end -->

## Goals

<!-- made: summary -->
<!-- end -->

## How it was measured

Each figure is the median of several turns, with the range from the least to the greatest in brackets. A turn is a
process of its own: it starts the library, warms it up, does the work between two readings of the clock, checks every
answer, and shuts everything down. The contestants of a question take turns (A B C, A B C), so that a machine that is
slow for a while is slow for all of them. What a contestant could not do is told, not left out.

A goal that speaks of peers means all of them in its table, `multiprocessing.Pool` first: where it can do the work, it
is the one to beat. Single calls go through its `imap` with a chunk size of 1, which costs it least.

Where the head itself is the question, with up to 4,000 nodes, all launchers and workers are one small C program that
answers in their place (`benchmarks/stand_in.c`; a test compares it with a real launcher, frame by frame). So those
figures are the head's alone, and need no cluster.

Questions that go through ssh use a real cluster on this machine (`tests/cluster`): slurmctld, slurmd and sshd, each
host in namespaces of its own. Bytes go through sshd and a virtual network card, not through a cable, and all hosts
share this machine's CPUs.

<!-- made: machine -->
<!-- end -->

## Questions

<!-- made: questions -->
<!-- end -->
"""


def write(results: Sequence[Result]) -> None:
    """Take results in and make the three files anew. A quick run has no figures to take in."""
    if harness.quick():
        print("the figures of a quick run mean nothing: not written", file=sys.stderr)
        return
    data = read()
    here = machine()
    if data["machine"] != here:
        data = {"machine": here, "questions": {}}
    for result in results:
        asked = {*result.turns, *result.skipped}
        if asked.issuperset(result.question.contestants):
            data["questions"][result.question.key] = record(result)
        else:
            print(f"{result.question.key}: not written, for only some contestants were asked", file=sys.stderr)
    DATA.parent.mkdir(exist_ok=True)
    DATA.write_text(json.dumps(data, indent=1) + "\n")
    make(data)


def read() -> dict[str, Any]:
    """Return what has been found so far."""
    return json.loads(DATA.read_text()) if DATA.exists() else {"machine": None, "questions": {}}


def make(data: Mapping[str, Any]) -> None:
    """Make text and plot from the data."""
    records = {key: judged(key, found) for key, found in in_order(data["questions"]).items()}
    text = TEXT.read_text() if TEXT.exists() else START
    text = replaced(text, "pictures", pictures(records))
    text = replaced(text, "summary", summary(records))
    text = replaced(text, "machine", conditions(data["machine"], records))
    text = replaced(text, "questions", "\n\n".join(section(key, record) for key, record in records.items()))
    TEXT.write_text(text)
    plot(records, PLOT)
    if nodes := records.get("nodes"):
        plot_nodes(nodes, NODES_PLOT)


def judged(key: str, found: Record) -> Record:
    """Return a record with the goal as it is now, which the figures may miss although they were there before it."""
    if key not in QUESTIONS:
        return found
    question: Question = importlib.import_module(f"benchmarks.{key}").QUESTION
    result = Result(question, found["turns"], found["skipped"])
    contestants = list(dict.fromkeys([*question.contestants, *found["contestants"]]))
    now = {"goal": question.goal, "reached": result.reached, "missed_by": missed_by(result)}
    return {**found, **now, "contestants": contestants}


def in_order(found: Mapping[str, Record]) -> dict[str, Record]:
    """Return the records in the order of the questions; unknown ones at the end."""
    return {key: found[key] for key in [*QUESTIONS, *sorted(found.keys() - set(QUESTIONS))] if key in found}


# ---- data ---------------------------------------------------------------------------------------------------------


def record(result: Result) -> Record:
    """Return a result as plain data."""
    question = result.question
    return {
        "title": question.title,
        "unit": question.unit,
        "better": question.better,
        "goal": question.goal,
        "reached": result.reached,
        "missed_by": missed_by(result),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "contestants": list(question.contestants),
        "turns": {name: [dict(turn) for turn in turns] for name, turns in result.turns.items()},
        "skipped": dict(result.skipped),
        "ratios": result.ratios,
        "versions": versions(),
    }


def missed_by(result: Result) -> float | None:
    """Return how many times better hyperflow's value would have to be for its goal, if that is all there is to it.

    Where hyperflow is not a contestant by that name, the last contestant's value is meant.
    """
    found = result.medians
    ours = OURS if OURS in found else next(reversed(found), "")
    if result.reached or not ours:
        return None
    better = 1.01 if result.question.better == "higher" else 1 / 1.01
    for step in range(1, 700):
        changed = {**found[ours], "value": found[ours]["value"] * better**step}
        with contextlib.suppress(KeyError, ValueError):  # of somebody who has no figures
            if result.question.reached({**found, ours: changed}):
                return 1.01**step
    return None


def machine() -> dict[str, str]:
    """Return what this machine is."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "CPU": f"{len(os.sched_getaffinity(0))} of {models[0] if models else platform.machine()}",
        "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Return the versions of hyperflow, of what it stands on, and of its peers."""
    lines = (TOP / "benchmarks" / "requirements.txt").read_text().splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    peers = [name for name in names if name not in TOOLS]
    found = {"hyperflow": f"{_version('hyperflow')} ({_commit()})"}
    found |= {name: _version(name) for name in (*OURS_TOO, *peers) if _version(name)}
    for name, argv in PROGRAMS.items():
        if said := _says(argv):
            found[name] = said.removeprefix(name).lstrip("_ ")
    return found


PROGRAMS = {"slurm": ("slurmd", "-V"), "OpenSSH": ("ssh", "-V")}


def _version(name: str) -> str:
    try:
        return metadata.version(re.split(r"[\[<>=~! ]", name)[0])
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    commit = _says(("git", "-C", str(TOP), "rev-parse", "--short", "HEAD")) or "no commit known"
    changed = _says(("git", "-C", str(TOP), "status", "--porcelain", "--", "hyperflow"))
    return f"{commit}, with changes" if changed else commit


def _says(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip().partition("\n")[0].partition(",")[0] if done.returncode == 0 else ""


def values(found: Record, name: str) -> list[float]:
    """Return the compared value of each of a contestant's turns."""
    return [turn["value"] for turn in found["turns"][name]]


def medians(found: Record, name: str) -> dict[str, float]:
    """Return the median of each figure of a contestant."""
    turns = found["turns"][name]
    return {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}


# ---- text ---------------------------------------------------------------------------------------------------------


def replaced(text: str, name: str, made: str) -> str:
    """Return the text with what stands between a pair of marks replaced."""
    marks = re.compile(rf"(<!-- made: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(text):
        raise ValueError(f"{TEXT} has no mark `<!-- made: {name} -->` with an `<!-- end -->` after it")
    return marks.sub(lambda found: f"{found[1]}\n{made}\n\n{found[2]}", text, count=1)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: int = 1) -> str:
    """Return a table in Markdown; all columns after the first `right` are set to the right."""
    line = ["---"] * right + ["---:"] * (len(headings) - right)
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in (headings, line, *rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def number(value: float) -> str:
    """Return a number as people write it: three digits that mean something."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(found: Record, name: str) -> str:
    """Return a median with its range."""
    all_of_it = values(found, name)
    median = number(statistics.median(all_of_it))
    return median if len(all_of_it) == 1 else f"{median} ({number(min(all_of_it))} to {number(max(all_of_it))})"


def pictures(records: Mapping[str, Record]) -> str:
    """Show those pictures for which there are figures."""
    shown = ["![What one evaluation costs](pictures/benchmarks.svg)"]
    if "nodes" in records:
        shown.append("![What the head costs with many nodes](pictures/nodes.svg)")
    return "\n\n".join(shown)


def summary(records: Mapping[str, Record]) -> str:
    """Return the table of goals."""
    rows = [
        (f"[{record['title']}](#{key.replace('_', '-')})", record["goal"], measured(record), verdict(record))
        for key, record in records.items()
    ]
    return table(("question", "goal", "measured", "reached"), rows, right=4)


def measured(found: Record) -> str:
    """Return hyperflow's figure, and the others that its goal may speak of: all if they are few, else the best."""
    names = [name for name in found["contestants"] if name in found["turns"]]
    if len(names) > 3:
        names = [OURS, *others_by(found, names)[:2]] if OURS in names else [names[0], names[-1]]
    return f"{found['unit']}: " + "; ".join(f"{name} {spread(found, name)}" for name in names)


def others_by(found: Record, names: Sequence[str]) -> list[str]:
    """Return all but hyperflow, the best first."""
    return sorted((name for name in names if name != OURS), key=lambda name: _badness(found, name))


def _badness(found: Record, name: str) -> float:
    value = statistics.median(values(found, name))
    return -value if found["better"] == "higher" else value


def verdict(found: Record) -> str:
    """Say whether a goal is reached, or by how much it is missed."""
    if found["reached"]:
        return "yes"
    factor = found["missed_by"]
    return "**no**" if factor is None else f"**no**: {factor:.2f} times better is needed"


def conditions(here: Mapping[str, str], records: Mapping[str, Record]) -> str:
    """Return machine, versions and dates."""
    lines = [f"- {what}: {value}" for what, value in here.items()]
    by_versions: dict[str, list[str]] = {}
    for key, record in records.items():
        said = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        by_versions.setdefault(f"{record['date']}: {said}", []).append(key)
    for said, keys in by_versions.items():
        which = "" if len(by_versions) == 1 else f" (for {', '.join(keys)})"
        lines.append(f"- {said}{which}")
    return "\n".join(lines)


def section(key: str, found: Record) -> str:
    """Return one question's part."""
    rows: list[tuple[str, ...]] = []
    there = {name: medians(found, name) for name in found["contestants"] if name in found["turns"]}
    many = max(map(len, there.values()), default=0) > FEW
    for name in found["contestants"]:
        if name in there:
            ratio = found["ratios"].get(name)
            beside = ", ".join(f"{what} {number(value)}" for what, value in there[name].items() if what != "value")
            beside = "" if many else beside
            said = "" if ratio is None or name == OURS else number(ratio)
            rows.append((name, spread(found, name), said, beside))
        else:
            rows.append((name, "", "", f"no figures: {found['skipped'].get(name, 'it was not asked')}"))
    headings = ("", found["unit"], "times hyperflow's cost", "beside it")
    turns = max((len(turns) for turns in found["turns"].values()), default=0)
    how = f"{turns} turn{'s' if turns != 1 else ''} each, {found['date']}"
    goal = f"Goal: {found['goal']}. Reached: {verdict(found)}."
    text = f'<a id="{key.replace("_", "-")}"></a>\n\n### {found["title"]}\n\n{goal} ({how})\n\n{table(headings, rows)}'
    return f"{text}\n\n{figures_of(there)}" if many else text


def figures_of(there: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table with a row for each figure and a column for each contestant."""
    names = dict.fromkeys(what for figures in there.values() for what in figures if what != "value")
    rows = [(what, *(number(figures[what]) if what in figures else "" for figures in there.values())) for what in names]
    return table(("", *there), rows)


# ---- plot ---------------------------------------------------------------------------------------------------------

PANELS = {
    "many": "Many evaluations side by side: time for each (× hyperflow's)",
    "round_trip": "One evaluation at a time: median round trip (× hyperflow's)",
}
BLUE, GREY, INK, LIGHT = "#1f6feb", "#8c959f", "#24292f", "#e1e6ec"
WHITE = {"fc": "white", "ec": "none", "pad": 1}
BESIDE = {"xytext": (9, 0), "textcoords": "offset points", "va": "center", "fontsize": 9, "bbox": WHITE}
"""How words stand to the right of a dot, on the lines of the grid."""


def plot(records: Mapping[str, Record], path: Path) -> None:
    """Draw what one evaluation costs: the median as a dot on its range, on an axis of powers of ten."""
    panels = [(records[key], title) for key, title in PANELS.items() if key in records and records[key]["turns"]]
    if not panels:
        return
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    # Text as text, and nothing that changes from run to run but the figures.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "hyperflow", "font.family": "sans-serif"})
    counts = [len(record["turns"]) for record, _ in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(8.6, 0.8 * len(panels) + 0.29 * sum(counts)), sharex=True, squeeze=False,
        gridspec_kw={"height_ratios": [count + 1 for count in counts]},
    )  # fmt: skip
    for (found, title), ax in zip(panels, axes[:, 0], strict=True):
        draw(ax, found, title)
    smallest = min(min(values(found, name)) for found, _ in panels for name in found["turns"])
    largest = max(max(values(found, name)) for found, _ in panels for name in found["turns"])
    axes[-1, 0].set_xlim(10 ** math.floor(math.log10(smallest)), largest * 12)  # room for the words on the right
    ticks = [10**power for power in range(math.floor(math.log10(smallest)), math.ceil(math.log10(largest)) + 1)]
    axes[-1, 0].set_xticks(ticks, [duration(tick) for tick in ticks])
    figure.tight_layout(h_pad=1.2)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def plot_nodes(found: Record, path: Path) -> None:
    """Draw what each task costs the head, and how busy it keeps all CPUs, by the number of nodes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "hyperflow", "font.family": "sans-serif"})
    there = {int(name.split()[0].replace(",", "")): medians(found, name) for name in found["turns"]}
    nodes = sorted(there)
    panels = {
        "The head's CPU time for each task, µs": {"filling": "fill_us_each", "steady": "steady_us_each"},
        "CPUs kept busy, of all": {"steady": "efficiency"},
        "The event loop's longest delay, s": {
            "filling": "fill_lag_s",
            "steady": "steady_lag_s",
            "5% lost": "lost_lag_s",
        },
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.2))
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for (label, key), colour in zip(lines.items(), (BLUE, GREY, INK), strict=False):
            ax.plot(nodes, [there[count][key] for count in nodes], "o-", color=colour, label=label)
        ax.set_xscale("log")
        ax.set_xticks(nodes, [f"{count:,}" for count in nodes])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.set_xlabel("nodes of 128 CPUs", color=INK)
        ax.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        ax.grid(color=LIGHT, linewidth=0.7)
        ax.tick_params(length=0, colors=INK)
        ax.legend(frameon=False, fontsize=9)
        for side in ("top", "right", "left", "bottom"):
            ax.spines[side].set_visible(False)
    figure.tight_layout(w_pad=2)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def draw(ax: Any, found: Record, title: str) -> None:
    """Draw one question, the best on top."""
    names = sorted(found["turns"], key=lambda name: _badness(found, name), reverse=True)
    ours = statistics.median(values(found, OURS)) if OURS in names else None
    ax.set_xscale("log")
    for y, name in enumerate(names):
        colour = BLUE if name == OURS else GREY
        every = values(found, name)
        median = statistics.median(every)
        ax.plot((min(every), max(every)), (y, y), color=colour, linewidth=5, alpha=0.35, solid_capstyle="round")
        ax.plot(median, y, "o", color=colour, markersize=8)
        ratio = "" if ours is None or name == OURS else f"   × {number(median / ours)}"
        ax.annotate(duration(median) + ratio, (max(every), y), color=INK, **BESIDE)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(-0.8, len(names) - 0.2)
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    ax.grid(color=LIGHT, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.minorticks_off()
    ax.tick_params(length=0, colors=INK, labelbottom=True)
    for label, name in zip(ax.get_yticklabels(), names, strict=True):
        label.set_color(BLUE if name == OURS else INK)
        label.set_fontweight("bold" if name == OURS else "normal")
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)


def duration(microseconds: float) -> str:
    """Return a duration in the unit that fits."""
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= size:
            return f"{number(microseconds / size)} {unit}"
    return f"{number(microseconds)} µs"


if __name__ == "__main__":
    make(read())
