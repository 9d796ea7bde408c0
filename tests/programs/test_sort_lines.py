"""programs/sort_lines.py: the order and the bytes of sort(1), and nothing half made."""

import os
from pathlib import Path

from tests.programs.runs import run


def test_sorted(tmp_path: Path) -> None:
    """Odd bytes, long and empty lines, and a last line without an end come out as sort(1) has them, in place."""
    lines = [b"%d" % (n * 7919 % 5003) for n in range(5000)] + [b"", b"\xff\xfe", b"x" * 100_000, b" b", b"-n", b"last"]
    file = tmp_path / "-a 'file"
    file.write_bytes(b"\n".join(lines))
    ended = run("sort_lines.py", "--local", "--parts", "3", "--", file.name, file.name, cwd=tmp_path)
    assert f"{len(lines)} lines in order" in ended.stdout
    assert file.read_bytes() == b"".join(line + b"\n" for line in sorted(lines))
    assert set(os.listdir(tmp_path)) == {file.name, "hyperflow-runs"}


def test_no_such_file(tmp_path: Path) -> None:
    """A source that is not there is told, and nothing is made."""
    ended = run("sort_lines.py", "none", "out", "--local", "--on-error", "raise", cwd=tmp_path, code=1)
    assert "there is no file" in ended.stderr
    assert not (tmp_path / "out").exists()
