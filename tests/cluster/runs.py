"""Scripts of users on the cluster, as tests start and watch them."""

import json
import shlex
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from tests.cluster.cluster import Cluster
from tests.helpers import block_until
from tests.imports import TOP

THOUSAND = "async def main():\n    return await thousand(quick)\n"


@attrs.frozen
class Told:
    """Something that a script has told: when, what, and more."""

    when: float
    what: str
    value: Any


@attrs.frozen
class Run:
    """A script that runs on the cluster, or has run there."""

    cluster: Cluster
    place: Path
    job: int = 0

    def all(self, what: str) -> list[Told]:
        """Return all that it has told so far under one name."""
        return [told for told in self._told() if told.what == what]

    def _told(self) -> Iterator[Told]:
        path = self.place / "told"
        if path.exists():
            for line in path.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    yield Told(*json.loads(line))

    def wait(self, what: str, timeout: float = 45) -> Told:
        """Wait until it has told something, and return the last of it."""
        block_until(lambda: self.all(what), timeout, f"the script tells {what!r}", state=self.seen)
        return self.all(what)[-1]

    def seen(self) -> str:
        """Return what there is to see, for errors."""
        output = self.cluster.slurm.output(self.job) if self.job else ""
        return "\n".join([output, *map(str, self._told())])

    def logged(self, part: str) -> list[Told]:
        """Return what it has logged with these words in it."""
        return [told for told in self.all("log") if part in told.value[2]]

    def wait_logged(self, part: str, timeout: float = 45) -> Told:
        """Wait until it has logged something, and return the last of it."""
        block_until(lambda: self.logged(part), timeout, f"the script logs {part!r}", state=self.seen)
        return self.logged(part)[-1]

    def wait_held(self, *nodes: str) -> None:
        """Wait until evaluations are held on all these nodes."""
        marks = [self.place / f"held.{node}" for node in nodes]
        block_until(lambda: all(mark.exists() for mark in marks), 30, f"held on {nodes}", state=self.seen)

    def go(self) -> None:
        """Let them go."""
        (self.place / "go").touch()

    def result(self, timeout: float = 45) -> Any:
        """Wait for the end, and return the result of the script's main."""
        self.wait("end", timeout)
        assert not self.all("error"), self.seen()
        return self.all("result")[-1].value

    def statistics(self) -> dict[str, Any]:
        """Return the last statistics."""
        found: dict[str, Any] = self.all("statistics")[-1].value
        return found

    def error(self, timeout: float = 45) -> str:
        """Wait for the end, and return the error with its kind."""
        self.wait("end", timeout)
        assert self.all("error"), self.seen()
        return ": ".join(self.all("error")[-1].value)


def prepare(cluster: Cluster, main: str = THOUSAND, **settings: Any) -> tuple[Run, str, dict[str, str | None]]:
    """Write a script; return its run, the command, and the environment that it needs."""
    run = Run(cluster, cluster.home / f"run-{uuid.uuid4().hex[:8]}")
    run.place.mkdir()
    path = run.place / "script.py"
    arguments = ", ".join(["main", *(f"{name}={value!r}" for name, value in settings.items())])
    path.write_text(f"from tests.cluster.on_nodes import *\n\n{main}\n\nrun({arguments})\n")
    env: dict[str, str | None] = {"PYTHONPATH": str(TOP), "TEST_PLACE": str(run.place)}
    return run, shlex.join([sys.executable, str(path)]), env


def submit(
    cluster: Cluster,
    main: str = THOUSAND,
    *,
    nodes: int = 3,
    cpus: int = 4,
    before: str = "",
    within: str = "",
    **settings: Any,
) -> Run:
    """
    Submit a script whose `main` is a coroutine function.

    Before it come lines of shell, and it runs within a command if one is given. With no number of CPUs, it gets all.
    """
    run, command, env = prepare(cluster, main, **settings)
    size: dict[str, int | bool] = {"ntasks_per_node": cpus} if cpus else {"exclusive": True}
    # no_kill: or Slurm ends the job when a node does not answer
    job = cluster.slurm.sbatch(f"{before}\nexec {within} {command}", nodes=nodes, no_kill=True, env=env, **size)
    return attrs.evolve(run, job=job)
