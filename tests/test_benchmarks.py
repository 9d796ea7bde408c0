"""The benchmarks, as far as that costs nothing: their questions, their goals, and a small run of the head alone."""

import importlib
import inspect
import shutil

import pytest

from benchmarks import goals, harness, scale
from benchmarks.harness import QUESTIONS, Question


@pytest.mark.parametrize("key", QUESTIONS)
def test_contestants_are_there(key: str) -> None:
    """Each contestant is a function that takes the words after it."""
    question: Question = importlib.import_module(f"benchmarks.{key}").QUESTION
    assert question.key == key
    for where in question.contestants.values():
        contestant = harness.load(where)
        inspect.signature(contestant.func).bind(*contestant.args)  # type: ignore[attr-defined]


def test_goals_name_contestants() -> None:
    """Each row compares those who take turns."""
    for goal in goals.GOALS:
        question = goals.question_of(goal.question)
        assert set(goal.names) <= set(question.contestants), goal


def test_the_strongest_peer_counts() -> None:
    """Also where that is multiprocessing's Pool."""
    question: Question = importlib.import_module("benchmarks.many").QUESTION
    values = {"hyperflow": 4.0, "mpire": 50.0}
    assert question.reached({name: {"value": value} for name, value in values.items()})
    values["multiprocessing"] = 18.0
    assert not question.reached({name: {"value": value} for name, value in values.items()})


@pytest.mark.process
@pytest.mark.skipif(shutil.which("cc") is None, reason="the stand-in is compiled")
def test_a_small_life() -> None:
    """Three nodes are filled, kept busy and drained; then one of them is lost, and all results are there."""
    figures = scale.of_life("3", "2", "0.02", "4", "map", "lose")

    assert figures["tasks"] == 30
    assert figures["lost_nodes"] == 1
    assert 0 < figures["efficiency"] <= 1
