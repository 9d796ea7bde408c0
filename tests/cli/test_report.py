"""Reports: what people and programs get to read."""

import io
import json
import re
from pathlib import Path

import pytest

from hyperflow.cli import report
from hyperflow.cli.check import Check, Status, failed, ok, skipped, warning
from hyperflow.cli.doctor import ORDER

DOCS = Path(__file__).parents[2] / "docs"

CHECKS = [
    ok("Slurm", "slurm 22.05", version="22.05"),
    ok("ssh", "fine", "node1", latency_seconds=0.001),
    failed("ssh", "no sshd [there]", "type `this`", "node2", cause="refused"),
    warning("CPUs", "too few", "ask for more", "node1"),
    warning("CPUs", "too few", "ask for more", "node3"),
    skipped("CPUs", "not reached", node="node2"),
]


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def printed(checks: list[Check], file: io.StringIO) -> str:
    """Return what is printed."""
    report.print_table(checks, file)
    return file.getvalue()


def test_exit_codes() -> None:
    """Only what failed makes the exit code 1."""
    assert report.exit_code(CHECKS) == 1
    assert report.exit_code([check for check in CHECKS if check.status is not Status.FAILED]) == 0
    assert report.exit_code([]) == 0


def test_json_shape() -> None:
    """Programs find format, ok, versions, counts, and each check with everything that is known of it."""
    told = json.loads(report.as_json(CHECKS))

    assert set(told) == {"format", "ok", "hyperflow", "python", "host", "time", "counts", "checks"}
    assert (told["format"], told["ok"]) == (1, False)
    assert told["counts"] == {"ok": 2, "warning": 2, "failed": 1, "skipped": 1}
    assert told["checks"][2] == {
        "check": "ssh",
        "node": "node2",
        "status": "failed",
        "detail": "no sshd [there]",
        "fix": "type `this`",
        "page": "hyperflow docs sites/doctor#ssh",
        "seconds": 0.0,
        "data": {"cause": "refused"},
    }


def test_in_a_pipe() -> None:
    """In a pipe there are no colours, no line is broken, and nodes of which the same is said share one."""
    long = failed("ssh", "x" * 300, "`a command that is to be copied` " * 9, "node4")
    text = printed([*CHECKS, long], io.StringIO())

    assert "\x1b" not in text
    assert text.splitlines() == [line.rstrip() for line in text.splitlines()]
    assert "x" * 300 in text
    assert any(line.lstrip() == f"-> {long.fix}".rstrip() for line in text.splitlines())
    assert "FAILED   ssh    node2         no sshd [there]" in text
    assert "warning  CPUs   node1, node3  too few" in text
    assert text.endswith("2 ok, 2 warning, 2 failed, 1 skipped: see FAILED above.\n")


def test_every_finding_leads_to_its_page() -> None:
    """What is not well names its section of the page about the checks, which has all; with docs_url an address."""
    sections = re.findall(r"^## (.+)$", (DOCS / f"{report.PAGE}.md").read_text(), re.MULTILINE)
    assert [section.lower() for section in sections] == [name.lower() for name in ORDER]

    found = [failed("shared directory", "no", "do", "node4"), warning("CPUs", "few", "ask"), ok("ssh", "fine", "node4")]
    text = printed(found, io.StringIO())
    assert re.findall("about this: (.*)", text) == [
        "hyperflow docs sites/doctor#shared-directory",
        "hyperflow docs sites/doctor#cpus",
    ]
    configured = ok("configuration", "all", docs_url="https://docs.example.org/hf")
    pages = [check["page"] for check in json.loads(report.as_json([configured, *found]))["checks"]]
    here = "https://docs.example.org/hf/sites/doctor.html"
    assert pages == ["", f"{here}#shared-directory", f"{here}#cpus", ""]


def test_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal lines are wrapped to its width, and there are colours unless NO_COLOR is set."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    long = [failed("ssh", "word " * 60, "", "node4")]

    assert "\x1b[1;31m" in printed(long, Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(long, Terminal())
    assert "\x1b[1;31m" not in text
    assert max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in text.splitlines()) <= 80


def test_many_nodes() -> None:
    """What is well on many nodes is one line; what is not stays by itself."""
    many = [ok("ssh", f"echo in {number} ms", f"node{number}") for number in range(200)]
    text = printed([*many, failed("ssh", "no", "do", "node200")], io.StringIO())

    assert "ok      ssh  node0, node1, ... node199 (200 nodes)  all well" in text
    assert "FAILED  ssh  node200" in text
    assert len(text.splitlines()) == 5
