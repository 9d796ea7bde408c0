"""A program on the login host that runs on a pool, and the files by which it speaks with the test."""

import json
import sys
from pathlib import Path
from typing import Any

import attrs

from tests.cluster.cluster import Cluster
from tests.cluster.host import Command
from tests.helpers import block_until
from tests.imports import TOP

CONSTANTS = {
    "hyperflow.pools.rules:EBB": 2.0,
    "hyperflow.pools.rules:TRY_PAUSE": 1.0,
    "hyperflow.pools.allocations:GRACE": 4.0,
    "hyperflow.pools.allocations:RELEASE": 10.0,
    "hyperflow.pools.allocations:LAST_CANCEL": 4.0,
}

STEPS = {
    "wanted": "before its token is written",
    "written": "before sbatch",
    "submitted": "after sbatch",
    "waits": "while it waits",
    "runs": "before its nodes are used",
    "used": "when its nodes are used",
    "given back": "before it is cancelled",
}
"""Of the life of an allocation, and where the head is killed in it."""


@attrs.define
class Program:
    """A program, and the directory that it shares with the test."""

    cluster: Cluster
    place: Path
    main: str
    pool: str
    orders: int = 0

    def start(self, kill: str = "", resume: bool = False, **constants: float) -> Command:
        """Start it on the login host, for a `with`; `kill`: where it is to kill itself; `resume`: by that command."""
        script = self.place / "program.py"
        script.write_text(f"from tests.pools.on_login import *\n{self.main}\nrun(main, {self.pool})\n")
        env = {
            "PYTHONPATH": str(TOP),
            "TEST_PLACE": str(self.place),
            "TEST_KILL": kill,
            "TEST_CONSTANTS": json.dumps(CONSTANTS | constants),
        }
        words = [str(script)]
        if resume:
            words = ["-m", "hyperflow", "resume", str(next((self.place / "runs").iterdir()))]
        with (self.place / "output").open("ab") as output:
            return self.cluster.login.start(
                [sys.executable, *words], env=env, stdout=output, stderr=output, cwd=self.place
            )

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

    def wait_state(self, condition: Any, timeout: float = 40) -> Any:
        """Wait until what people see of the pool is as it should be, and return that."""
        block_until(
            lambda: any(map(condition, self.told("state")[-1:])), timeout, "the pool is as expected", state=self.seen
        )
        return self.told("state")[-1]

    def marks(self, beginning: str = "") -> list[str]:
        """Return the marks that evaluations have left."""
        path = self.place / "marks"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(beginning)]

    def wait_marks(self, beginning: str, count: int = 1, timeout: float = 40) -> None:
        """Wait until so many marks begin like this."""
        block_until(
            lambda: len(self.marks(beginning)) >= count, timeout, f"{count} marks {beginning!r}", state=self.seen
        )

    def go(self, *names: str) -> None:
        """Let held evaluations go on."""
        for name in names:
            (self.place / f"go.{name}").touch()

    def order(self, name: str, **changes: Any) -> None:
        """Have it call a method of its pool."""
        self.orders += 1
        draft = self.place / "order.draft"
        draft.write_text(json.dumps([name, changes]))
        draft.rename(self.place / f"order.{self.orders}")

    def jobs(self) -> list[tuple[int, str, str]]:
        """Return all Slurm jobs of pools that this cluster remembers: id, state, name."""
        form = "--Format=JobID:|,State:|,Name:100"
        lines = self.cluster.login.run(["squeue", "--noheader", "--states=all", form]).stdout.splitlines()
        found = [line.split("|") for line in lines]
        mine = [home.name for home in (self.place / "runs").glob("*")]
        return [(int(job), state, name.strip()) for job, state, name in found if name.strip().partition(".")[0] in mine]

    def alive(self) -> list[int]:
        """Return those that have not ended."""
        return [job for job, state, _ in self.jobs() if state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")]

    def wait_gone(self, timeout: float = 40) -> None:
        """Wait until no allocation is left."""
        block_until(lambda: not self.alive(), timeout, "all allocations have ended", state=self.seen)

    def seen(self) -> str:
        """Return what there is to see, for errors."""
        output = (self.place / "output").read_text()[-2000:]
        logs = "\n".join(text for _, text in self.told("log")[-40:])
        state = json.dumps(self.told("state")[-1:])
        outputs = "\n".join(path.read_text()[-300:] for path in self.place.glob("runs/*/pool/*.log"))
        return f"{output}\n{logs}\n{self.marks()}\n{state}\n{outputs}\n{self.jobs()}"
