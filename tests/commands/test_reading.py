"""What tasks are made of: ranges, lines and objects, and what of them is refused."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperflow.commands.reading import read_lines, read_numbers, read_objects, words_of
from hyperflow.errors import ConfigurationError

ranges = st.tuples(st.integers(0, 500), st.integers(0, 60), st.integers(1, 9))


@given(st.lists(ranges, min_size=1, max_size=6))
def test_ranges(parts: list[tuple[int, int, int]]) -> None:
    """A range has the numbers that it names, in its order, and each once; else it is refused."""
    expected = [number for first, more, step in parts for number in range(first, first + more + 1, step)]
    text = ",".join(f"{first}-{first + more}:{step}" if more else str(first) for first, more, step in parts)
    if len(set(expected)) < len(expected):
        with pytest.raises(ConfigurationError, match="twice"):
            read_numbers(text)
        return
    numbers = read_numbers(text)
    assert list(numbers) == [str(number) for number in expected]
    assert len(numbers) == len(expected)
    assert numbers[len(expected) - 1] == str(expected[-1])
    with pytest.raises(IndexError):
        _ = numbers[len(expected)]
    assert list(read_numbers(numbers.text)) == list(numbers)


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "-", "1-2-3", "5-1", "1-10:0", "1,,2", "1:2", "1.5", "1-1000000000", "٣", "1 2"]
)
def test_no_range(text: str) -> None:
    """What is no range is refused, by the name of the option."""
    with pytest.raises(ConfigurationError, match=re.escape(f"--tasks {text}")):
        read_numbers(text, "--tasks")


def test_negative_range() -> None:
    """Numbers may be negative."""
    assert list(read_numbers("-3--1,5")) == ["-3", "-2", "-1", "5"]


lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n"), min_size=1, max_size=30)


@given(st.lists(lines, min_size=1, max_size=20), st.integers(0, 3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_lines(tmp_path: Path, given_lines: list[str], behind: int) -> None:
    """Lines arrive as they are: blanks, quotes, carriage returns, and what Python takes for line breaks elsewhere."""
    file = tmp_path / "lines"
    file.write_bytes(("\n".join(given_lines) + "\n" * behind).encode())
    if all(line.endswith("\r") for line in given_lines):
        with pytest.raises(ConfigurationError, match="as on Windows"):
            read_lines(str(file))
    else:
        assert read_lines(str(file)) == given_lines


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"a\nb\0c\n\0\n", "lines 2, 3 are with a NUL"),
        (b"a\n\xff\xfe\nb\n", "line 2 is not UTF-8"),
        (
            b"".join(b"\xff%d\n" % number for number in range(30)),
            "lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more are not",
        ),
        (b"a\r\nb\r\n", "end as on Windows"),
        (b"a\n" + b"b" * 200_000, "line 2 is longer than 131,071 bytes"),
    ],
)
def test_bad_lines(tmp_path: Path, content: bytes, said: str) -> None:
    """What can be no argument is refused, with the numbers of the lines."""
    file = tmp_path / "lines"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        read_lines(str(file))


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there, a directory and an odd name are told."""
    for name in (str(tmp_path / "none"), str(tmp_path), "a\0b"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_lines(name)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hyphen is standard input; a terminal is refused, because nobody would know what it waits for."""
    piped: Any = SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(b"one\ntwo\n"))
    monkeypatch.setattr("sys.stdin", piped)
    assert read_lines("-") == ["one", "two"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(ConfigurationError, match="terminal"):
        read_lines("-")


words = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.integers(), st.booleans())


@given(
    st.lists(st.dictionaries(st.text("abc. é", max_size=4), words, max_size=4), min_size=1, max_size=5), st.booleans()
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_objects(tmp_path: Path, objects: list[dict[str, Any]], as_lines: bool) -> None:
    """Objects are the same from lines and from an array; texts stay, other members are as JSON writes them."""
    file = tmp_path / "objects"
    file.write_text("\n".join(map(json.dumps, objects)) if as_lines else json.dumps(objects, indent=2))
    found = [words_of(text) for text in read_objects(str(file))]
    assert found == [
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in each.items()}
        for each in objects
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no objects"),
        ("[]", "has no objects"),
        ('{"a": 1}\n[2]', "line 2 is no object, but [2]"),
        ('[{"a": 1}, 5]', "element 2 is no object, but 5"),
        ('{"a": 1}\n{"a": ', "line 2 is no JSON"),
        ('[{"a": 1}', "is no JSON"),
        ('{"a": "\\ud800"}', "line 1 has half of a character"),
    ],
)
def test_bad_objects(tmp_path: Path, content: str, said: str) -> None:
    """What is no object is refused, with its place."""
    file = tmp_path / "objects"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        read_objects(str(file))
