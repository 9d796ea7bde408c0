"""The nodes of a pool in the engine of a program: whose name is whose."""

from typing import Any, NamedTuple, cast

from hyperflow.config import Settings
from hyperflow.pools.in_engine import InEngine
from hyperflow.pools.users import PoolNode

ANY = cast(Any, object())


class Link(NamedTuple):
    """A node of the engine."""

    node: str
    number: int


class Engine:
    """What is asked of an engine: it gives its nodes names of its own."""

    def __init__(self) -> None:
        self.fleet = self
        self.links: dict[str, Link] = {}
        self.released: list[str] = []
        self._count = 0

    async def add_node(self, plan: object, ends: float | None) -> str:
        """Use a node of this machine."""
        del plan, ends
        self._count += 1
        name = "box" if "box" not in self.links else "box.2"
        self.links[name] = Link(name, self._count)
        return name

    async def release_node(self, node: str, cause: str) -> None:
        """Give it up."""
        self.released.append(node)
        del self.links[node]

    def is_busy(self, node: str) -> bool:
        """Everything is busy."""
        return node in self.links


async def test_a_name_of_the_engine_comes_again() -> None:
    """A node that has gone is not taken for the one that has its name in the engine now: that stays."""
    engine = Engine()
    user = InEngine(cast(Any, engine), Settings())
    await user.use(PoolNode("box", slurm_job=1, transport=ANY))
    await user.use(PoolNode("box.102", slurm_job=2, transport=ANY))
    assert user.is_up("box")
    assert user.is_busy("box.102")
    del engine.links["box"]  # it is lost
    await user.use(PoolNode("box.103", slurm_job=3, transport=ANY))
    assert (user.is_up("box"), user.is_busy("box")) == (False, False)
    await user.release("box", "its allocation has ended")
    assert await user.gone("box") == "it is not in use"
    assert not engine.released
    await user.release("box.103", "idle timeout")
    await user.release("box.102", "idle timeout")
    assert engine.released == ["box", "box.2"]
