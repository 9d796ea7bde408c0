"""What an evaluation leaves that has ended its worker, by a crash or at its time limit: a capsule, as others do.

Nobody is there then to write it but the head, which has the call as it was sent. Its event loop waits for the disk, so
it writes small ones only. The states of the random generators are not known.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from hyperflow.debugging import capsule, surroundings
from hyperflow.debugging.capsule import Call, Pickle
from hyperflow.debugging.surroundings import Place
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.orders import Orders
from hyperflow.saying import in_words
from hyperflow.scheduling.state import Worker
from hyperflow.shipping.arrays import SharedBuffer
from hyperflow.shipping.definitions import Definition
from hyperflow.wire.numbers import DefinitionNumber

logger = logging.getLogger("hyperflow")

LARGEST = 8_000_000
"""Bytes of one."""


def leave(evaluation: Evaluation, worker: Worker, orders: Orders, program: str, error: Exception) -> None:
    """Write the capsule of an evaluation that has ended its worker; whatever is in the way costs the capsule only."""
    try:
        call = _call(evaluation)
        if call.size > LARGEST:
            return
        place = Place(worker.name, worker.node, worker.cpus, orders.log_file(worker), program)
        text = " ".join(in_words(error).split())
        name = evaluation.packed.function.name
        about = surroundings.about(evaluation.task.number, name, text, "", place, as_left=False)
        capsule.leave(orders.logs.here, capsule.of(about, call._replace(sources=surroundings.sources())))
    except BaseException as reason:  # noqa: BLE001 (modules of the user's are looked at, too)
        logger.info("nothing is kept of %s to run it again: %s", evaluation.name, in_words(reason))


def _call(evaluation: Evaluation) -> Call:
    packed = evaluation.packed
    needs: dict[DefinitionNumber, tuple[int, Pickle]] = {}
    _collect((*packed.needs, *packed.function.needs), needs)
    blocks = {need.number: need for need in packed.needs if isinstance(need, SharedBuffer)}
    buffers = [blocks[DefinitionNumber(it)].block.view() if isinstance(it, int) else it for it in packed.buffers]
    stream = getattr(evaluation, "stream", ())
    return Call(list(needs.values()), _pickle(packed.function), Pickle(packed.payload, buffers), b"", stream, [])


def _collect(wanted: Iterable[Definition | SharedBuffer], found: dict[DefinitionNumber, tuple[int, Pickle]]) -> None:
    """Add definitions, each after those that it needs."""
    for one in wanted:
        if isinstance(one, Definition) and one.number not in found:
            _collect(one.needs, found)
            found[one.number] = int(one.shape), _pickle(one)


def _pickle(definition: Definition) -> Pickle:
    blocks = [need.block.view() for need in definition.needs if isinstance(need, SharedBuffer)]
    return Pickle(definition.data, blocks)
