"""What counts as the content of files and directories, and what is refused."""

import os
import socket
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.staging import content


def tree(top: Path) -> Path:
    """Make a directory with something of everything in it."""
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/x.txt").write_text("x")
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "empty").mkdir()
    (top / "link").symlink_to("a/b/x.txt")
    (top / "a/up").symlink_to("../run.sh")
    return top


def test_only_content_counts(tmp_path: Path) -> None:
    """Place, times and rights that say nothing about running make no difference; content, names and x do."""
    one, other = tree(tmp_path / "one"), tree(tmp_path / "other")
    os.utime(other / "run.sh", (1, 1))
    (other / "a/b/x.txt").chmod(0o400)

    assert hf.File(one) == hf.File(other)
    assert hash(hf.File(one)) == hash(hf.File(other))
    assert hf.File(one).size == len("x" + "#!/bin/sh\n")

    before = hf.File(one)
    digest = before.digest
    for change in (
        lambda: (other / "a/b/x.txt").rename(other / "a/b/y.txt"),
        lambda: (other / "run.sh").chmod(0o700),
        (other / "empty").rmdir,
        (other / "new").mkdir,
    ):
        seen = hf.File(other).digest
        change()
        assert hf.File(other).digest not in (seen, digest)


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    """A file that holds the manifest of a directory has its digest, and is not equal to it."""
    top = tree(tmp_path / "one")
    entries, _ = content.look(top, None, lambda name, _: content.digest_file(top / name)[0])
    (tmp_path / "manifest").write_bytes(content.manifest(entries))

    assert content.entries_of(content.manifest(entries)) == sorted(entries, key=lambda entry: os.fsencode(entry.name))
    assert hf.File(tmp_path / "manifest").digest == hf.File(top).digest
    assert hf.File(tmp_path / "manifest") != hf.File(top)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//x", ""])
def test_manifests_that_lead_out(name: str) -> None:
    """What comes from elsewhere cannot name what is outside of the directory."""
    with pytest.raises(ValueError, match="it names"):
        content.entries_of(content.manifest([content.Entry(name, "file")]))
    with pytest.raises(ValueError, match="leads out"):
        content.entries_of(content.manifest([content.Entry("a", "link", target="../x")]))


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "a/../../outside"])
def test_links_that_lead_out(tmp_path: Path, target: str) -> None:
    """A link that would lead elsewhere on another node is refused, and says what to do."""
    (tmp_path / "outside").write_text("1")
    (tmp_path / "top/a").mkdir(parents=True)
    (tmp_path / "top/link").symlink_to(target)

    with pytest.raises(hf.FileUnavailable, match=r"leads out of .*Put a copy in its place"):
        _ = hf.File(tmp_path / "top").digest


def test_what_cannot_travel(tmp_path: Path) -> None:
    """Pipes and sockets are refused, as Files and in directories."""
    (tmp_path / "top").mkdir()
    os.mkfifo(tmp_path / "top/pipe")
    with pytest.raises(hf.FileUnavailable, match="no ordinary file"):
        hf.File(tmp_path / "top/pipe")
    with pytest.raises(hf.FileUnavailable, match="cannot travel"):
        _ = hf.File(tmp_path / "top").digest
    (tmp_path / "top/pipe").unlink()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "top/s"))
        with pytest.raises(hf.FileUnavailable, match="cannot travel"):
            _ = hf.File(tmp_path / "top").digest


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A name with bytes that are no UTF-8 is a name."""
    (tmp_path / "top").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/top/\xff\n")).write_text("1")
    top = tmp_path / "top"
    entries, _ = content.look(top, None, lambda name, _: content.digest_file(top / name)[0])

    assert [os.fsencode(entry.name) for entry in content.entries_of(content.manifest(entries))] == [b"\xff\n"]
