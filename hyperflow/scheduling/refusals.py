"""What can never be had, and the words for it: which resource, what was asked for, and the most that there is."""

from __future__ import annotations

from hyperflow.errors import ImpossibleRequest
from hyperflow.request import Request
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
    return expected + len(ledger.able(request, now)) >= request.nodes


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
