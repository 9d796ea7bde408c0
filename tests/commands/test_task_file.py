"""Files of tasks: what they mean, and what of them is refused."""

import re
from pathlib import Path

import pytest

from hyperflow.commands.task_file import read_tasks
from hyperflow.errors import ConfigurationError

WHOLE = """
[[task]]
name = "fetch"
command = ["./fetch", "{n}", "a b", ""]
cwd = "sub"
stdin = "in.txt"
env = { A = "1" }
inputs = ["data/x", "/other/y", "https://example.org/z?q"]
outputs = ["out.txt"]
on_failure = ["core"]
cpus = 4
gpus = 0.5
memory = "2G"
time_limit = "10m"
retries = 2
priority = -1
[[task]]
command = ["true"]
after = ["fetch", 1]
inputs = { "here" = "there" }
"""


def read(tmp_path: Path, text: str) -> ConfigurationError:
    """Read a file that is refused."""
    (tmp_path / "tasks.toml").write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        read_tasks(str(tmp_path / "tasks.toml"), "/base")
    return refused.value


def test_whole(tmp_path: Path) -> None:
    """Each key arrives, and paths are those that are meant."""
    (tmp_path / "tasks.toml").write_text(WHOLE)
    first, second = read_tasks(str(tmp_path / "tasks.toml"), "/base")
    assert first.command == ("/base/sub/./fetch", "{n}", "a b", "")
    assert (first.number, first.name, first.cwd, first.stdin) == (1, "fetch", "/base/sub", "/base/sub/in.txt")
    assert first.env == {"A": "1"}
    assert first.inputs == {"data/x": "/base/sub/data/x", "y": "/other/y", "z": "https://example.org/z?q"}
    assert (first.outputs, first.on_failure) == (("out.txt",), ("core",))
    assert first.options == {
        "cpus": 4,
        "gpus": 0.5,
        "memory": "2G",
        "time_limit": "10m",
        "retries": 2,
        "priority": -1,
    }
    assert second.after == (1, 1)
    assert second.inputs == {"here": "/base/there"}
    assert second.title == "task 2"


TASK = '[[task]]\ncommand = ["true"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no [[task]]"),
        ("task = 5", "write [[task]], with two brackets"),
        ('[task]\ncommand = ["true"]', "write [[task]], with two brackets"),
        ("[[tasks]]\ncpus = 1", "has the key 'tasks'; there are tables [[task]] only. Did you mean task?"),
        ("[[task]\n", "is no TOML"),
        ("[[task]]\ncpus = 1", "task 1: there is no command"),
        (TASK + "commandd = 1", "task 1: the key 'commandd' means nothing. Did you mean command?"),
        (TASK + 'name = "x"\ntimelimit = 1', "task 1 (x): the key 'timelimit' means nothing. Did you mean time_limit?"),
        ('[[task]]\ncommand = "./sim 3 \\"a b\\""', 'no shell: command = ["./sim", "3", "a b"]'),
        ("[[task]]\ncommand = []", "the command is empty"),
        ('[[task]]\ncommand = ["./sim", 3]', 'write command = ["./sim", "3"]'),
        (TASK + 'after = "x"', 'such as after = ["x"]'),
        (TASK + 'name = "align"\n' + TASK + 'after = ["algn"]', "it comes after what is not there: a task 'algn'. Did"),
        (TASK + "after = [2]", "a task 2; they are numbered from 1 to 1"),
        (TASK + "after = [true]", "it comes after what is not there"),
        (TASK + 'name = "x"\n' + TASK + 'name = "x"', "task 2 (x): task 1 has the name 'x', too"),
        (TASK + 'name = "a\\nb"', "a text is needed, without line breaks"),
        (TASK + "env = { A = 1 }", 'write "1"'),
        (TASK + 'env = { "A=B" = "1" }', "cannot be the name of a variable"),
        (TASK + "env = 5", "a table is needed"),
        (TASK + "cpus = 0", "task 1: cpus=0"),
        (TASK + 'memory = "much"', "a size is needed"),
        (TASK + "stdin = 5", "stdin = 5: a text is needed"),
        (TASK + 'inputs = "x"', 'inputs is a list of texts; write inputs = ["x"]'),
        (TASK + 'inputs = ["/a/x", "/b/x"]', "two inputs would have the name 'x': /a/x and /b/x"),
        (TASK + "after = [1]", "task 1 comes after itself"),
        (
            TASK + 'name = "a"\nafter = ["b"]\n' + TASK + 'name = "b"\nafter = [3]\n' + TASK + 'after = ["a"]',
            "task 1 (a), which comes after task 2 (b), which comes after task 3, which comes after task 1 (a)",
        ),
    ],
)
def test_refused(tmp_path: Path, text: str, said: str) -> None:
    """What cannot be run is refused, with the task, and with what was meant."""
    error = str(read(tmp_path, text))
    assert said in error
    assert "tasks.toml" in error


def test_not_utf8(tmp_path: Path) -> None:
    """A file of other bytes is refused."""
    (tmp_path / "tasks.toml").write_bytes(b"[[task]]\nname = '\xff'\n")
    with pytest.raises(ConfigurationError, match=re.escape("is not UTF-8")):
        read_tasks(str(tmp_path / "tasks.toml"), "/base")
