"""The figures on the page that compares are those that were measured."""

import re

import pytest

from tests.imports import TOP

PAGE = (TOP / "docs" / "compared.md").read_text(encoding="utf-8")
MEASURED = (TOP / "docs" / "benchmarks.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \[.+\]\(benchmarks\.md#([\w-]+)\).*? \| (.+) \|$", PAGE, re.MULTILINE)


def _figures(cells: str) -> list[tuple[str, str]]:
    """Return who has which figure in the cells of a row; the first one is ours."""
    ours, *others = re.split(r" \| |, (?!\d{3})", cells.replace("**", ""))
    return [("hyperflow", ours), *((name, figure) for name, _, figure in (other.rpartition(" ") for other in others))]


@pytest.mark.parametrize(("question", "cells"), ROWS)
def test_figures_are_those_measured(question: str, cells: str) -> None:
    """Each contestant has the median that docs/benchmarks.md has for the question; none is ahead of the strongest."""
    section = MEASURED.partition(f'<a id="{question}"></a>')[2].partition("<a id=")[0]
    figures = _figures(cells)
    for name, figure in figures:
        assert f"| {name} | {figure} (" in section, (question, name)
    values = [float(figure.replace(",", "")) for _, figure in figures[1:]]
    assert values[0] == min(values)


def test_there_are_rows() -> None:
    """The table is found, and the strongest peer is marked wherever it is ahead of us."""
    assert len(ROWS) >= 7
    for _, cells in ROWS:
        ours, strongest = (float(figure.replace(",", "")) for _, figure in _figures(cells)[:2])
        assert ("**" in cells) == (strongest < ours), cells
