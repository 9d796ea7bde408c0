"""Elastic pools on real Slurm: they grow from nothing and shrink, are refused, lose nodes, and survive their head."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.helpers import block_until
from tests.pools.program import STEPS, Program

SMALL = "hf.SbatchOptions(ntasks_per_node=2, time=5)"

Make = Callable[..., Program]


@pytest.fixture
def make(cluster: Cluster, tmp_path: Path) -> Iterator[Make]:
    """Make a program on a pool; at the end nothing of it may be at Slurm."""
    made: list[Program] = []

    def make(main: str, pool: str) -> Program:
        made.append(Program(cluster, tmp_path, main, pool))
        return made[-1]

    yield make
    for program in made:
        assert not program.alive()


def _up(info: Any) -> list[Any]:
    return [it for it in info["allocations"] if it["state"] == "up"]


def test_it_grows_from_nothing_and_shrinks(make: Make) -> None:
    """Nothing is asked for before work waits; what waits brings allocations up to the limit; idle ones are given back,
    and come again."""
    main = """
async def main(env):
    pool = pool_of(env)
    await asyncio.sleep(1)  # nothing waits, and nothing is asked for
    assert not pool.info()["allocations"] and not pool.info()["calls"].get("scancel")
    began = time.time()
    first = hf.remote_eval(held, "first").start()
    rest = [hf.remote_eval(held, f"rest{n}").start() for n in range(5)]
    nodes = await asyncio.gather(first, *rest)
    await until(lambda: not [it for it in pool.info()["allocations"] if it["state"] != "ended"])
    again = await hf.remote_eval(quick, 7)
    return [nodes, again]
"""
    program = make(main, f"hf.NodePool(sbatch={SMALL}, max_allocations=3, idle_timeout=2, target_duration=1)")
    with program.start():
        program.wait("open")
        program.wait_marks("began", 6)
        info = program.wait_state(lambda info: len(_up(info)) == 3)
        assert len(program.alive()) == 3
        assert {it["kind"] for it in info["allocations"]} == {"the default partition"}
        program.go("first", *(f"rest{n}" for n in range(5)))
        nodes, again = program.wait("result")
        program.wait("end")
    assert again == 49
    assert len(set(nodes)) == 3
    assert len(program.jobs()) == 4
    causes = [it["cause"] for it in program.told("info")[-1]["allocations"] if it["state"] == "ended"]
    assert causes == ["idle timeout"] * 3
    assert not program.marks("killed")


def test_several_kinds(make: Make) -> None:
    """A request gets the first kind that has room for it; what no kind has room for is refused at once."""
    main = """
async def main(env):
    small = hf.remote_eval(held, "small").start()
    await until(lambda: [it for it in pool_of(env).info()["allocations"] if it["state"] == "up"])
    large = hf.remote_eval(held, "large").using(cpus=4).start()
    try:
        await hf.remote_eval(quick, 1).using(cpus=64)
    except hf.errors.ImpossibleRequest as error:
        tell("impossible", str(error))
    try:
        await hf.remote_eval(quick, 1).using(min_time="2h")
    except hf.errors.HyperflowError as error:
        tell("too long", str(error))
    return [await small, await large]
"""
    kinds = "[hf.SbatchOptions(time=5), hf.SbatchOptions(ntasks_per_node=4, time=9)]"
    program = make(main, f"hf.NodePool(sbatch={kinds}, idle_timeout=60)")
    with program.start():
        program.wait("impossible")
        program.wait_marks("began", 2)
        info = program.wait_state(lambda info: len(_up(info)) == 2)
        assert sorted(it["cpus"] for it in info["allocations"]) == [1, 4]
        program.go("small", "large")
        program.wait("result")
        program.wait("end")
    assert len(program.jobs()) == 2
    program.wait_gone()


def test_refused_held_and_resumed(make: Make) -> None:
    """Slurm's refusal of a kind ends the program at its start; a kind that brings no node up is held after three
    allocations, while evaluations wait; another request to Slurm goes on."""
    main = """
from hyperflow.pools import scripts

async def main(env):
    try:
        async with hf.open_pool_job(hf.NodePool(sbatch=hf.SbatchOptions(partition="nowhere"))):
            pass
    except hf.errors.ConfigurationError as error:
        tell("refused", str(error))
    tell("dry", await scripts.rehearse(pool_of(env).options, place))
    return await hf.remote_eval(quick, 3)
"""
    program = make(main, "hf.NodePool(sbatch=hf.SbatchOptions(time=5, preamble='exit 3'), idle_timeout=60)")
    with program.start():
        assert "partition" in program.wait("refused")
        dry = program.wait("dry")
        assert dry.startswith("#!/bin/bash")
        assert "to start at" in dry.rpartition("# Slurm says: ")[2]
        info = program.wait_state(lambda info: info["state"] == "held")
        assert "exit code 3" in info["why"]
        assert len(program.jobs()) == 3
        program.order("resume", preamble="")
        assert program.wait("result") == 9
        program.wait("end")
    program.wait_gone()
    assert len(program.jobs()) == 4


def test_its_end_and_a_cancel(make: Make) -> None:
    """An allocation whose end is near is drained, and what still runs there goes elsewhere, as after a scancel."""
    main = """
from hyperflow.pools.journal import Journal, attrs
plain = Journal.report
def report(self, number):
    found = plain(self, number)
    return found and (attrs.evolve(found, ends=time.time() + 12) if number == 1 else found)
Journal.report = report

async def main(env):
    return await hf.remote_eval(held, "it")
"""
    program = make(main, "hf.NodePool(sbatch=hf.SbatchOptions(time=1), idle_timeout=60)")
    with program.start():
        program.wait_marks("began it", 2)
        info = program.wait_state(lambda info: len(_up(info)) == 1)
        assert [(it["number"], it["cause"]) for it in info["allocations"] if it["state"] == "ended"] in (
            [],
            [(1, "time limit")],
        )
        program.cluster.slurm.scancel(_up(info)[0]["slurm_job"])
        program.wait_marks("began it", 3)
        info = program.wait_state(lambda info: len(_up(info)) == 1 and _up(info)[0]["number"] == 3)
        program.go("it")
        program.wait("result")
        program.wait("end")
    program.wait_gone()
    assert program.told("info")[-1]["state"] == "running"


def test_slurm_is_away(make: Make) -> None:
    """What is up goes on without Slurm; the program ends, and its allocation sees that nobody wants it."""
    main = """
async def main(env):
    first = await hf.remote_eval(held, "first")
    return [first, await hf.remote_eval(quick, 4)]
"""
    program = make(main, f"hf.NodePool(sbatch={SMALL}, idle_timeout=60)")
    with program.start():
        program.wait_marks("began first")
        program.cluster.faults.stop_daemon("login", "slurmctld")
        program.go("first")
        assert program.wait("result")[1] == 16
        program.wait("end")
    program.cluster.faults.start_daemon("login", "slurmctld")
    program.wait_gone(20)
    assert any("those that run end by themselves" in text for _, text in program.told("log"))


@pytest.mark.parametrize("step", [STEPS["written"], STEPS["submitted"], STEPS["used"], STEPS["given back"]])
def test_the_head_is_killed(make: Make, step: str) -> None:
    """Started again, by itself or by `hyperflow resume`, it takes over what lives, submits nothing twice, and leaves
    nothing."""
    main = """
async def main(env):
    there = await hf.remote_eval(quick, 5)
    await asyncio.sleep(0)
    return there
"""
    program = make(main, f"hf.NodePool(sbatch={SMALL}, max_allocations=1, idle_timeout=60)")
    with program.start(step) as command:
        block_until(lambda: command.poll() is not None, 30, "it is killed", state=program.seen)
    assert command.returncode == -signal.SIGKILL, program.seen()
    before = program.alive()
    with program.start(resume=step == STEPS["submitted"]):
        assert program.wait("result", 1 + (step == STEPS["given back"])) == 25
        program.wait("end", 1)
        block_until(lambda: not program.alive(), 30, "it gives all back", state=program.seen)
    names = [name for _, _, name in program.jobs()]
    assert len(set(names)) == len(names), names
    if before and step != STEPS["given back"]:  # by then the claim has ended it
        assert len(names) == 1


def test_the_head_is_killed_and_nobody_comes(make: Make) -> None:
    """Holders see that nobody renews their claim, and end."""
    main = """
async def main(env):
    return await hf.remote_eval(held, "it")
"""
    program = make(main, f"hf.NodePool(sbatch={SMALL}, idle_timeout=2)")
    with program.start() as command:
        program.wait_marks("began it")
        assert program.alive()
        command.kill()
    program.wait_gone(timeout=20)
