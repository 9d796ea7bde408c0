"""What an evaluation asks for, and what a node has to give: the nouns that options, scheduler and launchers share.

Most evaluations ask for CPUs only. For those there is no Request: a plain number of CPUs says it, which is quicker to
make, to compare and to look up.
"""

from __future__ import annotations

import math
from typing import NamedTuple, final


@final
class Request(NamedTuple):
    """What one evaluation asks for; evaluations that ask for the same wait in one queue."""

    cpus: int = 1
    """On each of its nodes."""
    gpus: float = 0.0
    """The same: a whole number, or a fraction of one."""
    memory: int | None = None
    """Bytes on each node; None: a share of the node that is proportional to the CPUs, and not enforced."""
    resources: tuple[tuple[str, int], ...] = ()
    """Tokens of the program, by name, sorted."""
    min_time: float = 0.0
    """Seconds that a node must have left."""
    nodes: int = 1
    """All or none of them; the evaluation runs on the first."""
    priority: int = 0
    speculative: bool = False
    """It takes only what is idle, and gives it back when anybody else wants it."""
    avoided: frozenset[str] = frozenset()
    """Nodes on which it has failed; if no other is large enough, they will do."""
    suspect: bool = False
    """A node was lost while it was there: on no node where another suspect is."""

    def wanted(self) -> Request | None:
        """Return the same for a task that is not speculative; None if that asks for CPUs only."""
        wanted = self._replace(speculative=False)
        return None if wanted == Request(self.cpus) else wanted


PLAIN = Request()
"""One CPU and nothing else."""


class Capacity(NamedTuple):
    """What a node has beside its CPUs."""

    gpus: tuple[str, ...] = ()
    """Their ids, as CUDA_VISIBLE_DEVICES has them."""
    memory: int = 0
    """Bytes; 0 where nobody knows, and nothing is counted."""
    ends: float = math.inf
    """When nothing can run there any more, on the scheduler's clock."""
    domains: tuple[tuple[frozenset[int], frozenset[str]], ...] = ()
    """Sockets or NUMA nodes: which CPUs and which GPUs are close to each other; none where that is not known."""


CPUS_ONLY = Capacity()
"""Of a node of which nothing else is known."""


class NodeKind(NamedTuple):
    """Nodes that may come: what one of them has, as far as that is known beforehand."""

    name: str
    """For people: the partition, say."""
    cpus: int
    capacity: Capacity = CPUS_ONLY
    """Of its GPUs only the number counts; `ends` is how long such a node lasts, in seconds from its start."""
    most: int = 1
    """How many of them there may be at a time."""


class Want(NamedTuple):
    """Evaluations that wait and ask for the same."""

    request: Request
    number: int
    """How many of them."""
    seconds: float | None = None
    """How long one of them takes, as far as that is known: the mean of its function, or for how long the first ones of
    it have run by now; None where nothing is known."""
