"""What can never be had, and the words for it: which resource, what was asked for, and the most that there is."""

from __future__ import annotations

from collections.abc import Sequence

from hyperflow.errors import ImpossibleRequest
from hyperflow.request import NodeKind, Request
from hyperflow.saying import as_written
from hyperflow.scheduling.ledger import Ledger
from hyperflow.scheduling.state import Key


def as_request(key: Key) -> Request:
    """Return what a number of CPUs stands for."""
    return key if type(key) is Request else Request(key)


def is_possible(ledger: Ledger, request: Request, now: float) -> bool:
    """Whether what is asked for can be had, now or later; of a node that is expected, only the CPUs are known."""
    if not all(name in ledger.tokens and ledger.tokens[name].total >= count for name, count in request.resources):
        return False
    expected = sum(cpus >= request.cpus for cpus in ledger.expected.values())
    coming = sum(kind.most for kind in ledger.kinds if may_serve(kind, request)) if ledger.kinds else 0
    # Of those that may come, some may be up already.
    return expected + max(len(ledger.able(request, now)), coming) >= request.nodes


def may_serve(kind: NodeKind, request: Request) -> bool:
    """Whether a node that may come has all that is asked for, as far as that is known."""
    there = kind.capacity
    return (
        kind.cpus >= request.cpus
        and len(there.gpus) >= request.gpus
        and (request.memory is None or not there.memory or request.memory <= there.memory)
        and there.ends >= request.min_time
    )


def refusal(ledger: Ledger, request: Request, now: float) -> ImpossibleRequest | None:
    """Return the error for a request that can never be had, or None."""
    if is_possible(ledger, request, now):
        return None
    return ImpossibleRequest(_why(ledger, request, now))


def _why(ledger: Ledger, request: Request, now: float) -> str:
    for name, count in request.resources:
        asked = f"using(resources={{{name!r}: {count}}}): "
        if name not in ledger.tokens:
            there = ", ".join(sorted(ledger.tokens)) or "none"
            return (
                f"{asked}nobody has declared {name!r}; there are: {there}. "
                "Say how many, as resources={...}, where the environment is opened"
            )
        if count > ledger.tokens[name].total:
            return f"{asked}there are {ledger.tokens[name].total} in all"
    nodes = ledger.nodes.values()
    if ledger.kinds:
        return _why_none_comes(ledger.kinds, request)
    if not nodes and not ledger.expected:
        return f"using({', '.join(_asked(request))}): no node is up, and none may come"
    if request.cpus > ledger.largest:
        several = "; `cpus` counts on each node, and using(nodes=2) asks for two" if len(nodes) > 1 else ""
        return f"using(cpus={request.cpus}): the largest node has {ledger.largest} CPUs{several}"
    gpus = max((len(node.gpus) for node in nodes), default=0)
    if request.gpus > gpus:
        return (
            f"using(gpus={request.gpus:g}): the largest node has {gpus} GPUs"
            if gpus
            else (
                f"using(gpus={request.gpus:g}): no node has a GPU that was found; "
                'where that is wrong, say which there are, as gpus=["0", "1"], where the environment is opened'
            )
        )
    memory = max((node.capacity.memory for node in nodes), default=0)
    if request.memory is not None and request.memory > memory:
        return f'using(memory="{as_written(request.memory)}"): the largest node has {as_written(memory)}'
    left = max((node.capacity.ends for node in nodes), default=now) - now
    if request.min_time > left:
        return f"using(min_time={request.min_time:g}): the node that lasts longest has {max(left, 0.0):.0f} s left"
    able = len(ledger.able(request, now))
    if request.nodes > len(nodes) + len(ledger.expected):
        count = len(nodes) + len(ledger.expected)
        return f"using(nodes={request.nodes}): there {'is 1 node' if count == 1 else f'are {count} nodes'}"
    asked = ", ".join(_asked(request))
    have = "; ".join(
        f"{node.name} has {len(node.ids)} CPUs, {len(node.gpus)} GPUs, {as_written(node.capacity.memory)} of memory"
        for node in sorted(nodes, key=lambda node: -len(node.ids))[:3]
    )
    return f"using({asked}): {able or 'none'} of {len(nodes)} nodes {'have' if able > 1 else 'has'} all of that: {have}"


def _why_none_comes(kinds: Sequence[NodeKind], request: Request) -> str:
    """The same where nodes come and go: what is up is no larger than what may come."""
    largest = max(kinds, key=lambda kind: kind.cpus)
    if request.cpus > largest.cpus:
        return f"using(cpus={request.cpus}): the largest node that may come has {largest.cpus} CPUs ({largest.name})"
    most = max(kinds, key=lambda kind: len(kind.capacity.gpus))
    if request.gpus > (count := len(most.capacity.gpus)):
        which = (
            f"the node with the most GPUs that may come has {count} ({most.name})"
            if count
            else "none may come that has a GPU"
        )
        return f"using(gpus={request.gpus:g}): {which}"
    most = max(kinds, key=lambda kind: kind.capacity.memory)
    if request.memory is not None and all(0 < kind.capacity.memory < request.memory for kind in kinds):
        there = as_written(most.capacity.memory)
        return f'using(memory="{as_written(request.memory)}"): the largest node that may come has {there} ({most.name})'
    longest = max(kinds, key=lambda kind: kind.capacity.ends)
    if request.min_time > longest.capacity.ends:
        there = f"{longest.capacity.ends:.0f} s ({longest.name})"
        return f"using(min_time={request.min_time:g}): the node that may come and lasts longest has {there}"
    able = [kind for kind in kinds if may_serve(kind, request)]
    asked = ", ".join(_asked(request))
    if able:
        count = sum(kind.most for kind in able)
        return f"using({asked}): {count} {'node' if count == 1 else 'nodes'} like that may come at a time"
    have = "; ".join(
        f"{kind.name} has {kind.cpus} CPUs, {len(kind.capacity.gpus)} GPUs, {as_written(kind.capacity.memory)} memory"
        for kind in sorted(kinds, key=lambda kind: -kind.cpus)[:3]
    )
    return f"using({asked}): no node that may come has all of that: {have}"


def _asked(request: Request) -> list[str]:
    words = [f"cpus={request.cpus}"]
    if request.gpus:
        words.append(f"gpus={request.gpus:g}")
    if request.memory is not None:
        words.append(f'memory="{as_written(request.memory)}"')
    if request.min_time:
        words.append(f"min_time={request.min_time:g}")
    if request.nodes > 1:
        words.append(f"nodes={request.nodes}")
    return words
