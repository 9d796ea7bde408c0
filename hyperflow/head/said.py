"""What evaluations say while they run, beside their answers: they ask for locks, random numbers or a place for their
state, print, yield, or tell what they have used.

Guarantees: a function may write to any descriptor of its process, also to the one of its worker's stream. What is no
message costs a warning, and nobody anything else.
"""

from __future__ import annotations

import functools
import logging
import struct
from collections.abc import Callable

from hyperflow.head.bulk.bulk import Bulk
from hyperflow.head.echo import Echo
from hyperflow.head.head import Head
from hyperflow.head.ranks import Ranks
from hyperflow.head.usage import Usage
from hyperflow.scheduling.state import Worker
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind, ProtocolError
from hyperflow.wire.messages import Printed, SlotWanted, StreamReply, StreamWanted
from hyperflow.wire.numbers import DefinitionNumber, WorkerNumber

logger = logging.getLogger("hyperflow")

NONSENSE = (ProtocolError, TypeError, struct.error)
"""What reading a message may raise that is none, or no whole one. Not OSError: a full disk is no nonsense."""


class Said:
    """Hears the workers of a head.

    Args:
        echo: Where what is printed goes; None if nobody wants it.
    """

    def __init__(self, head: Head, bulk: Bulk, ranks: Ranks, usage: Usage, echo: Echo | None) -> None:
        self._head = head
        self._bulk = bulk
        self._usage = usage
        self._echo = echo
        self._heard: dict[int, Callable[..., None]] = {
            **{
                kind: functools.partial(head.worker_locks.on_message, kind=kind)
                for kind in (Kind.LOCK_WANTED, Kind.LOCK_RELEASED)
            },
            Kind.STREAM_WANTED: self._stream_wanted,
            Kind.SLOT_WANTED: self._slot_wanted,
            Kind.USED: self._used,
            Kind.PRINTED: self._printed,
            Kind.RANKS_WANTED: ranks.on_message,
            Kind.PIECE: self._piece,
            Kind.FILE_WANTED: head.node_files.wanted,
            Kind.HAS: self._has,
        }

    def of_worker(self, worker: Worker, kind: int, body: memoryview) -> None:
        """Hear what a worker says."""
        try:
            if (hear := self._heard.get(kind)) is not None:
                hear(worker, body=body)
        except NONSENSE:
            logger.warning("%s sent something that is no message about an evaluation", worker.name)

    def of_copy(self, kind: int, number: WorkerNumber, body: memoryview) -> None:
        """There is a copy of a process that has failed, or not any more; or it has answered."""
        try:
            if kind == Kind.INSPECTED:
                self._head.post_mortems.answered(body)
            else:
                worker = self._head.scheduler.workers.get(number)
                self._head.post_mortems.note(body, "" if worker is None else worker.node)
        except NONSENSE:
            logger.warning("the copy of a process that has failed sent something that is no answer")

    def _stream_wanted(self, worker: Worker, body: memoryview) -> None:
        """An evaluation draws random numbers."""
        (task,) = messages.read(StreamWanted, body)
        evaluation = self._bulk.evaluation(worker, task)
        words: tuple[int, ...] = ()
        if evaluation is not None:
            if not getattr(evaluation, "stream", None):
                self._bulk.single_out_all()  # they may be counted, and each has a stream of its own
            words = self._head.streams.wanted(evaluation, [one for _, one in sorted(self._head.evaluations.items())])
        self._head.fleet.write(worker.node, [messages.framed(StreamReply(task, words), worker.number)])

    def _slot_wanted(self, worker: Worker, body: memoryview) -> None:
        """An evaluation asks for its checkpoint directory."""
        (task,) = messages.read(SlotWanted, body)
        evaluation = self._bulk.evaluation(worker, task)
        making = None if evaluation is None else self._head.makings.get(evaluation)
        self._head.checkpoints.wanted(worker, task, evaluation, making)

    def _has(self, worker: Worker, body: memoryview) -> None:
        """A worker keeps something, or does not any more."""
        kept = {DefinitionNumber(number) for (number,) in frames.NUMBER.iter_unpack(body)}
        self._head.scheduler.keeps(worker, kept)

    def _printed(self, worker: Worker, body: memoryview) -> None:
        """An evaluation has printed something."""
        if self._echo is not None:
            printed = messages.read(Printed, body)
            self._echo.printed(self._bulk.evaluation(worker, printed.task), worker.name, printed)

    def _piece(self, worker: Worker, body: memoryview) -> None:
        """A generator has yielded something."""
        try:
            self._head.pieces.on_piece(worker, body)
        except (KeyError, OSError) as error:  # of a block that there is not
            raise ProtocolError(str(error)) from None

    def _used(self, _: Worker, body: memoryview) -> None:
        """Short evaluations have used something."""
        self._usage.on_used(body)
