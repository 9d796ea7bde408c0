"""Which ciphers are offered to a node's sshd."""

from pathlib import Path

import pytest

from hyperflow.transports.ssh import ciphers


async def test_cheap_ones_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AES-GCM before what costs more calls in Python; nothing is left out."""
    monkeypatch.setenv("HOME", str(tmp_path))
    offered = await ciphers("node1")
    gcm = [name for name in offered if "gcm" in name]
    assert gcm
    assert offered[: len(gcm)] == gcm
    assert "chacha20-poly1305@openssh.com" in offered


async def test_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user's ssh configuration says for that host counts, in its order."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir(mode=0o700)
    (tmp_path / ".ssh" / "config").write_text("Host node1\n  Ciphers aes256-ctr,aes128-gcm@openssh.com\n")
    assert await ciphers("node1") == ["aes256-ctr", "aes128-gcm@openssh.com"]
    assert "gcm" in (await ciphers("node2"))[0]
