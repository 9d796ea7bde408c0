"""`python -m benchmarks`: runs the questions and prints a table for each."""

import importlib
import os
import sys
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from benchmarks import goals, harness, scale
from benchmarks.harness import OURS, QUESTIONS, Question, Result

app = cyclopts.App(name="python -m benchmarks", help=__doc__)
FEW = 6
"""Figures of a contestant that are told beside it; more have a table of their own."""

console = Console(width=None if sys.stdout.isatty() else 140)


@app.default
def main(
    *questions: str,
    rounds: int | None = None,
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    quick: bool = False,
    write: bool = False,
) -> int:
    """Measure, and print one table for each question.

    Args:
        questions: Which; all if none is named.
        rounds: How many turns each contestant has; 5, or fewer where the question says so.
        only: Only these contestants.
        quick: One round of a tenth of the work: to see that everything works. Its figures mean nothing.
        write: Write docs/benchmarks.md, .json and .svg, too.
    """
    if quick:
        os.environ[harness.QUICK] = "1"
        rounds = 1
    for key in questions:
        if key not in QUESTIONS:
            console.print(f"There is no question {key!r}; there are {', '.join(QUESTIONS)}.")
            return 2
    results: list[Result] = []
    for key in questions or QUESTIONS:
        question: Question = importlib.import_module(f"benchmarks.{key}").QUESTION
        results.append(harness.run(question, rounds or question.rounds or 5, only))
        console.print(table(results[-1]))
        if any(len(figures) > FEW for figures in results[-1].medians.values()):
            console.print(figures_of(results[-1]))
    if write:
        from benchmarks import report  # it needs matplotlib

        report.write(results)
    return int(any(result.skipped.get(OURS, "").startswith("failed") for result in results))


app.command(scale.main, name="scale")
app.command(goals.main, name="goals")


def table(result: Result) -> Table:
    """Show one question: who took how long, and how hyperflow compares."""
    question, medians, ratios = result.question, result.medians, result.ratios
    shown = Table(
        title=f"{question.key}: {question.title}, {question.unit}",
        caption=f"Goal: {question.goal}: {'reached' if result.reached else 'not reached'}",
        title_justify="left",
        caption_justify="left",
    )
    shown.add_column("")
    for heading in ("median", "range", "to hyperflow's", "beside it"):
        shown.add_column(heading, justify="right")
    for name in question.contestants:
        if name in medians:
            values = [turn["value"] for turn in result.turns[name]]
            figures = medians[name] if len(medians[name]) <= FEW else {}
            beside = ", ".join(f"{key} {number(value)}" for key, value in figures.items() if key != "value")
            ratio = f"{number(ratios[name])} times" if name in ratios else ""
            spread = f"{number(min(values))} to {number(max(values))}"
            shown.add_row(name, number(medians[name]["value"]), spread, ratio, beside)
        elif name in result.skipped:
            shown.add_row(name, "", "", "", result.skipped[name])
    return shown


def figures_of(result: Result) -> Table:
    """Show all figures of each contestant, where they are many."""
    medians = result.medians
    shown = Table()
    shown.add_column("")
    for name in medians:
        shown.add_column(name, justify="right")
    for what in dict.fromkeys(what for figures in medians.values() for what in figures):
        shown.add_row(what, *(number(figures[what]) if what in figures else "" for figures in medians.values()))
    return shown


def number(value: float) -> str:
    """Write a number with three digits that count, or all of them before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(app())
