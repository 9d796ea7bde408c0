"""What a notebook shows of our objects."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

import hyperflow as hf
from hyperflow import displays
from hyperflow.master.view import ClusterStatistics
from hyperflow.testing import open_inline_job


def shown(thing: Any) -> str:
    """Return what a notebook shows of something."""
    html: str = thing._repr_html_()
    assert html.count("<div>") == html.count("</div>")
    return html


def test_texts_are_escaped_and_cut() -> None:
    """Nothing of the user's can break the page, nor fill it."""
    nasty = "<script>&\"'"
    for html in (
        displays.table(nasty, [nasty], [[nasty]], nasty),
        displays.facts(nasty, {nasty: nasty}),
        displays.code(nasty, nasty, nasty),
        displays.error(nasty, ValueError(nasty)),
    ):
        assert "<script>" not in html
        assert "&lt;script&gt;" in html
    assert len(displays.facts("", {"long": "x" * 10**6})) < 2 * displays.LONGEST


def test_flow() -> None:
    """It says that nothing runs yet, and what to write."""
    html = shown(hf.remote_eval(abs, -1))
    assert "<code>await hyperflow.remote_eval(abs, -1)</code>" in html
    assert "Job" in html


async def test_environment_and_statistics() -> None:
    """Nodes, CPUs, workers and evaluations in words, options that were changed, and where results and logs are."""
    async with open_inline_job(cpus=3) as env:
        await hf.remote_eval(abs, -1)
        assert "3, 3 free" in shown(env.statistics())
        html = shown(env.using(retries=2))
        assert "1 done" in html
        assert "retries=2" in html
        assert str(env.program.database) in html


def test_statistics_of_a_cluster() -> None:
    """Jobs by state; what never happened is left out."""
    html = shown(ClusterStatistics({"running": 2, "held": 0}, 0, 2, 0, 0, 0, 0, 1, 0, 0, {"sbatch": 3}))
    assert "2 running, 1 retried" in html
    assert "held" not in html
    assert "sbatch 3" in html


async def test_map() -> None:
    """Its newest entries; without an environment, and while it is empty, it says so."""
    squares = hf.KeyValMap[int, int]("squares")
    assert "environment" in shown(squares)
    async with open_inline_job():
        assert "no entries yet" in shown(squares)
    async with hf.open_local_job(cpus=1):
        assert "no entries yet" in shown(squares)
        for x in (*range(30), 29):
            await squares.insert(x, x * x)
        html = shown(squares)
        assert "30 entries" in html
        assert "and 11 older ones" in html or "and 10 older ones" in html
        assert html.count(">841<") == 1


@attrs.define(slots=False)
class BadText(Exception):
    """An exception whose text cannot be made."""

    def __str__(self) -> str:
        raise SystemExit


@pytest.mark.parametrize(
    "make", [hf.MisuseError, lambda: hf.HyperflowError("<b>"), lambda: hf.Failed(3, "f(3)", BadText())]
)
def test_errors(make: Callable[[], Any]) -> None:
    """Class, text and notes, also of an error that cannot be read."""
    error = make()
    (error.error if isinstance(error, hf.Failed) else error).add_note("remote Traceback: <in f>")
    html = shown(error)
    assert "remote Traceback: &lt;in f&gt;" in html
    assert ("place 3: f(3)" in html) == isinstance(error, hf.Failed)
