"""What is kept of an array: the same tasks, read back; their keys; shares of them; which start it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperflow.commands.checking import check
from hyperflow.commands.form import Form
from hyperflow.commands.keys import key_of
from hyperflow.commands.reading import read_numbers
from hyperflow.commands.shares import chosen_of, share_of, shares_of
from hyperflow.commands.spec import ArraySpec, Way
from hyperflow.commands.starts import Start
from hyperflow.commands.tally import Counts
from hyperflow.commands.task_spec import TaskSpec
from hyperflow.errors import ConfigurationError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n"), min_size=1, max_size=9)
words = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6), max_size=4)


def form(*command: str, **more: Any) -> Form:
    """Return a form of lines."""
    return Form(command, "/base", ("line", "n"), **more)


@given(st.lists(texts, min_size=1, max_size=9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines_are_kept(tmp_path: Path, lines: list[str]) -> None:
    """An array of lines is the same when it is read back."""
    made = form("./x", "{line}", "{n}", env={"A": "{line}"}, inputs=("/in/f{n}",), outputs=("o{n}",), stdin="s{n}")
    way = Way("slurm", 3, sbatch={"nodes": 2})
    spec = ArraySpec("lines", lines, made, {"cpus": 2}, 5, way, "/base", ("array", "x"))
    spec.write(tmp_path)
    again = ArraySpec.read(tmp_path)
    assert list(again.tasks()) == list(spec.tasks())
    assert again.task(1) == TaskSpec(
        1,
        ("./x", lines[0], "1"),
        cwd="/base",
        env={"A": lines[0]},
        stdin="/base/s1",
        inputs={"f1": "/in/f1"},
        outputs=("o1",),
    )
    assert (again.options, again.max_failed, again.way, again.words) == ({"cpus": 2}, 5, way, ("array", "x"))


def test_others_are_kept(tmp_path: Path) -> None:
    """So are numbers, objects and tasks of a file."""
    made = Form(("./x", "{n}"), "/base", ("n",))
    tasks = [TaskSpec(1, ("a", "b\nc"), "x"), TaskSpec(2, ("a",), after=(1,), inputs={"a": "/b"}, options={"cpus": 2})]
    numbers = ArraySpec("numbers", read_numbers("1-9:2,20"), made)
    objects = ArraySpec("objects", ['{"x": "a\\nb"}'], Form(("{json.x}",), "/base", ("json.*", "n")))
    for spec in (numbers, objects, ArraySpec("tasks", tasks)):
        spec.write(tmp_path)
        assert list(ArraySpec.read(tmp_path).tasks()) == list(spec.tasks())
    assert [task.command for task in numbers.tasks([5, 6])] == [("./x", "9"), ("./x", "20")]
    assert ArraySpec.read(tmp_path).after == {2: (1,)}
    with pytest.raises(IndexError, match="there is no task 3: they are numbered from 1 to 2"):
        ArraySpec.read(tmp_path).task(3)


@pytest.mark.parametrize("damage", ["{", "{}", '{"format": 2}'])
def test_damaged(tmp_path: Path, damage: str) -> None:
    """What cannot be read is told as that."""
    ArraySpec("lines", ["a"], form("x")).write(tmp_path)
    (tmp_path / "spec.json").write_text(damage)
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        ArraySpec.read(tmp_path)
    ArraySpec("lines", ["a"], form("x")).write(tmp_path)
    (tmp_path / "values").write_text("a\nb")
    with pytest.raises(ConfigurationError, match="2 values in place of 1"):
        ArraySpec.read(tmp_path)


@given(st.lists(st.tuples(words, st.dictionaries(texts, texts, max_size=2), st.sampled_from(["", "d"])), max_size=8))
def test_keys(given_tasks: list[tuple[list[str], dict[str, str], str]]) -> None:
    """Tasks that differ in anything that counts have other keys, wherever one word ends and the next begins."""
    keys = [key_of(argv, "/", env, stdin) for argv, env, stdin in given_tasks]
    for one, key in zip(given_tasks, keys, strict=True):
        assert [other == one for other in given_tasks] == [other == key for other in keys]
        assert key != key_of(one[0], "/other", one[1], one[2])
        assert key != key_of(one[0], "/", one[1], one[2], {"a": "b"})


@given(st.integers(1, 50), st.integers(1, 9))
def test_shares(count: int, wanted: int) -> None:
    """Shares are consecutive, of about the same size, and have each task once."""
    spec = ArraySpec("numbers", read_numbers(f"1-{count}"), Form(("x",), "/", ("n",)))
    shares = shares_of(spec, wanted)
    found = [share_of(spec, which, shares) for which in range(shares)]
    assert [number for share in found for number in share] == list(range(1, count + 1))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert min(map(len, found)) >= 1


def chain(*after: Sequence[int]) -> ArraySpec:
    """Return tasks that come after these."""
    return ArraySpec("tasks", [TaskSpec(number, ("x",), after=tuple(each)) for number, each in enumerate(after, 1)])


def test_shares_of_a_graph() -> None:
    """Tasks that come after each other are in one share; where all do, that is refused."""
    spec = chain((), (1,), (), (3,), ())
    assert [share_of(spec, which, 2) for which in range(shares_of(spec, 2))] == [[1, 2, 5], [3, 4]]
    assert shares_of(spec, 9) == 3
    with pytest.raises(ConfigurationError, match="--nodes 2"):
        shares_of(chain((), (1,)), 2)


def test_chosen() -> None:
    """What comes after a chosen task is chosen, too."""
    spec = chain((), (1,), (2,), ())
    assert chosen_of(spec, "2") == {2, 3}
    assert chosen_of(spec, "failed") == "failed"
    assert chosen_of(spec, "") is None
    with pytest.raises(ConfigurationError, match="there is no task 5; they are numbered from 1 to 4"):
        chosen_of(spec, "2-5")


def test_starts(tmp_path: Path) -> None:
    """One that has ended is followed by another number; one that was killed goes on, with what was asked for."""
    assert Start.read(tmp_path) is None
    start = Start(1, "3")
    start.write(tmp_path)
    assert Start.read(tmp_path) == start
    assert start.next("", takes_over=True) == start
    assert start.next("", takes_over=False) == Start(2, "")
    with pytest.raises(ConfigurationError, match="hyperflow resume"):
        start.next("4", takes_over=True)
    ended = attrs.evolve(start, counts=Counts(done=5, failed=1, failures=(3,)))
    ended.write(tmp_path)
    assert Start.read(tmp_path) == ended
    assert ended.next("failed", takes_over=True) == Start(2, "failed")


def test_counts() -> None:
    """Counts of shares add up."""
    both = Counts(5, 1, known=2, failures=(9,)) + Counts(1, 2, 3, 4, 5, failures=(2, 12))
    assert both == Counts(6, 3, 3, 4, 5, 2, (2, 9, 12))
    assert both.in_words() == "6 done (2 of them before), 3 failed, 3 skipped, 4 cancelled, 5 left"
    assert not both.all_done
    assert Counts(5, waiting=3).all_done


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("true", "{json.y}"), "object 2 has no 'y', as {json.y} needs it; it has yy. Did you mean yy?"),
        (("true", "{json.z}"), "object 1 has no 'z'"),
        (("true", "{json.x}"), "object 1: 'x' is null, which is no word"),
    ],
)
def test_members_that_are_not_there(command: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """A member that an object does not have, or that is no word, is told before anything runs."""
    values = ['{"x": null, "y": 1}', '{"yy": 1}']
    with pytest.raises(ConfigurationError) as refused:
        check(ArraySpec("objects", values, Form(command, str(tmp_path), ("json.*", "n"))))
    assert said in str(refused.value)


def test_words_that_cannot_be_arguments(tmp_path: Path) -> None:
    """A NUL anywhere, line breaks in names and words that are too long are told, all at once."""
    tasks = [
        TaskSpec(1, ("true", "a\0b"), cwd=str(tmp_path)),
        TaskSpec(2, ("true",), cwd=str(tmp_path), env={"A": "\0"}),
        TaskSpec(3, ("true",), cwd=str(tmp_path), stdin="/a\nb"),
        TaskSpec(4, ("true", "x" * 200_000), cwd=str(tmp_path)),
        TaskSpec(5, ("true", "a\nb"), cwd=str(tmp_path)),
        TaskSpec(6, ("",), cwd=str(tmp_path)),
    ]
    with pytest.raises(ConfigurationError) as refused:
        check(ArraySpec("tasks", tasks))
    error = str(refused.value)
    for said in (
        "task 1: argument 1 has a NUL",
        "task 2: a variable has",
        "task 3: stdin: ",
        "task 4: argument 1 is l",
    ):
        assert said in error
    assert "task 5" not in error
    assert "task 6: the name of the program is empty" in error


def test_what_another_task_makes(tmp_path: Path) -> None:
    """An input that another task makes need not be there; any other has to be."""
    maker = TaskSpec(1, ("true",), cwd=str(tmp_path), outputs=("made",))
    user = TaskSpec(2, ("true",), after=(1,), cwd=str(tmp_path), inputs={"made": str(tmp_path / "made")})
    check(ArraySpec("tasks", [maker, user]))
    with pytest.raises(ConfigurationError, match="task 2: the input"):
        check(ArraySpec("tasks", [attrs.evolve(maker, outputs=()), user]))
