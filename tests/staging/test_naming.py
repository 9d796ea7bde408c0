"""What a command's files are called in its sandbox."""

import os
from pathlib import Path
from typing import Any

import pytest

import hyperflow as hf
from hyperflow import staged
from hyperflow.staging.naming import Planner, Wanted, inside, last_part


def file(path: str) -> hf.File:
    """Return a file that need not be there."""
    return hf.File.known(path, "0" * 64, 1)


@pytest.fixture(autouse=True)
def _all_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(self: Planner, given: Any) -> hf.File:
        return given if isinstance(given, hf.File) else file(os.path.join(self.base, os.fspath(given)))

    monkeypatch.setattr(Planner, "file", found)


def plan(*words: Any, base: str = "/home/me", **more: Any) -> Any:
    """Plan a command."""
    return staged.plan_of(words, base=base, **more)


def test_files_and_outputs_are_words() -> None:
    """A file's word is its name; an output's word is the last part of where it comes."""
    made = plan("bwa", file("/data/genome.fa"), hf.Output("run/out.sam"), "-v")
    assert made.words == ("bwa", "genome.fa", "out.sam", "-v")
    assert [*made.inputs] == ["genome.fa"]
    assert made.outputs == (Wanted("run/out.sam", "out.sam", "file", "/home/me/run/out.sam"),)


def test_equal_names_get_numbered_directories() -> None:
    """Files with equal names, and an output with an input's name, get directories; the same file is there once."""
    made = plan("cat", file("/a/x"), file("/b/x"), file("/a/x"), hf.Output("x"))
    assert made.words == ("cat", "x", "2/x", "x", "3/x")
    made = plan("cat", file("/a/x"), inputs={"x": "/b/x", "2": "/c"})
    assert made.words == ("cat", "3/x")


@pytest.mark.parametrize("name", ["-rf", "--help", "a b", "it's", 'say "x"', "$HOME", "a\nb", "é", "*x*"])
def test_strange_names(name: str) -> None:
    """No name looks like an option; blanks, quotes, stars and dollars are nothing special."""
    made = plan("cat", file(f"/data/{name}"))
    assert made.words[1] == (f"./{name}" if name[0] == "-" else name)
    assert [*made.inputs] == [name]


def test_program() -> None:
    """A program that is a file is not sought in PATH; a relative one is that of the directory, or an input."""
    assert plan(file("/opt/solve")).words == ("./solve",)
    assert plan("./solve", "x").words == ("/home/me/./solve", "x")
    assert plan("./solve", inputs={"solve": "/opt/solve"}).words == ("./solve",)
    assert plan("sort").words == ("sort",)


def test_texts_are_called_the_same_at_home() -> None:
    """A text names an input or an output in the sandbox and at home alike; an Output only says where it comes."""
    made = plan("true", inputs=["data/a.txt", "/else/b.txt"], outputs=["res/a.txt", "out/*.dat", "dir/", "/tmp/c"])
    assert [*made.inputs] == ["data/a.txt", "b.txt"]
    assert made.inputs["data/a.txt"].source == "/home/me/data/a.txt"
    assert [(wanted.name, wanted.kind, wanted.place) for wanted in made.outputs] == [
        ("res/a.txt", "file", "/home/me/res/a.txt"),
        ("out/*.dat", "files", "/home/me"),
        ("dir", "directory", "/home/me/dir"),
        ("c", "file", "/tmp/c"),
    ]
    made = plan("true", outputs=[hf.Output("out/*.dat"), hf.Output("a/dir/")])
    assert [(wanted.name, wanted.place) for wanted in made.outputs] == [
        ("*.dat", "/home/me/out"),
        ("dir", "/home/me/a/dir"),
    ]


def test_streams() -> None:
    """What a command reads and writes are files in its sandbox, too."""
    made = plan("sort", stdin=file("/a/x"), stdout=hf.Output("y"))
    assert (made.stdin, made.stdout) == ("x", "y")
    assert plan("sort", stdin="x").inputs["x"].source == "/home/me/x"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"inputs": {"../x": "/a"}}, "relative, without"),
        ({"inputs": {"/x": "/a"}}, "relative, without"),
        ({"inputs": {"": "/a"}}, "relative, without"),
        ({"inputs": {"a": "/a", "a/b": "/b"}}, "another file of this command"),
        ({"inputs": {"a": "/a"}, "outputs": ["a"]}, "another file of this command"),
        ({"outputs": ["../x"]}, "relative, without"),
        ({"outputs": ["x", "x"]}, "twice"),
        ({"outputs": ["x", hf.Output("/home/me/x")]}, "the same place"),
        ({"outputs": [hf.Output("..")]}, "names no file"),
        ({"outputs": [hf.Output("a*/x*")]}, "only the last part"),
        ({"outputs": ["a*/"]}, "a pattern is for files"),
        ({"outputs": [hf.Output("d/", keep="node")]}, "only files stay"),
        ({"outputs": [hf.Output("d", keep="there")]}, '"home" or "node"'),  # type: ignore[dict-item]
    ],
)
def test_refused(more: dict[str, Any], says: str) -> None:
    """Names that lead out, that two files have, or that are none, are refused before anything runs."""
    with pytest.raises(hf.ConfigurationError, match=says):
        plan("true", **more)


@pytest.mark.parametrize(
    ("words", "more", "says"),
    [
        ([], {}, "program's name is missing"),
        (["true", 7], {}, "write str"),
        (["true"], {"outputs": "x"}, "write outputs="),
        (["true"], {"inputs": "x"}, "write inputs="),
    ],
)
def test_misuse(words: list[Any], more: dict[str, Any], says: str) -> None:
    """What is no list of words or files is refused, with what to write."""
    with pytest.raises(hf.MisuseError, match=says):
        plan(*words, **more)


def test_nul_and_patterns_in_words() -> None:
    """No word can have a NUL, and no command understands a pattern."""
    with pytest.raises(hf.ConfigurationError, match="NUL"):
        plan("cat", "a\0b", outputs=["x"])
    with pytest.raises(hf.ConfigurationError, match="is a pattern"):
        plan("cat", hf.Output("*.csv"))
    with pytest.raises(hf.ConfigurationError, match="sandbox is on one node"):
        hf.remote_command(["cat", file("/etc/hostname")], nodes=2)


def test_patterns_of_inputs(tmp_path: Path) -> None:
    """A pattern among the inputs means the files that fit it, each by its own name; at least one has to."""
    (tmp_path / "d").mkdir()
    for name in ("d/x.csv", "d/y.csv", "z[1]"):
        (tmp_path / name).write_text(name)
    assert [*plan("true", inputs=["d/*.csv", "z[1]"], base=str(tmp_path)).inputs] == ["d/x.csv", "d/y.csv", "z[1]"]
    with pytest.raises(hf.ConfigurationError, match=r"no file fits 'd/\*.txt'"):
        plan("true", inputs=["d/*.txt"], base=str(tmp_path))


def test_names_of_urls() -> None:
    """A URL is called by the last part of its path."""
    assert last_part("https://example.org/a/genome.fa?x=1/2#top") == "genome.fa"
    assert last_part("s3://bucket/") == "bucket"
    assert last_part("/data/dir/") == "dir"
    assert inside("a/./b//c", "here") == "a/b/c"


def test_base_is_this_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a directory, that of the process counts."""
    monkeypatch.chdir(tmp_path)
    made = staged.plan_of(["./x", hf.Output("y")])
    assert made.words[0] == os.path.join(tmp_path, "./x")
    assert made.outputs[0].place == str(tmp_path / "y")
