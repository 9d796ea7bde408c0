"""docs/promises.md."""

from pathlib import Path

from tests.chaos import page
from tests.chaos.case import Case
from tests.chaos.harness import Result
from tests.chaos.oracle import Broken
from tests.chaos.promises import Promise

HELD = Result(Case("processes", "worker KILL"), "1", 2.0)
BROKEN = Result(Case("files", "database cut"), "1", 2.0, [Broken(Promise.RIGHT, "key 3 is 4")])
SKIPPED = Result(Case("files", "locks cut"), "1", 2.0, not_run="there is no such file")
EXCUSED = Result(Case("files", "all gone", excused={Promise.DURABLE: "the file is gone | for good"}), "1", 2.0)


def test_what_was_tried() -> None:
    """Counts by promise: what was not run is no try, and what is excused neither."""
    text = page.tried([HELD, BROKEN, SKIPPED, EXCUSED])

    assert f"| {Promise.RIGHT.value} | files 2, processes 1 | 3 | **broken 1** |" in text
    assert f"| {Promise.DURABLE.value} | files 1, processes 1 | 2 | held |" in text
    assert f"| {Promise.PRIVATE.value} |  | 0 | - |" in text


def test_the_families() -> None:
    """Counts by family of faults."""
    assert "| files | 3 | 2 | 1 | 1 | 1 |" in page.faults([HELD, BROKEN, SKIPPED, EXCUSED])


def test_reasons() -> None:
    """What was not run, and what is excused, is told with the reason."""
    assert "| files: locks cut | 1 | there is no such file |" in page.not_run([HELD, SKIPPED])
    assert "the file is gone \\| for good" in page.excused([EXCUSED])


def test_sections_are_replaced(tmp_path: Path) -> None:
    """Each writer replaces its own sections, and leaves the others."""
    file = tmp_path / "promises.md"
    page.put(page.CONTROLS, "twelve", file)
    page.write([BROKEN], "1", 2, file)
    page.write([HELD], "1", 2, file)

    text = file.read_text()
    assert text.index(f"## {page.TRIED}") < text.index(f"## {page.CONTROLS}\n\ntwelve\n")
    assert "**broken" not in text
    assert text.count("## ") == 5
