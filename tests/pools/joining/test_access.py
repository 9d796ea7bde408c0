"""The access file of a pool: who may read it, what it says, and what is wrong with others."""

import json
import os
import stat
import sys
from pathlib import Path

import attrs
import pytest

from hyperflow.cli import joining
from hyperflow.errors import ConfigurationError
from hyperflow.pools.joining import access as access_file
from hyperflow.pools.joining.access import Access, as_text, new_key, public_text


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Return what a node has to know of some pool."""
    (tmp_path / "log").mkdir()
    host, client = new_key(), new_key()
    places = str(tmp_path / "pool/access"), str(tmp_path / "log")
    return Access(("here",), 7070, public_text(host), as_text(client), *places)


def test_it_is_written_for_the_user_alone(tmp_path: Path, access: Access) -> None:
    """The file has mode 0600 in a directory of mode 0700, reads back as it was, and shows no key in its repr."""
    before = os.umask(0)
    path = Path(access.file)
    try:
        access_file.write(access)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert access_file.read(path) == access
    assert "PRIVATE" not in repr(access)
    assert "PRIVATE" in access.text()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, access: Access, mode: int) -> None:
    """Do as ssh does with a private key: an error that says what to type."""
    access_file.write(access)
    path = Path(access.file)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        access_file.read(path)


def test_what_is_no_access_file(tmp_path: Path, access: Access) -> None:
    """Anything else is refused with the way to get one; also a directory, and what is not there."""
    path = tmp_path / "file"
    path.touch(0o600)
    wrong = [b"", b"[]", b"{}", b"\xff" * 100, access.text().replace('"format": 1', '"format": 2').encode()]
    wrong += [attrs.evolve(access, client_key="x").text().encode(), attrs.evolve(access, hosts=()).text().encode()]
    said = json.loads(access.text())
    changes: list[dict[str, object]] = [{"hosts": "login1"}, {"hosts": [5]}, {"port": 70000}, {"port": "22"}]
    wrong += [json.dumps({**said, **change}).encode() for change in changes]
    for text in wrong:
        path.write_bytes(text)
        with pytest.raises(ConfigurationError, match="hyperflow pool access RUN > FILE"):
            access_file.read(path)
    with pytest.raises(ConfigurationError, match="no ordinary file"):
        access_file.read(tmp_path)
    with pytest.raises(ConfigurationError, match="listen="):
        access_file.read(tmp_path / "none")


def test_who_shares_the_directory(tmp_path: Path, access: Access) -> None:
    """A machine shares the run's directory if the very same file lies there."""
    assert not access_file.is_shared(access)
    access_file.write(access)
    assert access_file.is_shared(access)
    assert not access_file.is_shared(attrs.evolve(access, port=1))


def test_the_command_that_prints_it(tmp_path: Path, access: Access, capfd: pytest.CaptureFixture[str]) -> None:
    """`hyperflow pool access RUN > FILE` prints it; where no pool listens, it says what to write."""
    (tmp_path / "program.json").touch()
    assert joining.answering(joining.access)(str(tmp_path)) == 1
    assert "listen=0" in capfd.readouterr().err
    access_file.write(access)
    path = Path(access.file)
    assert joining.answering(joining.access)(str(tmp_path)) == 0
    assert capfd.readouterr().out == path.read_text()


def test_the_file_that_it_is_printed_to(tmp_path: Path, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell has made that file for all to read; it becomes private before the key is in it."""
    access_file.write(access)
    (tmp_path / "program.json").touch()
    copy = tmp_path / "copy"
    copy.touch(0o644)
    with copy.open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert joining.answering(joining.access)(str(tmp_path)) == 0
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert access_file.read(copy) == access
