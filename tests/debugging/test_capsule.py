"""Capsules as files: what is damaged, foreign, of another version or too much is told, and never unpickled."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperflow import checked_files
from hyperflow._version import __version__
from hyperflow.checked_files import Damaged
from hyperflow.cli.main import command_line
from hyperflow.debugging import capsule
from hyperflow.debugging.capsule import About, Call, Capsule, Full, Pickle
from hyperflow.debugging.surroundings import Place
from hyperflow.errors import ConfigurationError
from hyperflow.worker import capsules

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
STRANGER = 54321


class Trap:
    """Breaks the test that unpickles it."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("it was unpickled",)


def about(**other: Any) -> About:
    """Tell of a failed evaluation."""
    told = About(
        task=7,
        function="solve",
        error="ValueError: no",
        trace="Traceback ...",
        program="run",
        service_id="worker-0@here",
        node="here",
        cpus=(0, 1),
        log_file="/log/worker-here-0.log",
        directory="/home",
        sys_path=("/home",),
        made=1.5,
        hyperflow=__version__,
        python=sys.version.split()[0],
        versions={"numpy": "1.0"},
        arguments_as_left=False,
    )
    return told._replace(**other)


def call(size: int = 10) -> Call:
    """Return a call whose pickles must not be read."""
    trap = pickle.dumps(Trap())
    return Call([(1, Pickle(trap, []))], Pickle(trap, [b"x" * size]), Pickle(memoryview(trap), []), b"", (1, 2), [])


def made(size: int = 10, **other: Any) -> Capsule:
    """Make a capsule."""
    return capsule.of(about(**other), call(size))


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    """Return the private log directory of a run."""
    path = tmp_path / "run" / "log"
    path.mkdir(parents=True)
    path.chmod(0o700)
    (path / "events.jsonl").write_text("")
    return path


def test_what_is_left_is_found(log_dir: Path) -> None:
    """A capsule comes back as it was, for the user alone; a later try takes its place; others are not there."""
    capsule.leave(log_dir, made(error="first"))
    capsule.leave(log_dir, made())
    found = capsule.find(log_dir, 7)
    assert found is not None
    assert found.about == about()
    back = found.call()
    assert back == Call(
        [(1, Pickle(*call().needs[0][1].copy()))],
        Pickle(*call().function.copy()),
        Pickle(*call().arguments.copy()),
        b"",
        (1, 2),
        [],
    )
    assert capsule.find(log_dir, 8) is None
    assert capsule.find(log_dir / "none", 7) is None
    (path,) = (log_dir / capsule.DIRECTORY).iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_bounds(log_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run leaves so many, and so many bytes; one that is too large is none."""
    monkeypatch.setattr(capsule, "MOST", 3)
    for task in range(3):
        capsule.leave(log_dir, made(task=task))
    with pytest.raises(Full, match="3 failed evaluations"):
        capsule.leave(log_dir, made())
    monkeypatch.setattr(capsule, "MOST", 10)
    monkeypatch.setattr(capsule, "TOTAL", sum(path.stat().st_size for path in (log_dir / "capsules").iterdir()) + 100)
    with pytest.raises(Full, match="would have more than"):
        capsule.leave(log_dir, made())
    monkeypatch.setattr(capsule, "LARGEST", 1000)
    with pytest.raises(Full, match="at most 1,000"):
        made(size=1000)
    assert len(list((log_dir / "capsules").iterdir())) == 3


def test_what_a_worker_does_at_the_bounds(log_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why it leaves none, and does not look again once there are enough; a smaller call may still leave one."""
    writer = capsules.Capsules(Place("worker-0@here", "here", (0,), str(log_dir / "worker-here-0.log"), "run"))

    def failure(task: Any, size: int) -> capsules.Failure:
        sent = call(size)
        error = ValueError("no")
        return capsules.Failure(task, "f", sent.function, sent.arguments, False, [], None, (), error)

    monkeypatch.setattr(capsule, "LARGEST", 1000)
    assert "has 1," in writer.leave(failure(1, 1000))
    assert writer.leave(failure(2, 10)) == ""
    assert not writer.wants(failure(2, 10).task)
    assert writer.wants(failure(3, 10).task)
    found = capsule.find(log_dir, 2)
    assert found is not None
    assert (found.about.error, found.about.function) == ("ValueError: no", "f")
    monkeypatch.setattr(capsule, "MOST", 1)
    assert "1 failed evaluations" in writer.leave(failure(3, 10))
    assert not writer.wants(failure(4, 10).task)


def test_needs_are_found_by_their_names() -> None:
    """Of what a worker knows, a capsule has what is named, and what that names, in its order; and nothing else."""

    def known(name: str, names: str) -> capsules.Definition:
        return capsules.Definition(name, 1, Pickle(memoryview(pickle.dumps(names)), []))

    there = [known("ab:1", ""), known("ab:3", "ab:1"), known("ab:12", ""), known("ab:4", ""), known("ab:2", "ab:3")]
    found = capsules.named([Pickle(pickle.dumps([1, "ab:2"]), [])], there)
    assert [one.known_as for one in found] == ["ab:1", "ab:3", "ab:2"]


def cut(path: Path) -> None:
    """Lose the end."""
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    """Change a bit."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)


def foreign(path: Path) -> None:
    """Be a pickle."""
    path.write_bytes(b"\x80\x04N.")


def empty(path: Path) -> None:
    """Have nothing."""
    path.write_bytes(b"")


def of_another_evaluation(path: Path) -> None:
    """Lie at the wrong place."""
    path.write_bytes(made(task=8).contents())


def another_kind(path: Path) -> None:
    """Be something else, with an order to the terminal."""
    path.write_bytes(path.read_bytes().replace(b'"kind": "capsule"', b'"kind": "\\u001b[2J"', 1))


def newer(path: Path) -> None:
    """Come from a later version."""
    path.write_bytes(_told(format=capsule.FORMAT + 1, hyperflow="99.0"))


def newer_and_hostile(path: Path) -> None:
    """The same, with orders to the terminal as its name."""
    path.write_bytes(_told(format=capsule.FORMAT + 1, hyperflow=ESCAPE))


def of_other_types(path: Path) -> None:
    """Have a number for a text."""
    path.write_bytes(_told(function=3))


def without_members(path: Path) -> None:
    """Tell nothing."""
    path.write_bytes(checked_files.with_checksum("capsule", b"", {"task": 7}))


def directory(path: Path) -> None:
    """Be a directory."""
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    """Be a symbolic link."""
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def writable_by_others(path: Path) -> None:
    """Let others write to it."""
    path.chmod(0o666)


def in_a_place_of_others(path: Path) -> None:
    """Let others write beside it."""
    path.parent.chmod(0o777)


def of_a_stranger(path: Path) -> None:
    """Belong to another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can make files of another user")
    os.chown(path, STRANGER, STRANGER)


def _told(**members: Any) -> bytes:
    told = {"format": capsule.FORMAT, **about()._asdict(), **members}
    return checked_files.with_checksum("capsule", made().payload, told)


@pytest.mark.parametrize(
    "spoil",
    [
        cut, flip, foreign, empty, of_another_evaluation, another_kind, newer, newer_and_hostile, of_other_types,
        without_members, directory, link, writable_by_others, in_a_place_of_others, of_a_stranger,
    ],
)  # fmt: skip
def test_bad_ones_are_told(spoil: Callable[[Path], None], log_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever became of it, the command says what is wrong in a line, and orders nothing to the terminal."""
    capsule.leave(log_dir, made())
    spoil(log_dir / capsule.DIRECTORY / "7.hfc")
    with pytest.raises((Damaged, ConfigurationError)):
        capsule.find(log_dir, 7)
    with pytest.raises(SystemExit) as ended:
        command_line()(["debug", str(log_dir.parent), "7"])
    said = capfd.readouterr().err
    assert ended.value.code == 1
    assert said.startswith("hyperflow: ")
    assert said.isprintable() or said.replace("\n", "").isprintable()
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"python": "2.7.18"}, "made by Python 2.7.18"),
        ({"hyperflow": "0.0.1"}, "pip install hyperflow==0.0.1"),
        ({"python": "2.7.18", "function": ESCAPE, "error": ESCAPE, "service_id": ESCAPE}, "made by Python 2.7.18"),
    ],
)
def test_another_version(other: dict[str, Any], words: str, log_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What another version has made is not read, and the command says what to type; names order nothing."""
    capsule.leave(log_dir, made(**other))
    with pytest.raises(SystemExit) as ended:
        command_line()(["debug", str(log_dir.parent), "7"])
    said = capfd.readouterr().err
    assert ended.value.code == 1
    assert words in said
    assert said.replace("\n", "").isprintable()


def test_saved(log_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A saved one comes back as it was; nothing is overwritten; one that was cut or garbled is told."""
    capsule.leave(log_dir, made(size=200_000))
    path = tmp_path / "f.hfc"
    words = ["debug", str(log_dir.parent), "7", "--save", str(path)]
    with pytest.raises(SystemExit) as ended:
        command_line()(words)
    assert ended.value.code == 0
    assert f"python {path}" in capfd.readouterr().out
    assert capsule.saved(path) == made(size=200_000)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "THIS FILE IS A PROGRAM" in path.read_text()
    with pytest.raises(SystemExit) as ended:
        command_line()(words)
    assert ended.value.code == 1
    assert "is there already" in capfd.readouterr().err
    whole = path.read_bytes()
    for spoilt in (whole[:-1000], whole[:300], whole.replace(b"\n#", b"\n# ! ", 10), b""):
        path.write_bytes(spoilt)
        with pytest.raises(Damaged):
            capsule.saved(path)


def test_which_evaluation(log_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without an evaluation, and for one that has left nothing, the command says what to do."""
    home = str(log_dir.parent)
    for words, said in (([home], "which evaluation"), ([home, "5"], "kept nothing of evaluation 5")):
        with pytest.raises(SystemExit) as ended:
            command_line()(["debug", *words])
        assert ended.value.code == 1
        assert said in capfd.readouterr().err
