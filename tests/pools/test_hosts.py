"""Hosts without Slurm: which are used, which are left out and tried again, and what is told; and real ones, by ssh."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Sequence

import pytest

from hyperflow.errors import LauncherError
from hyperflow.pools.hosts import UNKNOWN, UNKNOWN_GPUS, Hosts
from hyperflow.pools.users import PoolNode
from hyperflow.request import Capacity, NodeKind, Want
from tests.cluster.cluster import Cluster
from tests.cluster.runs import prepare
from tests.helpers import block_until, wait_until

SHORT = (0.001, 0.002)
NEVER = (1000.0, 1000.0)


class Reached:
    """Uses nodes that are only pretended: some cannot be reached, some hang."""

    def __init__(self, **bad: str) -> None:
        self.bad = bad
        self.used: list[PoolNode] = []
        self.tries = Counter[str]()
        self.kinds: dict[str, NodeKind] = {}
        self._gone: dict[str, asyncio.Future[str]] = {}

    async def use(self, node: PoolNode) -> None:
        """Fail as was said; a cause "hangs" never answers."""
        self.tries[node.name] += 1
        cause = self.bad.get(node.name)
        if cause == "hangs":
            await asyncio.Event().wait()
        if cause is not None:
            raise LauncherError(cause)
        self.used.append(node)
        self._gone[node.name] = asyncio.get_running_loop().create_future()

    def lose(self, node: str, cause: str) -> None:
        """It is lost."""
        self._gone[node].set_result(cause)

    async def gone(self, node: str) -> str:
        """Wait until it is lost."""
        return await self._gone[node]

    def drain(self, node: str, cause: str) -> None:
        """Do nothing."""

    async def release(self, node: str, cause: str) -> None:
        """Give it up."""
        self.lose(node, cause)

    def is_busy(self, node: str) -> bool:
        """Nothing runs."""
        return not node

    def forgive(self, node: str) -> None:
        """Do nothing."""

    def found(self, node: str) -> NodeKind | None:
        """Return what the test says."""
        return self.kinds.get(node)

    def demand(self) -> Sequence[Want]:
        """Nothing waits."""
        return []

    def free_cpus(self) -> int:
        """Nothing is free."""
        return 0

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        """Do nothing."""


def states(hosts: Hosts) -> dict[str, str]:
    """Return the state of each host."""
    return {row["name"]: row["state"] for row in hosts.table()}


async def test_good_and_bad_hosts() -> None:
    """Each is tried by itself: one that hangs keeps nobody waiting, one that fails is left out with its reason."""
    user = Reached(bad="it does not accept our keys", slow="hangs")
    async with Hosts([("good", 2), ("bad", None), ("slow", 4)], user, pauses=NEVER) as hosts:
        await wait_until(
            lambda: states(hosts) == {"good": "up", "bad": "failed", "slow": "starting"}, 5, "they are tried"
        )
        assert user.used == [PoolNode("good", 2)]
        row = hosts.table()[1]
        assert row["cause"] == "it does not accept our keys"
        assert row["next_try"] == row["since"] + NEVER[0]
        assert hosts.kinds() == [
            NodeKind("good", 2, UNKNOWN_GPUS),
            NodeKind("bad", UNKNOWN, UNKNOWN_GPUS),
            NodeKind("slow", 4, UNKNOWN_GPUS),
        ]


async def test_tried_again_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A host that fails for the same reason, whatever the numbers in it, is told once; when it comes, that is told."""
    user = Reached(bad="process 17 ended")
    async with Hosts([("bad", 2)], user, pauses=SHORT) as hosts:
        await wait_until(lambda: user.tries["bad"] > 3, 5, "it is tried again")
        user.bad["bad"] = "process 18 ended"
        tries = user.tries["bad"]
        await wait_until(lambda: user.tries["bad"] > tries + 2, 5, "it is tried again")
        del user.bad["bad"]
        await wait_until(lambda: states(hosts) == {"bad": "up"}, 5, "it comes")
    told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text.partition(",")[0] for text in told] == ["going on without host bad", "host bad is used again"]


async def test_lost_and_given_back() -> None:
    """A host that was lost is used again; one that a person gave back is not, until that person takes it back."""
    user = Reached()
    async with Hosts([("box", 2)], user, pauses=SHORT) as hosts:
        await wait_until(lambda: states(hosts) == {"box": "up"}, 5, "it comes")
        assert not hosts.take_back("box")
        user.lose("box", "its stream ended")
        await wait_until(lambda: len(user.used) == 2, 5, "it is used again")
        hosts.give_back("box")
        await user.release("box", "by hand")
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert states(hosts) == {"box": "released"}
        assert len(user.used) == 2
        assert hosts.take_back("box")
        await wait_until(lambda: len(user.used) == 3, 5, "it is used again")


async def test_what_a_host_has() -> None:
    """Nobody knows what a host has before it was up; then that counts, also while it is lost: what needs it waits."""
    user = Reached()
    user.kinds["box"] = NodeKind("box", 32, Capacity(("0", "1"), 5, 100.0))
    told: list[NodeKind] = []
    async with Hosts([("box", None)], user, lambda: told.extend(hosts.kinds()), pauses=NEVER) as hosts:
        assert hosts.kinds() == [NodeKind("box", UNKNOWN, UNKNOWN_GPUS)]
        await wait_until(lambda: states(hosts) == {"box": "up"}, 5, "it comes")
        user.lose("box", "its stream ended")
        await wait_until(lambda: states(hosts) == {"box": "lost"}, 5, "it is lost")
        assert told == [NodeKind("box", 32, Capacity(("0", "1"), 5))] * 2


async def test_a_mistake_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever goes wrong at a host, it is told, and the host is tried again."""
    user = Reached()
    plain, faults = user.use, iter(range(1))

    async def use(node: PoolNode) -> None:
        if next(faults, None) is not None:
            raise ZeroDivisionError("a mistake")
        await plain(node)

    user.use = use  # type: ignore[method-assign]
    async with Hosts([("box", 2)], user, pauses=SHORT) as hosts:
        await wait_until(lambda: states(hosts) == {"box": "up"}, 5, "it comes")
    assert "a mistake of hyperflow's, at host box" in caplog.text


async def test_pauses_grow() -> None:
    """The pause is doubled each time, up to the longest."""
    user = Reached(bad="no")
    pauses: list[float] = []
    async with Hosts([("bad", 2)], user, pauses=(0.001, 0.004)) as hosts:
        while len(pauses) < 4:
            await asyncio.sleep(0)
            (row,) = hosts.table()
            if row["next_try"] is not None and len(pauses) < user.tries["bad"]:
                pauses.append(round(row["next_try"] - row["since"], 4))
    assert pauses == [0.001, 0.002, 0.004, 0.004]


BOXES = """
async def main():
    env = await hf.ask()
    tell('pool')
    while not (place / 'stop').exists():
        found = await hf.map_concurrently(lambda x: hf.remote_eval(quick, x), range(50))
        tell('ran', sorted({node for _, node in found}))
        await asyncio.sleep(0.05)
    return env.statistics().cpus
"""


def test_hosts_by_ssh(cluster: Cluster) -> None:
    """Work waits for hosts and runs on those that can be used, once each; why the others are not used is told."""
    config = cluster.home / ".ssh" / "config"
    was = config.read_text() if config.exists() else ""
    config.write_text(f"Host box2\n    HostName node2\n    HostKeyAlias node2\n{was}")
    cluster.faults.change_host_key("node3")
    hosts = {"node1": 2, "node2": None, "box2": 1, "node3": 4, "nowhere": 1}
    run, command, env = prepare(cluster, BOXES, hosts=hosts)
    before = {node: cluster.connections(node) for node in ("node1", "node2")}
    process = cluster.login.start(["sh", "-c", f"exec {command} > {run.place}/output 2>&1"], env=env)
    with process:
        run.wait_logged("going on without host nowhere", 20)
        run.wait_logged("going on without host node3", 20)
        run.wait_logged("two names of one machine", 20)
        block_until(lambda: any(len(told.value) == 2 for told in run.all("ran")), 20, "both are used", state=run.seen)
        assert cluster.connections("node1") == before["node1"] + 1
        (run.place / "stop").touch()
        assert run.result() in (3, 2 + len(os.sched_getaffinity(0)))  # box2 may have been the first
    assert len(run.logged("going on without host")) == 3
    assert "nobody knows this name" in run.logged("host nowhere")[0].value[2]
    assert "host key" in run.logged("host node3")[0].value[2]
    assert {node: cluster.connections(node) - count for node, count in before.items()} == {"node1": 1, "node2": 2}
