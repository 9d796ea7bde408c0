"""`hyperflow nodes` and `hyperflow node drain|resume`: what is shown of a run that is at work or over, and orders."""

import asyncio
import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

import hyperflow as hf
from hyperflow._job import open_job
from hyperflow.config import Settings
from hyperflow.control import place
from hyperflow.head.engine import Engine
from hyperflow.head.fleet import NodePlan
from hyperflow.transports.process import Local
from tests.helpers import wait_until
from tests.support import environment


@contextlib.asynccontextmanager
async def nodes(base: Path, *names: str) -> AsyncIterator[hf.JobEnv]:
    """Open a job on nodes of these names, which all are this machine, in a program of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CPUs were asked for", category=RuntimeWarning)
        plans = [NodePlan(Local(name), 1) for name in names]
        program = hf.ProgramInfo.new(base / "hyperflow-runs")
        async with open_job(plans, program, settings=Settings(), preload=[]) as env:
            yield env


async def hyperflow(*words: str, cwd: Path, code: int = 0) -> str:
    """Run the command beside this event loop; return its output, with code 0, or its error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hyperflow", *words), cwd=cwd, env=environment(), stdout=-1, stderr=-1
    )
    out, error = await process.communicate()
    assert process.returncode == code, (out, error)
    return (error if code else out).decode()


async def shows(part: str, *words: str, cwd: Path) -> str:
    """Return what `hyperflow nodes` prints as soon as this is part of it: a head writes its log four times a second."""
    async with asyncio.timeout(30):
        while part not in (shown := await hyperflow("nodes", *words, cwd=cwd)):
            pass
    return shown


def fails_there(x: int) -> int:
    """Fail on node north."""
    if hf.worker_info().node == "north":
        raise OSError("no licence")
    return x


@pytest.mark.process
async def test_nodes_of_a_run(tmp_path: Path) -> None:
    """Nodes are shown with state, counts and reason; put aside and used again by hand; shown when all is over."""
    async with nodes(tmp_path, "north", "south") as env:
        while not env.statistics().nodes_aside:
            await hf.map_concurrently(lambda x: hf.remote_eval(fails_there, x).using(retries=1), range(8))
        done = env.statistics().done
        await shows(f'"done": {done}', "--json", cwd=tmp_path)
        shown = await hyperflow("nodes", cwd=tmp_path)
        north, south = (line.split(maxsplit=7) for line in shown.splitlines()[1:])
        assert (north[:5], south[:5]) == (
            ["north", "drained", "1", "0", "0"],
            ["south", "running", "1", "0", str(done)],
        )
        assert north[7].endswith("evaluations failed there and then succeeded on other nodes")
        assert int(north[5]) >= 2

        assert await hyperflow("node", "resume", "north", cwd=tmp_path) == "node north: used again\n"
        assert env.statistics().nodes_aside == 0
        said = await hyperflow("node", "drain", "south", "--run", str(env.program.log_dir.parent), cwd=tmp_path)
        assert said == "node south: nothing more is started there\n"
        assert {(await hf.remote_eval(hf.worker_info)).node for _ in range(4)} == {"north"}
        await hyperflow("node", "drain", "north", cwd=tmp_path)
        assert env.statistics().cpus == 0
        waiting = hf.remote_eval(hf.worker_info).start()
        run = env.program.program_id
        await hyperflow("node", "resume", "south", "--run", run[:12], cwd=tmp_path)
        assert (await waiting).node == "south"
        assert "there are: north, south" in await hyperflow("node", "drain", "east", cwd=tmp_path, code=1)
    told = json.loads(await hyperflow("nodes", run, "--json", cwd=tmp_path))
    assert [(node["node"], node["state"]) for node in told["nodes"]] == [("north", "ended"), ("south", "ended")]
    assert "runs now" in await hyperflow("node", "drain", "north", cwd=tmp_path, code=3)
    assert not list((tmp_path / "hyperflow-runs" / run / "control").iterdir())


def holds_on(place: Path) -> None:
    """Wait on a worker until the test lets it go."""
    (place / "held").touch()
    while not (place / "go").exists():
        time.sleep(0.01)


@pytest.mark.process
async def test_a_node_is_looked_at_and_given_back(tmp_path: Path) -> None:
    """`node info` has all of a node; `drain --now` ends what runs there, which starts elsewhere."""
    async with nodes(tmp_path, "north") as env:
        waiting = hf.remote_eval(holds_on, tmp_path).using(name="a long one").start()
        await wait_until((tmp_path / "held").exists, 30, "it runs")
        await shows("running     1     1", cwd=tmp_path)
        (told,) = json.loads(await hyperflow("node", "info", "north", "--json", cwd=tmp_path))["nodes"]
        (there,) = told["evaluations"]
        assert (there["task"], there["function"], there["cpus"]) == (1, "holds_on", 1)
        assert (told["state"], told["busy"], told["there"]["reached_by"]) == ("running", 1, "local")
        assert told["there"]["cpus_busy"] == told["there"]["cpus"]
        shown = await hyperflow("node", "info", "north", cwd=tmp_path)
        assert "1 of holds_on: " in shown
        assert str(env.program.log_dir) in shown
        assert "it has or had: north" in await hyperflow("node", "info", "east", cwd=tmp_path, code=1)

        engine = cast("Engine", env.evaluator)
        await engine.add_node(NodePlan(Local("south"), 1))
        assert await hyperflow("node", "drain", "north", "--now", cwd=tmp_path) == "node north: given back\n"
        (tmp_path / "go").touch()
        await waiting
        shown = await shows("1 that has left", cwd=tmp_path)
        assert "north" not in shown
        (gone, _) = json.loads(await hyperflow("nodes", "--all", "--json", cwd=tmp_path))["nodes"]
        assert gone["node"] == "north"
        assert gone["cause"] == "given back by hand"
        assert "there are: south" in await hyperflow("node", "drain", "north", "--now", cwd=tmp_path, code=1)


@pytest.mark.process
async def test_control_socket_of_a_job_is_private(tmp_path: Path) -> None:
    """Only the user can reach it; aiohttp is imported when somebody connects, not before."""
    async with nodes(tmp_path, "north") as env:
        home = env.program.log_dir.parent
        address = place.read(home)
        assert address is not None
        assert address.pid == os.getpid()
        assert (home / "control").stat().st_mode & 0o777 == 0o700
        assert address.path.stat().st_mode & 0o777 == 0o600
    assert place.read(home) is None


@pytest.mark.process
async def test_a_long_path(tmp_path: Path) -> None:
    """The socket is in the job's directory, however long its path is."""
    async with nodes(tmp_path / ("long" * 30), "north") as env:
        address = place.read(env.program.log_dir.parent)
        assert address is not None
        assert address.path.parent.parent == env.program.log_dir.parent
        await hyperflow("node", "drain", "north", "--run", str(env.program.log_dir.parent), cwd=tmp_path)
        assert env.statistics().nodes_aside == 1


@pytest.mark.process
async def test_jobs_of_a_program(tmp_path: Path) -> None:
    """The nodes of each job of a program are shown with its number, and orders reach the job that has the node."""

    @hf.job
    async def waits() -> str:
        path = tmp_path / "there"
        await hf.remote_eval(path.touch)
        await wait_until((tmp_path / "go").exists, 60, "the test lets it go")
        return (await hf.remote_eval(hf.worker_info)).node

    async with hf.open_cluster(base_dir=tmp_path / "hyperflow-runs", local=True):
        running = hf.remote_eval_job(waits()).start()
        await wait_until((tmp_path / "there").exists, 30, "the job is at work")
        (row,) = json.loads(await shows('"done": 1', "--json", cwd=tmp_path))["nodes"]
        assert (row["job"], row["state"]) == (1, "running")
        said = await hyperflow("node", "drain", row["node"], cwd=tmp_path)
        assert said == f"node {row['node']} of job 1: nothing more is started there\n"
        await shows("by hand", cwd=tmp_path)
        await hyperflow("node", "resume", row["node"], cwd=tmp_path)
        (tmp_path / "go").touch()
        assert await running == row["node"]
