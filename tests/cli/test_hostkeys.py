"""Host keys: which of the files of known hosts has one."""

from pathlib import Path

import asyncssh
import pytest

from hyperflow.cli.reach import known_keys
from hyperflow.config import Settings
from hyperflow.transports.ssh_advice import files_that_know, typed

KEY = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


def file_of(path: Path, *lines: str) -> str:
    """Write a file of known hosts."""
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def test_by_name_address_and_port(tmp_path: Path) -> None:
    """A host is known by its name or its address; with another port only under that."""
    name = file_of(tmp_path / "name", f"node1,node2 {KEY}")
    address = file_of(tmp_path / "address", f"10.0.0.2 {KEY}")
    port = file_of(tmp_path / "port", f"[node2]:2222 {KEY}")
    files = [name, address, port]

    assert files_that_know("node2", "10.0.0.2", 22, files) == [name, address]
    assert files_that_know("node2", "10.0.0.9", 22, files) == [name]
    assert files_that_know("node3", "10.0.0.9", 22, files) == []
    assert port in files_that_know("node2", "10.0.0.9", 2222, files)


def test_what_is_damaged_or_missing_vouches_for_nobody(tmp_path: Path) -> None:
    """A damaged line does not hide the sound ones, and a file that is not there is passed over."""
    damaged = file_of(tmp_path / "damaged", "node1 ssh-ed25519 %%%", "@nonsense", f"@cert-authority *.example {KEY}")

    assert files_that_know("node1", "", 22, [damaged, str(tmp_path / "missing")]) == []
    assert files_that_know("a.example", "", 22, [damaged]) == [damaged]


async def test_a_pinned_file_is_the_only_one(tmp_path: Path) -> None:
    """With the setting `known_hosts`, that file counts and no other; the port is the setting's."""
    pinned = file_of(tmp_path / "pinned", f"[localhost]:2222 {KEY}")

    known = await known_keys("localhost", Settings(known_hosts=pinned, ssh_port=2222))

    assert (known.files, known.pinned, known.entry) == ((pinned,), pinned, "[localhost]:2222")


def test_paths_are_shown_as_one_types_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path can be pasted into a shell."""
    monkeypatch.setenv("HOME", "/home/me")

    assert typed("/home/me/.ssh/known_hosts") == "~/.ssh/known_hosts"
    assert typed("/home/me/my keys") == "~/'my keys'"
    assert typed("/etc/my keys") == "'/etc/my keys'"
