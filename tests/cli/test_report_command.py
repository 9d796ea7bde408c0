"""`hyperflow report`: files for people and programs, of any run."""

import html.parser
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.cli import reporting
from hyperflow.errors import ConfigurationError
from tests.viewing.made import ESCAPE, OPENED, log_of, make_run


class Scripts(html.parser.HTMLParser):
    """Collects the scripts of a document, and all tags."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag begins."""
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        """A text follows."""
        if self.tags[-1:] == ["script"]:
            self.scripts[-1] += data


def test_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTML has all in it, and nothing that a program named is markup or ends a script."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    hostile = f"</script><!--{ESCAPE}"
    make_run(tmp_path / "runs", "r1", *log_of(1, 2, 3, function=hostile), argv=[hostile, "--x"], error=hostile)
    target = tmp_path / "r.html"
    assert reporting.report("r1", output=target, base_dir=tmp_path / "runs") == 0
    text = target.read_text()
    document = Scripts()
    document.feed(text)
    frozen = json.loads(document.scripts[0])

    ours = text.replace(document.scripts[1], "").replace(document.scripts[2], "")
    assert len(document.scripts) == 3
    assert not {"img", "iframe", "object"} & set(document.tags)
    assert "<img" not in ours
    assert "<!--" not in ours
    assert frozen["functions"][0]["name"] == hostile
    assert frozen["failures"]["shown"][0]["error"].endswith(ESCAPE)
    assert {part["id"] for part in frozen["extra"]} == {"parameters", "hours", "again"}
    assert "connect-src" not in text.partition("<title>")[0]
    assert "default-src 'none'" in text.partition("<title>")[0]


def test_a_node_with_one_cpu(tmp_path: Path) -> None:
    """What it ran on is told in numbers that agree with their words."""
    log = [{**entry, "cpus": 1} if entry.get("state") == "up" else entry for entry in log_of(1, 2)]
    make_run(tmp_path / "runs", "r1", *log)
    assert reporting.report("r1", json=tmp_path / "r.json", base_dir=tmp_path / "runs") == 0
    assert json.loads((tmp_path / "r.json").read_text())["facts"]["machine"] == "1 node with 1 CPU"


def test_files_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON, a table and a trace at once; without -o no HTML; a run that was killed, whose log is cut, too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    waiting = {"t": 2.0, "state": "waiting", "tasks": [4], "function": "scan", "cpus": 1}
    cut: list[Mapping[str, object] | bytes] = [*log_of(1, 2, 3), waiting, b'{"t": 2.5, "st']
    make_run(tmp_path / "runs", "r1", *cut, ended=None, outcome="killed")
    names = [Path("r.json"), Path("r.csv"), Path("r.trace")]
    assert reporting.report("r1", json=names[0], csv=names[1], trace=names[2], base_dir=tmp_path / "runs") == 0
    told = json.loads(names[0].read_text())

    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["r.csv", "r.json", "r.trace"]
    assert (told["functions"][0]["done"], told["functions"][0]["waiting"]) == (2, 1)
    assert told["facts"]["machine"] == "1 node with 4 CPUs"
    assert len(names[1].read_text().splitlines()) == 5
    assert json.loads(names[2].read_text())["traceEvents"]


def test_bad_logs_and_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A foreign log is told in the report; a place that cannot be written is an error, and leaves nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    make_run(tmp_path / "runs", "r1", OPENED, b"\0\1 foreign", b"more")
    target = tmp_path / "r.json"
    assert reporting.report("r1", json=target, base_dir=tmp_path / "runs") == 0
    assert "is damaged in line 2" in json.loads(target.read_text())["note"]
    with pytest.raises(ConfigurationError, match=r"cannot write .*none/r.json: No such file or directory"):
        reporting.report("r1", json=tmp_path / "none" / "r.json", base_dir=tmp_path / "runs")


@pytest.mark.process
def test_why_results_were_computed(tmp_path: Path) -> None:
    """Of each memoized function it says how many results the run has recorded, and what the nearest earlier one was."""

    @hf.memoize("energy", version=1)
    def energy(n: int, basis: str) -> hf.Job[int]:
        return hf.remote_eval(pow, n, len(basis))

    @hf.job
    async def energies(basis: str) -> None:
        await hf.map_concurrently(lambda n: energy(n, basis), [1, 2])

    first = hf.ProgramInfo.new(tmp_path)
    hf.run_job_local(energies("sto"), cpus=1, program=first)
    second = hf.ProgramInfo.new(tmp_path, start_from=first.database)
    hf.run_job_local(energies("svp"), cpus=1, program=second)
    target = tmp_path / "r.json"
    assert reporting.report(second.program_id, json=target, base_dir=tmp_path) == 0
    ((name, told),) = json.loads(target.read_text())["results"]
    assert (name, told.partition(";")[0]) == ("energy", "2 computed")
    assert "basis: sto there, svp here" in told
