"""`hyperflow pool info|set|pause|resume`: what is shown of a pool, and what orders reach it."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from hyperflow.cli.pools import print_pool
from hyperflow.errors import ConfigurationError
from hyperflow.head.engine import Engine
from hyperflow.pools.nodepool import NodePool
from hyperflow.slurm.script import SbatchOptions
from tests.cli.test_nodes import hyperflow, nodes

NOW = 1_800_000_000.0
ALLOCATION = {
    "number": 1,
    "kind": "main",
    "state": "up",
    "slurm_job": 4711,
    "reason": "",
    "nodes": [
        {"name": "node1", "state": "up", "cpus": 4, "busy": True, "why": ""},
        {"name": "node2", "state": "failed", "cpus": 4, "busy": False, "why": "no srun"},
    ],
    "cpus": 8,
    "since": NOW - 60,
    "ends": NOW + 3600,
    "cause": "",
}
HOST = {"name": "box1", "state": "failed", "cpus": None, "cause": "no ssh", "since": NOW - 5, "next_try": NOW + 25}


class Held:
    """A pool that only notes what it is told."""

    def __init__(self) -> None:
        self.options = NodePool(SbatchOptions(partition="main"))
        self.state = "running"
        self.changes: dict[str, Any] = {}
        self.tried: list[str] = []

    def info(self) -> dict[str, Any]:
        """Return what people see."""
        limits = {name: getattr(self.options, name) for name in ("max_allocations", "idle_timeout")}
        told = {"state": self.state, "why": "Priority", "limits": limits, "wanted": 2, "reason": "8 evaluations wait"}
        return {**told, "allocations": [ALLOCATION], "hosts": [HOST]}

    def set(self, **changes: Any) -> None:
        """Change limits."""
        self.options = self.options.changed(**changes)

    def pause(self) -> None:
        """Ask for no more."""
        self.state = "paused"

    def resume(self, **changes: Any) -> None:
        """Go on."""
        self.state, self.changes = "running", changes

    def asked(self) -> int:
        """Nothing is on its way."""
        return 3

    def keep_away(self, node: str) -> None:
        """A person has given it back."""

    def take_back(self, node: str) -> bool:
        """A person wants it."""
        self.tried.append(node)
        return node == "box1"


def test_a_pool_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    """One line for how it stands, why, the limits; a row for each allocation and host."""
    print_pool({"run": "there", **Held().info()}, NOW)
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "pool of there: running; allocations: 1 up",
        "  Priority",
        "  2 more wanted: 8 evaluations wait",
        "  max_allocations 20, idle_timeout 300",
    ]
    assert " ".join(said[5].split()) == "1 main up 4711 node1, node2 (no srun) 8 1 min 1:00 h"
    assert said[7].split() == ["box1", "failed", "all", "5", "s", "25", "s", "no", "ssh"]


def test_a_limit_that_keeps_it_small(capsys: pytest.CaptureFixture[str]) -> None:
    """Where more is wanted than may be, the line says which limit it is."""
    told = {"run": "there", **Held().info()}
    print_pool({**told, "limits": {"max_allocations": 1}}, NOW)
    assert "  2 more wanted: 8 evaluations wait; max_allocations 1 allows no more\n" in capsys.readouterr().out
    ended = {**ALLOCATION, "state": "ended"}
    print_pool({**told, "limits": {"max_allocations": 1}, "allocations": [ended]}, NOW)
    assert "allows no more" not in capsys.readouterr().out


def test_a_pool_that_is_held(capsys: pytest.CaptureFixture[str]) -> None:
    """Below the reason stands what to type."""
    print_pool({"run": "there", **Held().info(), "state": "held", "why": "main: no such partition"}, NOW)
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "  main: no such partition"
    assert said[2].startswith("  `hyperflow pool resume` goes on; --partition")


def test_an_allocation_that_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    """Its cause says why it ended; its nodes are not called lost, and it has no end before it."""
    nodes = [{"name": "node1", "state": "lost", "cpus": 4, "busy": False, "why": ""}]
    ended = {**ALLOCATION, "state": "ended", "nodes": nodes, "cause": "idle timeout"}
    print_pool({"run": "there", **Held().info(), "allocations": [ended], "hosts": []}, NOW)
    row = capsys.readouterr().out.splitlines()[5]
    assert " ".join(row.split()) == "1 main ended 4711 node1 8 1 min idle timeout"


@pytest.mark.process
async def test_orders(tmp_path: Path) -> None:
    """Each order changes the pool of the run that it is for; what makes no sense is refused, and changes nothing."""
    async with nodes(tmp_path, "north") as env:
        engine = cast("Engine", env.evaluator)
        assert "this run has no pool" in await hyperflow("pool", "info", cwd=tmp_path, code=1)
        pool = engine.pool = Held()
        assert engine.progress().nodes_asked == 3
        told = json.loads(await hyperflow("pool", "info", env.program.program_id[:14], "--json", cwd=tmp_path))
        assert (told["format"], told["state"], told["hosts"]) == (1, "running", [HOST])
        assert "max_allocations 5" in await hyperflow("pool", "set", "max-allocations", "5", cwd=tmp_path)
        await hyperflow("pool", "set", "idle_timeout", "5m", cwd=tmp_path)
        assert (pool.options.max_allocations, pool.options.idle_timeout) == (5, 300.0)
        said = await hyperflow("pool", "set", "max_alocations", "5", cwd=tmp_path, code=1)
        assert "no limit 'max_alocations'; it has min_allocations, max_allocations" in said
        assert "LIMIT requires an argument" in await hyperflow("pool", "set", cwd=tmp_path, code=2)
        said = await hyperflow("pool", "set", "max_allocations", "0", cwd=tmp_path, code=1)
        assert "a whole number of at least 1" in said
        assert "pool of" in await hyperflow("pool", "pause", cwd=tmp_path)
        assert pool.state == "paused"
        await hyperflow("pool", "resume", "--partition", "other", "--time", "2:00:00", cwd=tmp_path)
        assert (pool.state, pool.changes) == ("running", {"partition": "other", "time": "2:00:00"})
        assert await hyperflow("node", "resume", "box1", cwd=tmp_path) == "node box1: used again\n"
        assert "no node that this run uses" in await hyperflow("node", "resume", "box9", cwd=tmp_path, code=1)
        assert pool.tried == ["box1", "box9"]
    assert "does not run now" in await hyperflow("pool", "pause", cwd=tmp_path, code=3)


def test_limits_are_those_of_a_pool() -> None:
    """A limit that people may change is an option of NodePool."""
    with pytest.raises(ConfigurationError, match="NodePool has no"):
        Held().set(max_alocations=3)
