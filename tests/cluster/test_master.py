"""Cluster programs on the login host, with real Slurm: results, holds, a master that is killed, a job started again."""

import json
import signal
import sqlite3
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.host import Command
from tests.helpers import block_until
from tests.imports import TOP


@attrs.define
class Program:
    """A Cluster program, and the files by which it speaks with the test."""

    cluster: Cluster
    place: Path
    script: Path
    orders: int = 0

    @contextmanager
    def started(self, resume: str | None = None) -> Iterator[Command]:
        """Start it on the login host."""
        env = {"PYTHONPATH": str(TOP), "TEST_PLACE": str(self.place), "TEST_RESUME": resume}
        with (
            (self.place / "output").open("ab") as output,
            self.cluster.login.start(
                [sys.executable, str(self.script)], env=env, stdout=output, stderr=output, cwd=self.place
            ) as command,
        ):
            yield command

    def told(self, what: str) -> list[Any]:
        """Return all that it has told under a name."""
        path = self.place / "told"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("\n")]
        return [value for _, name, value in told if name == what]

    def wait(self, what: str, count: int = 1, timeout: float = 40) -> Any:
        """Wait until it has told something so often, and return the last of it."""
        block_until(lambda: len(self.told(what)) >= count, timeout, f"it tells {what!r}", state=self.seen)
        return self.told(what)[-1]

    def wait_logged(self, part: str, timeout: float = 40) -> None:
        """Wait until it has logged something."""

        def logged() -> bool:
            return any(part in text for _, text in self.told("log"))

        block_until(logged, timeout, f"it logs {part!r}", state=self.seen)

    def wait_marked(self, mark: str, timeout: float = 40) -> None:
        """Wait until an evaluation has left a mark."""
        block_until(lambda: self.marks()[mark], timeout, f"the mark {mark!r}", state=self.seen)

    def marks(self) -> Counter[str]:
        """Return the marks that evaluations have left."""
        path = self.place / "marks"
        return Counter(path.read_text().splitlines()) if path.exists() else Counter()

    def seen(self) -> str:
        """Return what there is to see, for errors."""
        output = (self.place / "output").read_text()[-3000:]
        logs = "\n".join(text for _, text in self.told("log"))
        outputs = "\n".join(path.read_text()[-500:] for path in self.place.glob("runs/*/jobs/*/slurm.out"))
        return f"{output}\n{logs}\n{self.marks()}\n{outputs}\n{self.cluster.slurm.squeue()}"

    def go(self, name: str) -> None:
        """Let an evaluation go on."""
        (self.place / f"go.{name}").touch()

    def order(self, name: str, *numbers: int, **changes: Any) -> None:
        """Let the master do something."""
        self.orders += 1
        draft = self.place / "draft"
        draft.write_text(json.dumps([name, numbers, changes]))
        draft.rename(self.place / f"order.{self.orders}")

    def why(self, number: int) -> str:
        """Return what `hyperflow why` would say."""
        count = len(self.told("why"))
        self.order("why", number)
        return str(self.wait("why", count + 1))

    def ids(self) -> dict[int, list[int]]:
        """Return the Slurm ids of each job, as its job.json has them."""
        found: dict[int, list[int]] = {}
        for path in self.place.glob("runs/*/jobs/*/job.json"):
            record = json.loads(path.read_text())
            found[record["number"]] = [attempt["batch_id"] for attempt in record["attempts"]]
        return found


def prepare(cluster: Cluster, main: str, **options: Any) -> Program:
    """Write a program whose Cluster function is `main`."""
    place = cluster.home / f"program-{uuid.uuid4().hex[:8]}"
    place.mkdir()
    script = place / "script.py"
    arguments = ", ".join(["main", *(f"{name}={value}" for name, value in options.items())])
    script.write_text(f"from tests.cluster.on_login import *\n\n@hf.cluster\n{main}\n\nrun({arguments})\n")
    return Program(cluster, place, script)


def test_results_come_back(cluster: Cluster) -> None:
    """Jobs of two nodes, plain evaluations, a class of the script: results are right, all rows are in one database."""
    main = """
async def main():
    wide = hf.SbatchOptions(nodes=2, ntasks_per_node=2)
    one, two = await hf.concurrently(
        hf.remote_eval_job(both_nodes(2)).using(sbatch=wide), hf.remote_eval_job(work(3)),
    )
    assert type(one) is Answer, type(one)
    return [one.nodes, one.value, two, await hf.remote_eval(quick, 7).using(sbatch=hf.SbatchOptions())]

class Answer:
    def __init__(self, nodes, value):
        self.nodes, self.value = nodes, value

@hf.job
async def both_nodes(x):
    def where():
        time.sleep(0.3)
        return hf.worker_info().node
    nodes = await hf.replicate_concurrently(4, hf.remote_eval(where))
    return Answer(sorted(set(nodes)), await evaluate(x, ""))
"""
    program = prepare(cluster, main)
    with program.started() as command:
        nodes, *values = program.wait("result")
        assert command.wait(20) == 0
    assert len(nodes) == 2
    assert values == [4, 18, 49]
    statistics = program.told("statistics")[-1]
    assert statistics["jobs"] == {"done": 3}
    assert statistics["calls"]["sbatch"] == 3
    home = Path(program.told("home")[0])
    with closing(sqlite3.connect(home / "results.sqlite")) as database:
        rows = database.execute("SELECT key FROM entries WHERE map LIKE 'memoize:evaluate%'").fetchall()
    assert len(rows) == 3
    assert not list(home.glob("jobs/*/results.*.sqlite"))


@pytest.mark.timeout(150)
def test_failures_are_held_and_retried(cluster: Cluster) -> None:
    """Exception, time limit, scancel and refusal hold a job each; `why` says what it was; retried, all have results."""
    main = """
async def main():
    one = hf.SbatchOptions()
    return await hf.concurrently(
        hf.remote_eval_job(raises(1)),
        hf.remote_eval_job(work(2, "two")).using(sbatch=one.changed(time=1)),
        hf.remote_eval_job(work(3, "three")),
        hf.remote_eval_job(work(4)).using(sbatch=one.changed(partition="nowhere")),
        hf.remote_eval_job(crashes(5)),
        hf.remote_eval_job(work(6)),
    )

@hf.job
async def raises(x):
    if not (place / "mended").exists():
        raise LookupError(f"{x} is not there")
    return x

@hf.job
async def crashes(x):
    if not (place / "mended").exists():
        os.kill(os.getpid(), 9)
    return x
"""
    program = prepare(cluster, main)
    with program.started() as command:
        program.wait_marked("waiting three")
        third = program.ids()[3][0]
        cluster.slurm.scancel(third)
        for number in range(1, 6):
            program.wait_logged(f"job {number}, ")
            block_until(
                lambda number=number: any(  # type: ignore[misc]
                    text.startswith(f"job {number}, ") and "is held" in text for _, text in program.told("log")
                ),
                70,
                f"job {number} is held",
                state=program.seen,
            )
        stories = {number: program.why(number) for number in range(1, 6)}
        assert "exception: LookupError: 1 is not there" in stories[1]
        assert "time limit: " in stories[2]
        assert "hyperflow retry 2 --time" in stories[2]
        assert "cancelled: somebody cancelled it" in stories[3]
        assert "CANCELLED" in stories[3]
        assert "refused: it could not be submitted" in stories[4]
        assert "nvalid partition" in stories[4]
        assert "its process was killed" in stories[5]
        (program.place / "mended").touch()
        program.go("two")
        program.go("three")
        program.order("retry", 1, 3, 5)
        program.order("retry", 2, time="5:00")
        program.order("retry", 4, partition="main")
        assert program.wait("result") == [1, 8, 18, 32, 5, 72]
        assert command.wait(20) == 0
    ids = program.ids()
    assert [len(ids[number]) for number in range(1, 7)] == [2, 2, 2, 1, 2, 1]
    assert program.marks()["ran 3"] == 1, "what the cancelled job had recorded was computed again"


@pytest.mark.timeout(120)
def test_killed_master(cluster: Cluster) -> None:
    """SIGKILL while one job is queued, one runs, one has finished: the next master has the same jobs, each run once."""
    main = """
async def main():
    whole = hf.SbatchOptions(nodes=3, exclusive=True)
    first = await hf.remote_eval_job(work(1))
    return [first, *await hf.concurrently(
        hf.remote_eval_job(work(2, "two")), hf.remote_eval_job(work(3)).using(sbatch=whole),
    )]
"""
    program = prepare(cluster, main)
    with program.started() as command:
        program.wait_marked("waiting two")
        block_until(lambda: len(cluster.slurm.squeue()) == 2, 20, "one is queued, one runs", state=program.seen)
        block_until(lambda: program.ids().get(3, [None])[-1], 20, "the third is known", state=program.seen)
        command.signal(signal.SIGKILL)
        command.wait(10)
        before, queue = program.ids(), cluster.slurm.squeue()
    assert sorted(queue.values()) == ["PENDING", "RUNNING"]
    home = program.told("home")[0]
    with program.started(resume=home) as command:
        program.wait("home", 2)
        with program.started(resume=home) as second:
            assert second.wait(20) != 0
        kind, text = program.wait("error")
        assert kind == "RunInUse"
        assert "on login runs it" in text
        program.go("two")
        assert program.wait("result") == [2, 8, 18]
        assert command.wait(20) == 0
    assert program.ids() == before
    assert program.told("statistics")[-1]["calls"].get("sbatch", 0) == 0
    assert {name: count for name, count in program.marks().items() if name.startswith("ran")} == {
        f"ran {x}": 1 for x in (1, -1, 2, -2, 3, -3)
    }


@pytest.mark.timeout(120)
def test_requeued_job(cluster: Cluster) -> None:
    """A job that Slurm starts again goes on from what its first start had recorded, and its result is the second's."""
    main = 'async def main():\n    return await hf.remote_eval_job(work(1, "one"))\n'
    program = prepare(cluster, main)
    with program.started() as command:
        program.wait_marked("waiting one")
        (number,) = program.ids()[1]
        cluster.slurm.scontrol("requeue", str(number))
        block_until(lambda: program.marks()["waiting one"] == 2, 60, "it runs again", state=program.seen)
        program.go("one")
        assert program.wait("result") == 2
        assert command.wait(20) == 0
    assert program.ids() == {1: [number]}
    assert program.marks()["ran 1"] == 1
    home = Path(program.told("home")[0])
    assert (home / "jobs" / "1" / "result.1.1").exists()
    assert program.told("statistics")[-1]["late"] == 0


def test_base_directory_that_nodes_do_not_see(cluster: Cluster) -> None:
    """A job whose node does not see the run directory is held, and says so."""
    main = "async def main():\n    return await hf.remote_eval_job(work(1))\n"
    program = prepare(cluster, main, program='hf.ProgramInfo.new("/run/here-only")')
    with program.started():
        program.wait_logged("is held")
        story = program.why(1)
    assert "do the nodes see" in story or "does not see" in story, story
