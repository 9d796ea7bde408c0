"""The figures on the page that compares are those that were measured."""

import re

import pytest

from tests.imports import TOP

PAGE = (TOP / "docs" / "compared.md").read_text(encoding="utf-8")
MEASURED = (TOP / "docs" / "benchmarks.md").read_text(encoding="utf-8")
HEAD, *ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## What it costs")[2].splitlines()
    if line.startswith("|") and "---" not in line
]
QUESTIONS = [re.findall(r"\(benchmarks\.md#([\w-]+)\)", cell)[0] for cell in HEAD[1:]]


def _number(text: str) -> float:
    return float(text.strip("*").replace(",", ""))


def _measured(question: str, name: str) -> list[float]:
    """Return the medians that docs/benchmarks.md has for a library: one for each way to use it."""
    section = MEASURED.partition(f'<a id="{question}"></a>')[2].partition("<a id=")[0]
    return [_number(one) for one in re.findall(rf"^\| {name}(?:[ -][\w-]+)* \| ([\d.,]+) \(", section, re.MULTILINE)]


@pytest.mark.parametrize(("column", "question"), list(enumerate(QUESTIONS, 1)))
def test_figures_are_those_measured(column: int, question: str) -> None:
    """Each library has the best of its medians, none is left out, and the best of the column is in bold."""
    shown = {row[0]: row[column] for row in ROWS}
    best = min(_number(cell) for cell in shown.values() if cell)
    for name, cell in shown.items():
        measured = _measured(question, name)
        assert ([_number(cell)] if cell else []) == ([min(measured)] if measured else []), name
        assert cell.startswith("**") == (cell != "" and _number(cell) == best), name


def test_there_are_rows() -> None:
    """The table is found, with us in its first row, and peers win some columns."""
    assert len(QUESTIONS) >= 7
    assert len(ROWS) > 10
    assert ROWS[0][0] == "hyperflow"
    assert any(cell and not cell.startswith("**") for cell in ROWS[0][1:])
