"""The streams of evaluations under `remote_stream`, as the head sees them: pieces come, and what was read is told."""

from __future__ import annotations

import functools
import logging
import pickle
from collections.abc import Mapping

from hyperflow.errors import SerializationError, StreamBroken
from hyperflow.head.evaluation import Evaluation
from hyperflow.head.fleet import Fleet
from hyperflow.pieces import Pieces, Post, Receiver
from hyperflow.saying import in_words
from hyperflow.scheduling.state import Worker
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind
from hyperflow.wire.numbers import TaskNumber

logger = logging.getLogger("hyperflow")


_POST, _POST_WITHIN = Post.__module__.encode(), 80
"""What the pickle of a post begins with: other pieces, of a stream that nobody reads any more, are not unpickled."""


class PieceTable:
    """All streams that run."""

    def __init__(self, fleet: Fleet, evaluations: Mapping[TaskNumber, Evaluation]) -> None:
        self._fleet = fleet
        self._evaluations = evaluations
        self._open: dict[TaskNumber, Pieces] = {}
        self.receivers: dict[str, Receiver] = {}
        """Who takes posts, by name."""

    def opened(self, evaluation: Evaluation, pieces: Pieces) -> None:
        """An evaluation produces pieces."""
        number = evaluation.task.number

        def ended(_: Evaluation) -> None:
            del self._open[number]
            pieces.more = lambda _: None  # it knows the table
            pieces.wake()

        self._open[number] = pieces
        evaluation.add_done_callback(ended)

    def on_piece(self, worker: Worker, body: memoryview) -> None:
        """The next piece of a stream has come; what is in blocks is taken out of them in any case."""
        for number, _, _, payload, buffers in frames.results(body):
            found = self._fleet.links[worker.node].found(worker.number, buffers) if buffers else []
            pieces, evaluation = self._open.get(number), self._evaluations.get(number)
            if pieces is None and _POST in bytes(payload[:_POST_WITHIN]):
                self._on_post(worker, number, payload, found)
                continue
            if pieces is None or evaluation is None:
                continue  # nobody reads it any more
            size = len(payload) + sum(map(len, found))
            try:
                value = pickle.loads(payload, buffers=found)
            except BaseException as error:  # noqa: BLE001 (whatever a user's object does while it is read)
                pieces.broken = SerializationError(
                    f"a piece of {evaluation.title} cannot be unpickled here: {in_words(error)}"
                )
                evaluation.cancel()
                continue
            pieces.more = functools.partial(self._tell, worker, number)
            pieces.arrived(value, size)

    def _on_post(self, worker: Worker, number: TaskNumber, payload: memoryview, found: list[memoryview]) -> None:
        """An evaluation that is no stream says something; what nobody takes is dropped."""
        try:
            post = pickle.loads(payload, buffers=found)
        except BaseException as error:  # noqa: BLE001 (as below)
            logger.warning("%s has posted something that cannot be unpickled: %s", worker.name, in_words(error))
            return
        if type(post) is not Post:
            return  # the piece of a stream that nobody reads any more
        receiver = self.receivers.get(post.to)
        taken = receiver(post.content) if receiver is not None else None
        if taken is None:
            self._tell(worker, number, post.serial)
        else:
            taken.add_done_callback(lambda _: self._tell(worker, number, post.serial))

    def _tell(self, worker: Worker, number: TaskNumber, read: int) -> None:
        if worker.node in self._fleet.links:
            self._fleet.write(worker.node, [frames.frame(Kind.MORE, worker.number, frames.SEQS.pack(number, read))])

    def may_restart(self, number: TaskNumber) -> bool:
        """An evaluation is to start again: return whether it may. A stream may if nobody has seen anything of it."""
        pieces = self._open.get(number)
        return pieces is None or pieces.may_restart()

    def broken(self, evaluation: Evaluation, by: str) -> StreamBroken:
        """Return the error for a stream that was cut off, and may not start again."""
        return StreamBroken(evaluation.title, by, self._open[evaluation.task.number].delivered)
