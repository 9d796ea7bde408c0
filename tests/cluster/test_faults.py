"""Nodes die and the job goes on; the job dies and nothing goes on."""

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.cluster.host import CommandError, Process
from tests.cluster.runs import Run, submit
from tests.helpers import block_until

HEARTBEAT, NODE_TIMEOUT, SILENCE_LIMIT = 0.3, 2.0, 5.0
QUICK = {"heartbeat": HEARTBEAT, "node_timeout": NODE_TIMEOUT, "silence_limit": SILENCE_LIMIT, "transport": "ssh"}

NOTICED = 3 * HEARTBEAT + 1.0
"""Seconds from the moment when a fault could be noticed until it is, on a machine that is busy with this very test."""

LAST_WORDS = 3.5
"""Seconds for a launcher that has heard of the end to have ended all: two for workers that do not mind SIGTERM."""

THOUSAND = """
async def impossible():
    try:
        await hf.remote_eval(held, 999).using(cpus=4)
    except hf.HyperflowError as error:
        return type(error).__name__

async def main():
    async with asyncio.TaskGroup() as group:
        big = group.create_task(impossible())
        await asyncio.sleep(0)
        result = await thousand(held)
    tell("thousand", result)
    while not (place / "finish").exists():
        await asyncio.sleep(0.02)
    return [result, big.result()]
"""

OTHERS = ("node2", "node3", "node4", "node5")


@pytest.fixture(scope="module")
def wide_cluster(needs_cluster: None, own_surroundings: None) -> Iterator[Cluster]:
    """Hold five nodes, so that four can die; the second is the largest."""
    with held_cluster(cpus=(2, 4, 2, 2, 2)) as held:
        yield held


@pytest.fixture
def wide(wide_cluster: Cluster) -> Iterator[Cluster]:
    """Give the test five nodes, and repair them."""
    yield wide_cluster
    assert wide_cluster.repair() == []


def _launchers(cluster: Cluster, node: str) -> list[int]:
    """The numbers here of a node's keeper and launcher, in this order."""
    found = [p for p in cluster.hosts[node].processes() if "hyperflow.launcher" in p.command and p.name != "bash"]
    numbers = {p.pid for p in found}
    keeper = next(p for p in found if p.parent not in numbers)
    launcher = next(p for p in found if p.parent == keeper.pid)
    return [keeper.pid, launcher.pid]


def _start(cluster: Cluster) -> Run:
    run = submit(cluster, THOUSAND, nodes=5, cpus=0, **QUICK)
    run.wait_held(*cluster.nodes)
    return run


def _noticed(run: Run, hurt: dict[str, float]) -> dict[str, float]:
    """Return the seconds until the loss of each node was noticed."""
    return {node: run.wait_logged(f"node {node} was lost").when - moment for node, moment in hurt.items()}


def _check_result(run: Run) -> None:
    """All results are right, and come from what is left; nothing failed but what had become impossible."""
    run.go()
    result = run.wait("thousand").value
    assert result["right"]
    assert sum(count for node, count in result["nodes"].items() if node != "node1") <= 300
    (run.place / "finish").touch()
    assert run.result()[1] == "ImpossibleRequest"
    statistics = run.statistics()
    assert (statistics["nodes"], statistics["nodes_lost"], statistics["cpus"]) == (1, 4, 2)
    assert (statistics["done"], statistics["failed"]) == (1000, 1)
    assert statistics["returned"] >= 6


def test_sudden_deaths(wide: Cluster) -> None:
    """A launcher, launcher and keeper, or sshd's process is killed: noticed at once, and nothing is left over there."""
    run = _start(wide)
    hurt: dict[str, float] = {}

    def hit(node: str, fault: Callable[[], object]) -> None:
        fault()
        hurt[node] = time.time()

    for node, count in (("node2", 1), ("node3", 2)):
        first, *others = _launchers(wide, node)[-count:]
        hit(node, functools.partial(_kill, first))
        for pid in others:
            with contextlib.suppress(ProcessLookupError):  # it may have noticed, and ended
                hit(node, functools.partial(_kill, pid))
    hit("node4", lambda: wide.faults.kill_ssh_sessions("node4"))
    hit("node5", lambda: _kill(_launchers(wide, "node5")[0]))
    noticed = _noticed(run, hurt)
    print("noticed after", noticed)

    assert max(noticed.values()) < 1.0
    block_until(lambda: set(wide.strangers()) == {"node1"}, LAST_WORDS, "all has ended there", state=wide.strangers)
    _check_result(run)


def _kill(pid: int) -> None:
    """Kill a process by its number here."""
    os.kill(pid, signal.SIGKILL)


def test_silent_deaths(wide: Cluster) -> None:
    """
    A cable is pulled, packets are lost in one direction, a node is frozen: noticed within node_timeout and a little.

    Over there all ends by itself: when it has heard nothing for silence_limit, or at once when it hears of the end.
    """
    run = _start(wide)
    hurt: dict[str, float] = {}
    for node, fault in {
        "node2": lambda: wide.faults.cut("node2"),
        "node3": lambda: wide.faults.lose("node1", "node3"),
        "node4": lambda: wide.faults.lose("node4", "node1"),
        "node5": lambda: wide.faults.freeze("node5"),
    }.items():
        fault()
        hurt[node] = time.time()
    noticed = _noticed(run, hurt)
    print("noticed after", noticed)

    # What is not acknowledged is still sent for a moment, so that a node that hears nothing is heard a little longer.
    assert all(seconds < NODE_TIMEOUT + NOTICED for seconds in noticed.values()), noticed
    assert all(seconds > NODE_TIMEOUT - 2 * HEARTBEAT for seconds in noticed.values()), noticed

    # The head has let go of node4, and it hears that. The others have to find out.
    block_until(lambda: "node4" not in wide.strangers(), LAST_WORDS, "node4 hears of it", state=wide.strangers)
    limit = SILENCE_LIMIT + LAST_WORDS
    block_until(lambda: not {"node2", "node3"} & set(wide.strangers()), limit, "they end", state=wide.strangers)
    print("the others have ended after", time.time() - hurt["node2"])
    assert "node5" in wide.strangers()

    # They come back, and nobody wants them any more.
    before = {node: wide.connections(node) for node in OTHERS}
    wide.network.heal()
    wide.faults.thaw("node5")
    block_until(lambda: set(wide.strangers()) == {"node1"}, LAST_WORDS, "node5 ends", state=wide.strangers)
    _check_result(run)
    assert {node: wide.connections(node) for node in OTHERS} == before


def test_a_link_is_cut_and_a_launcher_killed_half_way(cluster: Cluster) -> None:
    """Two of three nodes die in the middle of a run, and a thousand of a thousand results are there."""
    run = submit(cluster, "async def main():\n    return await thousand(held)\n", **{**QUICK, "silence_limit": 3.0})
    run.wait_held(*cluster.nodes)
    cluster.faults.cut("node2")
    _kill(_launchers(cluster, "node3")[1])
    run.go()

    result = run.result()

    assert result["right"]
    statistics = run.statistics()
    assert (statistics["nodes"], statistics["done"], statistics["failed"]) == (1, 1000, 0)
    assert statistics["returned"] >= 8
    block_until(lambda: not cluster.strangers(), 10, "nothing is left", state=cluster.strangers)


def test_a_node_is_lost_by_srun(cluster: Cluster) -> None:
    """With srun, too, a launcher's end and a cut link are noticed."""
    run = submit(cluster, "async def main():\n    return await thousand(held)\n", **{**QUICK, "transport": "srun"})
    run.wait_held(*cluster.nodes)
    cluster.faults.cut("node2")
    hurt = {"node2": time.time()}
    _kill(_launchers(cluster, "node3")[1])
    hurt["node3"] = time.time()

    noticed = _noticed(run, hurt)
    print("noticed after", noticed)
    assert noticed["node2"] < NODE_TIMEOUT + NOTICED
    assert noticed["node3"] < 1.5
    cluster.network.heal()  # srun would wait for it, and be killed in the end
    run.go()
    assert run.result()["right"]
    block_until(lambda: not cluster.strangers(), 10, "nothing is left", state=cluster.strangers)


EXCLUSIVE = """
import hyperflow.head.losses
hyperflow.head.losses.END_GRACE = 1.0

def stamp(x):
    path = place / f"stamp.{x}.{hf.worker_info().node}"
    path.touch()
    tell("started", [x, hf.worker_info().node])
    while not (place / "go").exists():
        time.sleep(0.01)
        path.touch()
    return x

async def main():
    return await hf.map_concurrently(lambda x: hf.remote_eval(stamp, x).using(exclusive=True), range(8))
"""


@pytest.mark.parametrize("fault", ["cut", "kill_ssh_sessions"])
def test_exclusive_evaluations_wait(cluster: Cluster, fault: str) -> None:
    """What must not run twice at the same time is run again only when it must have ended over there.

    A stream that ends without a word of the launcher's end is no proof: something in between may have cut it.
    """
    run = submit(cluster, EXCLUSIVE, nodes=2, **{**QUICK, "node_timeout": 1.0, "silence_limit": 1.5})
    block_until(lambda: len(run.all("started")) == 8, 20, "all run", state=run.seen)
    getattr(cluster.faults, fault)("node2")
    lost = run.wait_logged("node node2 was lost").when
    block_until(lambda: "node2" not in cluster.strangers(), 2.0 + LAST_WORDS, "it ends", state=cluster.strangers)

    # node1 is full: the four of node2 have to wait for a CPU, and longer
    run.go()
    assert run.result() == list(range(8))

    again = run.all("started")[8:]
    assert len(again) == 4
    for told in again:
        x, node = told.value
        assert node == "node1"
        assert told.when - lost > 2.5 - 0.1
        assert (run.place / f"stamp.{x}.node2").stat().st_mtime < told.when
    assert run.statistics()["failed"] == 0


def _importing(cluster: Cluster) -> Run:
    """Start a run that is importing a module on node2 until there is a file `imported`."""
    (cluster.home / "slow.py").write_text(
        "import os, pathlib, socket, time\n"
        "if socket.gethostname() == 'node2':\n"
        "    pathlib.Path(__file__).with_name('importing').touch()\n"
        "    while not pathlib.Path(__file__).with_name('imported').exists():\n        time.sleep(0.05)\n"
    )
    main = f"sys.path.append({str(cluster.home)!r})\n\nasync def main():\n    return await thousand(quick)\n"
    run = submit(cluster, main, preload=["slow"], **QUICK)
    block_until((cluster.home / "importing").exists, 20, "it imports", state=run.seen)
    return run


def test_ctrl_c_during_an_import(cluster: Cluster) -> None:
    """A run that is interrupted while it starts leaves nothing either."""
    run = _importing(cluster)

    _head(cluster).kill(signal.SIGINT)

    assert run.error(10).startswith("KeyboardInterrupt")
    block_until(lambda: not cluster.strangers(), 10, "nothing is left", state=cluster.strangers)


def _head(cluster: Cluster) -> Process:
    (head,) = [p for p in cluster.hosts["node1"].processes() if p.command.endswith("script.py")]
    return head


def test_a_link_is_cut_during_an_import(cluster: Cluster) -> None:
    """A node that is lost while its launcher imports, and can give no sign of life, does not hold up the others."""
    run = _importing(cluster)
    cluster.faults.cut("node2")
    cut = time.time()

    assert set(run.result()["nodes"]) == {"node1", "node3"}
    (warning,) = [told for told in run.all("warning") if "going on without a node" in told.value]
    assert "node2" in warning.value
    assert warning.when - cut < 2 * NODE_TIMEOUT + NOTICED
    print("noticed after", warning.when - cut)
    cluster.network.heal()  # or it would find out after silence_limit
    (cluster.home / "imported").touch()
    block_until(lambda: not cluster.strangers(), SILENCE_LIMIT + LAST_WORDS, "it ends", state=cluster.strangers)


BLOCKING = """
import hyperflow.head.losses
hyperflow.head.fleet.BLOCKED = 1.5

async def main():
    async with asyncio.TaskGroup() as group:
        all_of_it = group.create_task(thousand(held))
        while not (place / "held.node2").exists():
            await asyncio.sleep(0.01)
        time.sleep(2.0)  # longer than all but silence_limit
        for _ in range(12):  # and again and again, in total longer than that
            await asyncio.sleep(0)
            time.sleep(0.25)
        (place / "go").touch()
    return all_of_it.result()
"""


def test_a_blocked_head(cluster: Cluster) -> None:
    """User code that blocks the head's event loop costs no evaluation, and a warning says so when it is long."""
    run = submit(cluster, BLOCKING, nodes=2, heartbeat=0.1, node_timeout=1.2, silence_limit=2.5, transport="ssh")

    assert run.result()["right"]
    statistics = run.statistics()
    assert (statistics["nodes"], statistics["returned"], statistics["failed"]) == (2, 0, 0)
    assert len(run.logged("the event loop was blocked for 2 s")) == 1


LARGE = """
def echo(data):
    return data

async def main():
    data = os.urandom(4 << 20)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(data)) for _ in range(6)]
    return all(task.result() for task in tasks)

async def one(data):
    return await hf.remote_eval(echo, data) == data
"""


@pytest.mark.parametrize("slow", ["node1", "node2"])
def test_a_slow_link(cluster: Cluster, slow: str) -> None:
    """Data that take longer than node_timeout to come, or to go, are no silence."""
    shaping = ["root", "tbf", "rate", "40mbit", "burst", "64k", "latency", "50ms"]
    try:
        cluster.nodes[slow].run(["tc", "qdisc", "add", "dev", "eth0", *shaping])
    except (CommandError, FileNotFoundError) as error:
        pytest.skip(f"no slow links here: {error}")
    try:
        started = time.monotonic()
        run = submit(cluster, LARGE, nodes=2, heartbeat=0.1, node_timeout=1.2, silence_limit=2.0, transport="ssh")
        assert run.result() is True
        assert time.monotonic() - started > 2.0
        assert run.statistics()["nodes_lost"] == 0
    finally:
        cluster.nodes[slow].run(["tc", "qdisc", "del", "dev", "eth0", "root"])


BROOD = """
import subprocess

def brood(x):
    subprocess.Popen(["setsid", "sleep", "3600"])
    subprocess.Popen(["sleep", "3600"])
    (place / f"held.{hf.worker_info().node}").touch()
    time.sleep(3600)

async def main():
    async def all_of_it():
        await hf.map_concurrently(lambda x: hf.remote_eval(brood, x), range(24))

    task = asyncio.create_task(all_of_it())
    while not (place / "go").exists() and not task.done():
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled() or task.result()
"""


@pytest.mark.parametrize("transport", ["ssh", "srun"])
@pytest.mark.parametrize("end", ["cancelled", "scancel", "Ctrl-C", "TERM", "KILL"])
def test_nothing_is_left(cluster: Cluster, end: str, transport: str) -> None:
    """However a run ends, nothing is left on any node after 10 s, daemons of evaluations included."""
    run = submit(cluster, BROOD, transport=transport)
    run.wait_held(*cluster.nodes)
    assert set(cluster.strangers()) == set(cluster.nodes)

    started = time.monotonic()
    match end:
        case "cancelled":
            run.go()
            assert run.result() is True
        case "scancel":
            cluster.slurm.scancel(run.job)
        case _:
            number = {"Ctrl-C": signal.SIGINT, "TERM": signal.SIGTERM, "KILL": signal.SIGKILL}[end]
            _head(cluster).kill(number)

    block_until(lambda: not cluster.strangers(), 10, "nothing is left", state=cluster.strangers)
    print(end, transport, "nothing left after", time.monotonic() - started)
    if end == "Ctrl-C":
        assert run.error().startswith("KeyboardInterrupt")


def _ours(cluster: Cluster, *hosts: str) -> list[Process]:
    """Keepers, launchers and workers on these hosts, and srun in front of them."""
    found = [each for host in hosts for each in cluster.hosts[host].processes()]
    return [each for each in found if "hyperflow.launcher" in each.command and each.name not in ("bash", "sh")]


def _kill_at_once(processes: Sequence[Process]) -> None:
    """Kill them so that none can do anything about the end of another."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for each in processes:
            with contextlib.suppress(ProcessLookupError):
                each.kill(number)


@pytest.mark.parametrize("transport", ["ssh", "srun"])
def test_all_of_a_node_is_killed_at_once(cluster: Cluster, transport: str) -> None:
    """What evaluations have started on a node does not outlive keeper, launcher and workers; the run goes on."""
    run = submit(cluster, BROOD, transport=transport)
    run.wait_held(*cluster.nodes)
    killed = _ours(cluster, "node2")
    assert len(killed) >= 3

    _kill_at_once(killed)
    block_until(lambda: "node2" not in cluster.strangers(), 10, "nothing is left there", state=cluster.strangers)

    run.wait_logged("node node2 was lost")
    assert {"node1", "node3"} <= set(cluster.strangers())
    run.go()
    assert run.result() is True


@pytest.mark.parametrize("transport", ["ssh", "srun"])
def test_all_of_a_run_is_killed_at_once(cluster: Cluster, transport: str) -> None:
    """The same on all nodes, head and srun included: the watchers end the rest, daemons of evaluations included."""
    run = submit(cluster, BROOD, transport=transport)
    run.wait_held(*cluster.nodes)
    ours = [*_ours(cluster, *cluster.nodes), _head(cluster)]
    assert len(ours) >= 10

    _kill_at_once(ours)
    block_until(lambda: not cluster.strangers(), 10, "nothing is left", state=cluster.strangers)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("transport", ["ssh", "srun"])
def test_allocation_that_shrinks(cluster: Cluster, transport: str) -> None:
    """When the allocation gives nodes back, no work goes on there; what was there is done on the others."""
    run = submit(cluster, "async def main():\n    return await thousand(held)\n", cpus=1, transport=transport)
    run.wait_held("node1", "node2", "node3")
    assert run.job is not None

    cluster.slurm.scontrol("update", f"JobId={run.job}", "NumNodes=2")

    run.wait_logged("node node3 was lost", 60)
    block_until(lambda: "node3" not in cluster.strangers(), 15, "nothing of it is on node3")
    run.go()
    assert run.result(60)["right"]
