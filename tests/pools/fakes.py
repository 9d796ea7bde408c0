"""A pretended Slurm and a pretended user of nodes, for a pool's allocations in one process."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from hyperflow.errors import LauncherError, SlurmError
from hyperflow.pools.users import PoolNode
from hyperflow.request import NodeKind, Want
from hyperflow.slurm.client import Watch
from hyperflow.slurm.queue import BatchState


class FakeSlurm:
    """What `Allocations` needs of a SlurmClient."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.watches: dict[int, Watch] = {}
        self.tokens: dict[str, int] = {}
        self.cancelled: list[int] = []
        self.refuses = ""
        self.before: Callable[[str], object] = lambda token: None
        """Called with the token when a job is submitted."""

    async def submit(self, script: Path, token: str, text: str) -> int:
        assert f'--comment="hyperflow {token}"' in text
        assert script.name.startswith("allocation-")
        self.before(token)
        if self.refuses:
            raise SlurmError(self.refuses)
        job = 100 + len(self.watches)
        self.tokens[token] = job
        self.watches[job] = Watch(job, BatchState("pending", "PENDING", reason="Priority"))
        return job

    async def find(self, tokens: Collection[str]) -> dict[str, list[int]]:
        return {token: [self.tokens[token]] if token in self.tokens else [] for token in tokens}

    def watch(self, job: int) -> Watch:
        return self.watches[job]

    def wake(self) -> None:
        pass

    async def cancel(self, jobs: Iterable[int]) -> None:
        for job in jobs:
            self.cancelled.append(job)
            self.watches[job].set(BatchState("ended", "CANCELLED"))


class FakeUser:
    """A NodeUser with work that the test sets."""

    def __init__(self) -> None:
        self.wants: list[Want] = []
        self.nodes: dict[str, PoolNode] = {}
        self.busy: set[str] = set()
        self.aside: set[str] = set()
        self.drained: list[str] = []
        self.released: list[tuple[str, str]] = []
        self.fails = ""
        self.forgiven: list[str] = []
        self.coming: list[NodeKind] = []
        self.kinds: dict[str, NodeKind] = {}

    async def use(self, node: PoolNode) -> None:
        if self.fails:
            raise LauncherError(self.fails)
        self.nodes[node.name] = node

    def drain(self, node: str, cause: str) -> None:
        self.drained.append(node)

    async def release(self, node: str, cause: str) -> None:
        self.nodes.pop(node, None)
        self.released.append((node, cause))

    async def gone(self, node: str) -> str:
        raise NotImplementedError

    def is_busy(self, node: str) -> bool:
        return node in self.busy

    def is_up(self, node: str) -> bool:
        return node in self.nodes

    def takes_work(self, node: str) -> bool:
        return node in self.nodes and node not in self.aside

    def forgive(self, node: str) -> None:
        self.forgiven.append(node)

    def found(self, node: str) -> NodeKind | None:
        return self.kinds.get(node)

    def demand(self) -> Sequence[Want]:
        return self.wants

    def free_cpus(self) -> int:
        return 0

    def may_come(self, kinds: Sequence[NodeKind]) -> None:
        self.coming = list(kinds)
