"""The worker's main: evaluates one call at a time.

Guarantees:
- What a function and its children print goes to the worker's log file (log.py), never to the stream to the launcher.
- Every evaluation has exactly one answer, or the process ends and the launcher says so. SystemExit and its like are
  answers, too.
- Each answer is sent before the next task is started, so that a crash never takes an earlier result with it.
- The process is pinned, and the thread variables are set, before the user's function imports anything.

A worker is forked by the launcher and sees the same loaded modules; it does not read the user's script.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import dataclasses
import functools
import importlib
import itertools
import mmap
import os
import socket
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hyperflow import failures
from hyperflow.debugging.capsule import Pickle
from hyperflow.debugging.surroundings import Place
from hyperflow.errors import MisuseError
from hyperflow.saying import short_str
from hyperflow.shipping import pickler, rebuild
from hyperflow.shipping.arrivals import Arrivals
from hyperflow.wire import channel, frames, messages
from hyperflow.wire.answer_ring import TEAM_WAKE, WAKE, AnswerRing
from hyperflow.wire.channel import IN_CHANNEL, Channel
from hyperflow.wire.claim_page import ClaimPage
from hyperflow.wire.deadlines import Deadlines
from hyperflow.wire.frames import Kind, Outcome
from hyperflow.wire.messages import Facts, SysPath
from hyperflow.wire.numbers import DefinitionNumber, TaskNumber
from hyperflow.wire.shared_memory import LARGE
from hyperflow.worker import capsules, per_worker, quick
from hyperflow.worker.blocks import Arguments, Results
from hyperflow.worker.definitions import Definitions
from hyperflow.worker.echo import Echo
from hyperflow.worker.lock_client import LockClient
from hyperflow.worker.log import LONGEST_NAME, Log, MarkedOutput
from hyperflow.worker.measure import NO_FUNCTION, WORTH, Measure, Sums
from hyperflow.worker.outcomes import dumps, dumps_result, raised, text, unsendable
from hyperflow.worker.producing import Outlet, Producer, inline_outlet, inline_receivers
from hyperflow.worker.quick import PAUSE, QUICK, Rare
from hyperflow.worker.settling import settle
from hyperflow.worker.stream import Stream
from hyperflow.worker.traces import LAST_WORDS, Traces, end_soon, has_callbacks

ABOUT_DATA = frozenset(map(int, (Kind.BLOCK, Kind.RETURNED, Kind.CHANNEL, Kind.FORGET)))
"""Kinds of frames that tell of buffers."""

LAST = 2
"""So many tasks of a chunk are run one by one: before them it is looked whether more has come."""

NO_STREAM = "the function has closed or replaced the descriptor by which"


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Where a function runs.

    Attributes:
        service_id: The worker's name in logs and errors.
        node: The node's name.
        cpus: The CPU ids set aside for the evaluation (numbers without meaning where nothing is pinned).
        pinned: Whether the process is bound to them.
        log_file: Where its output goes.
        program_id: The run it belongs to.
        gpus: The ids of the GPUs that it sees, as CUDA_VISIBLE_DEVICES names them; () without `using(gpus=...)`.
        attempt: Which try of the evaluation this is: 1, and one more after each exception or crash under `retries`, and
            after each loss of its worker or node. Each try of `flow.retry` is an evaluation of its own.
        memory: How many bytes it was promised, by `using(memory=...)`; None for nothing.
        nodes: The names of all nodes that it has, by `using(nodes=...)`; () for its own node alone.
    """

    service_id: str
    node: str
    cpus: tuple[int, ...]
    pinned: bool
    log_file: str
    program_id: str
    gpus: tuple[str, ...] = ()
    attempt: int = 1
    memory: int | None = None
    nodes: tuple[str, ...] = ()


_info: WorkerInfo | None = None
inline_info: contextvars.ContextVar[Callable[[], WorkerInfo] | None] = contextvars.ContextVar(
    "hyperflow_inline_info", default=None
)
"""What tells where a function in the inline environment runs."""


def worker_info() -> WorkerInfo:
    """Return where this function runs, and what it has: node, CPU and GPU ids, memory, which try it is, log file.

    Only in functions on workers. In `open_inline_job`, the service id is "inline", and there is no log file.

    Raises:
        MisuseError: Called elsewhere, for example in the job itself.
    """
    if _info is None:
        if (inline := inline_info.get()) is not None:
            return inline()
        raise MisuseError(
            "worker_info() belongs in a function that runs on a worker: await hyperflow.remote_eval(my_function)"
        )
    if _worker is not None and (facts := _worker.facts) is not None and facts.task == _worker.lock_client.task:
        return dataclasses.replace(_info, attempt=facts.attempt, memory=facts.memory, nodes=facts.nodes)
    return _info


def places() -> Iterator[tuple[str, Sequence[int], Sequence[str]]]:
    """Yield what this evaluation has, where it has several nodes: of each its name, CPUs and GPUs."""
    if _worker is not None and (facts := _worker.facts) is not None and facts.task == _worker.lock_client.task:
        yield from zip(facts.nodes, facts.cpus, facts.gpus, strict=True)


_lock_client: LockClient | None = None


def lock_client() -> LockClient | None:
    """Return what takes locks for functions that run here; None where this is no worker."""
    return _lock_client


def outlet() -> Outlet | None:
    """Return where the pieces of a generator go that runs here; None where nothing takes them."""
    return inline_outlet.get() or (None if _worker is None else _worker.producer)


def post(to: str, content: Any) -> None:
    """Say something to a receiver of the head's before the evaluation ends; block while too much is unread."""
    if _worker is not None:
        _worker.producer.post(to, content)
    elif (receivers := inline_receivers.get()) is not None and to in receivers:
        receivers[to](content)


def task_number() -> int:
    """Return the number of the evaluation that runs in this worker; 0 where this is none."""
    return 0 if _worker is None else _worker.lock_client.task


def at_end(name: str, do: Callable[[], object]) -> None:
    """Do something when the evaluation that runs has been answered, once for each name; nothing without a worker.

    It must not raise anything. If the process ends before, it is not done.
    """
    if _worker is not None:
        _worker.traces.surroundings.at_end(name, do)


def deadlines() -> Deadlines | None:
    """Return what knows when the function that runs here has to end; None where this is no worker."""
    return _deadlines


_deadlines: Deadlines | None = None
_log: Log | None = None


def log_line(line: str) -> None:
    """Write a line to the worker's log, marked with the evaluation."""
    if _log is not None:
        _log.write_line(line)


_worker: Worker | None = None


def stand_in(info: WorkerInfo) -> None:
    """Let functions in this process, which is no worker, see what they saw on one."""
    global _info  # noqa: PLW0603 (see above)
    _info = info


def keep() -> None:
    """Let stay what the function that runs here has set in this process until now; nothing where this is no worker."""
    if _worker is not None:
        _worker.traces.keep()
        _worker.context = contextvars.copy_context()


def serve(sock: socket.socket, page: mmap.mmap, info: WorkerInfo, fresh: bool, echo: bool = False) -> int:
    """Be a worker until the launcher ends the stream; return the exit code."""
    global _deadlines, _lock_client, _info, _log, _worker  # noqa: PLW0603 (a worker is one for its whole process)
    settle(info.log_file, info.service_id, info.cpus, info.pinned, info.gpus)
    _info, _deadlines = info, Deadlines(page)
    stream = Stream(sock, AnswerRing(page))
    _log = Log(Echo(stream, info.log_file) if echo else None)
    out, err = MarkedOutput(_log, 1), MarkedOutput(_log, 2)
    sys.stdout, sys.stderr = out, err
    # The launcher's own __main__ must not be taken for the script's.
    place = Place(info.service_id, info.node, info.cpus, info.log_file, info.program_id)
    _worker = evaluator = Worker(stream, ClaimPage(page), _log, (out, err), rebuild.receive(), place)
    _lock_client = evaluator.lock_client
    evaluator.serve(fresh)
    evaluator.keeping.close()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage] (what sys.exit would do)
    return 0


class Worker:
    """The loop: read tasks, run them in order, answer each."""

    def __init__(
        self,
        stream: Stream,
        claims: ClaimPage,
        log: Log,
        outputs: tuple[MarkedOutput, MarkedOutput],
        arrivals: Arrivals,
        place: Place,
    ) -> None:
        self.stream = stream
        self.claims = claims
        self.log = log
        self.input = sys.stdin
        self.outputs = outputs
        self.arrivals = arrivals
        self.reader = frames.Reader()
        self.lock_client = LockClient(stream, self.reader)
        self.definitions = Definitions(arrivals, self.found)
        self.arguments = Arguments()
        self.channel: Channel | None = None
        self.results = Results()
        self.producer = Producer(self.send_piece, self.shared, self.lock_client)
        self.lock_client.at_once[int(Kind.RETURNED)] = functools.partial(self.learn, Kind.RETURNED)
        self.pid = os.getpid()
        self.context = contextvars.copy_context()
        self.runner: asyncio.Runner | None = None
        self.seq = 0
        self.left = 0
        """How many tasks are in hand behind the one that runs; at least so many."""
        self.in_chunks = 0  # how many of the tasks until now came in chunks
        self.function_at_work: DefinitionNumber | None = None  # in the quick loop
        self.traces = Traces(stream.fileno())
        self.quick = quick.QuickLoop(stream, claims, log, self.lock_client, self.traces, arrivals, outputs)
        os.register_at_fork(after_in_child=lambda: self.quick.forks.append(1))
        self.measure = Measure(claims.seen)
        self.sums = Sums()
        self.capsules = capsules.Capsules(place)
        self.at_work: capsules.Attempt | None = None
        """The evaluation that runs, as it came."""
        self.states: capsules.RandomStates | None = capsules.first_states()
        """Those of the random generators before it, if they were noted."""
        self.to_keep = 0
        """The evaluation whose process is to be kept if it fails; such a one comes alone."""
        self.facts: Facts | None = None
        """What was said of an evaluation beside its call."""
        failures.on_item = self.leave_capsule
        self.keeping = per_worker.Keeping(
            lambda: self.lock_client.task, log_line, self.traces.settling, self.function_that_runs
        )
        per_worker.settle(self.keeping)
        self.leaving = ""  # why this process is not fit for another task

    def serve(self, fresh: bool) -> None:  # noqa: PLR0912 (one branch for each kind)
        """Work until the stream ends, RETIRE comes, or after one task in a fresh process."""
        later = self.lock_client.later
        while True:
            while not later:
                if self.arguments.changing:
                    self.give_back()
                if self.sums.is_due:
                    self.tell_sums()
                self.stream.rest()
                data = self.stream.recv(frames.CHUNK)
                if not data:
                    return
                later += self.reader.feed(data)
            kind, _, body = later.pop(0)
            if kind == Kind.TASKS:
                self.run_all(body)
                if fresh or self.leaving:
                    return
            elif kind == Kind.BATCH:
                self.run_chunk(body)
                if self.leaving:
                    return
            elif kind == Kind.DEFINE:
                self.definitions.define(bytes(body))
            elif kind == Kind.KEEP:
                (self.to_keep,) = frames.SIZE.unpack(body)
            elif kind == Kind.FACTS:
                self.facts = messages.read(Facts, body)
            elif kind in ABOUT_DATA:
                self.learn(kind, body)
            elif kind == Kind.NAMED:
                self.turn_to(NO_FUNCTION)
                self.log.name = bytes(body).decode(errors="replace")
            elif kind == Kind.PATH:
                sys.path[:] = messages.read(SysPath, body).entries
                importlib.invalidate_caches()
            elif kind == Kind.RETIRE:
                self.tell_sums()
                return

    def turn_to(self, function: DefinitionNumber) -> None:
        """The next evaluations are of another function, or have another name."""
        self.sums.turn_to(function, self.log.name, short_str(self.log.function, LONGEST_NAME))

    def tell_sums(self) -> None:
        """Tell the head what short evaluations have used."""
        self.turn_to(self.sums.function)
        if sums := self.sums.take():
            with contextlib.suppress(OSError):
                self.stream.sendall(messages.framed(messages.Used(sums)))

    def learn(self, kind: int, body: memoryview) -> None:
        """Hear of buffers of arguments and results."""
        if kind == Kind.BLOCK:
            self.arguments.open(*frames.BLOCK.unpack(body))
        elif kind == Kind.RETURNED:
            for number, kept in frames.RETURNED.iter_unpack(body):
                self.results.returned(number, kept)
        elif kind == Kind.CHANNEL:
            with contextlib.suppress(OSError):  # the head sends nothing by one that is not mapped
                self.channel = Channel.at(*frames.CHANNEL.unpack(body))
        else:
            numbers = [DefinitionNumber(number) for (number,) in frames.NUMBER.iter_unpack(body)]
            self.definitions.forget_all(numbers)
            for number in numbers:
                self.arguments.forget(number)
            self.arguments.drop_old()

    def run_all(self, body: memoryview) -> None:
        """Run tasks that came by themselves."""
        later, records = self.lock_client.later, list(frames.tasks(body))
        self.stream.wake = WAKE
        left = count = len(records)
        for task, function, payload, buffers in records:
            left -= 1
            if left < LAST <= count and not later:
                self.poll()
            self.left = left + len(later)
            if function != self.sums.function:
                self.turn_to(function)
            self.start(task, function, payload, buffers)
            if self.leaving:
                return  # the others go to another worker
            if buffers and self.channel is not None:
                self.channel.tasks.let_go(channel.count(buffers))

    def run_chunk(self, body: memoryview) -> None:
        """Run tasks of one function, which came as a piece of a batch."""
        function, first, lengths, payloads = frames.read_batch(body)
        pieces, later = quick.pieces(lengths, payloads), self.lock_client.later
        self.stream.wake = TEAM_WAKE
        if function != self.sums.function:
            self.turn_to(function)
        task, end = first, first + len(lengths)
        while task < end and not self.leaving:
            if end - task > LAST and self.log.echo is None and self.is_at_hand(function):
                task = self.run_quickly(function, task, end, pieces)
                continue
            if end - task <= LAST <= len(lengths) and not later:
                self.poll()
            self.left = end - task - 1 + len(later)
            (payload,) = next(pieces)
            self.start(task, function, payload, [], in_chunk=True)
            task = TaskNumber(task + 1)

    def is_at_hand(self, function: DefinitionNumber) -> bool:
        """Whether a function can be called as it is."""
        if function not in self.definitions.made:
            return False
        if function != self.arrivals.bound:
            self.arrivals.enter(function)
        return True

    def start(
        self,
        task: TaskNumber,
        function: DefinitionNumber,
        payload: quick.Bytes,
        buffers: list[frames.Buffer],
        in_chunk: bool = False,
    ) -> None:
        """Note the next task as started, and run it unless it was taken back before."""
        words = self.claims.words
        self.seq = seq = self.seq + 1
        self.in_chunks += in_chunk
        words[ClaimPage.STARTED] = seq
        if words[ClaimPage.FROM] <= seq < words[ClaimPage.BELOW]:
            self.skip(task, in_chunk)
        else:
            self.run(task, function, payload, buffers)

    def skip(self, task: TaskNumber, in_chunk: bool) -> None:
        """Answer for one that was taken back. What came in chunks does not count in the head's seqs."""
        self.answer(task, Outcome.SKIPPED, 0.0, frames.SIZE.pack(self.seq if in_chunk else self.seq - self.in_chunks))

    def run_quickly(
        self, function: DefinitionNumber, task: TaskNumber, end: int, pieces: Iterator[tuple[quick.Bytes]]
    ) -> TaskNumber:
        """Run tasks of a function that is at hand, up to the LAST ones; return the next task."""
        fn, most = self.definitions.made[function], itertools.islice(pieces, end - LAST - task)
        self.log.function = getattr(fn, "__name__", "__call__")
        self.function_at_work = function
        while not self.leaving:
            last = self.quick.run(fn, self.context, task, most)
            count = self.claims.words[ClaimPage.STARTED] - self.seq
            self.seq += count
            self.in_chunks += count
            task = TaskNumber(task + count)
            if count > 1:
                self.states = None  # they were noted before another one
            if last is None:
                break
            self.left = end - task + len(self.lock_client.later)
            self.deal_with(TaskNumber(task - 1), function, last)
        self.function_at_work = None
        if not self.leaving:
            self.clean()
        if not self.leaving and not self.traces.has_stream():
            self.leaving = f"{NO_STREAM} its worker answers"
        return task

    def deal_with(self, task: TaskNumber, function: DefinitionNumber, last: quick.Last) -> None:
        """Do what the quick loop has left to do."""
        if last.why is Rare.TAKEN_BACK:
            self.skip(task, in_chunk=True)
        elif last.why is Rare.NO_STREAM:
            self.leaving = f"{NO_STREAM} its worker answers"
        elif last.error is None:
            assert last.context is not None
            self.succeed(task, last.value, last.context, last.begin, in_chunk=True)
        elif last.why is Rare.UNREADABLE:
            self.unreadable(task, "an argument", last.error)
        else:
            self.at_work = task, function, last.payload, []
            self.fail(task, last.error, time.perf_counter() - last.begin)

    def poll(self) -> None:
        """Take what has come meanwhile, if there is anything."""
        with contextlib.suppress(BlockingIOError):
            self.lock_client.later += self.reader.feed(self.stream.recv(frames.CHUNK, socket.MSG_DONTWAIT))

    def run(
        self, task: TaskNumber, function: DefinitionNumber, payload: quick.Bytes, buffers: list[frames.Buffer]
    ) -> None:
        """Evaluate one task and answer."""
        begin = time.perf_counter()
        log = self.log
        fn = None
        self.at_work = task, function, payload, buffers
        try:
            fn = self.definitions.made.get(function)
            is_new = fn is None
            if fn is None:
                fn = self.definitions.function(function)
            elif function != self.arrivals.bound:
                self.arrivals.enter(function)
            if buffers:
                self.at_work = task, function, payload, capsules.kept(buffers)
                loaded = pickler.loads(payload, buffers=[self.found(each) for each in buffers])
            else:
                loaded = pickler.loads(payload)
        except BaseException as error:
            self.unreadable(task, "the function" if fn is None else "an argument", error)
            return
        self.lock_client.task = task
        log.task = log.last = task
        log.function = getattr(fn, "__name__", "__call__")
        context = self.context.copy()  # of decimal, numpy's error state and others: each call has its own
        try:
            value = context.run(fn, *loaded[0], **loaded[1]) if type(loaded) is list else context.run(fn, *loaded)
        except BaseException as error:
            self.fail(task, error, time.perf_counter() - begin, is_new)
        else:
            self.succeed(task, value, context, begin, is_new)

    def succeed(
        self,
        task: TaskNumber,
        value: Any,
        context: contextvars.Context,
        begin: float,
        is_new: bool = False,
        in_chunk: bool = False,
    ) -> None:
        """Answer with what a function has returned, or with what comes of it, if that is a coroutine."""
        is_async = type(value) is types.CoroutineType
        if is_async:
            try:
                value = self.run_async(value, context)
            except BaseException as error:
                self.fail(task, error, time.perf_counter() - begin, is_new, is_async)
                return
        now = time.perf_counter()
        outcome, out, seconds = Outcome.VALUE, list[memoryview](), now - begin
        try:
            data = dumps_result(value, out)
        except BaseException as error:
            out = []
            outcome, data = unsendable(value, error)
        thoroughly = is_new or (seconds > QUICK and not (in_chunk and now < self.quick.looked + PAUSE))
        self.conclude(task, outcome, seconds, data, out, is_async, thoroughly)

    def fail(
        self, task: TaskNumber, error: BaseException, seconds: float, is_new: bool = False, is_async: bool = False
    ) -> None:
        """Answer with what a function has raised."""
        outcome, data = raised(error)
        self.leave_capsule(error)
        if task == self.to_keep:
            self.leave_copy(task, error)
        with contextlib.suppress(Exception):
            failures.let_go(error)  # asyncio's runner knows the task, and the task the error, which knows the runner
        self.conclude(task, outcome, seconds, data, [], is_async, is_new or seconds > QUICK)

    def conclude(
        self,
        task: TaskNumber,
        outcome: Outcome,
        seconds: float,
        data: bytes,
        out: list[memoryview],
        is_async: bool,
        thoroughly: bool,
    ) -> None:
        """Answer, and make the process ready for the next task."""
        if self.quick.forks or (seconds > QUICK and os.getpid() != self.pid):  # C code that forks tells nobody
            # The function forked, and this is the child. It must not answer: its parent does, on the same stream.
            os._exit(0 if outcome == Outcome.VALUE else 1)
        self.tidy()
        if seconds > QUICK:
            self.log.end_evaluation()
        if not self.traces.has_stream():
            if self.function_at_work is None or out or not self.stream.ring.put(task, outcome, seconds, data):
                raise ConnectionError(f"{NO_STREAM} its worker answers")
            self.leaving = f"{NO_STREAM} its worker answers"  # one of those before, maybe, which were answered
            return
        if self.keeping.changed:
            self.tell_kept()
        measured = self.wrap_up(task, seconds) if seconds > WORTH or self.log.echo is not None else b""
        if out or measured:
            self.answer(task, outcome, seconds, data, out, measured)
        else:
            self.stream.answer(task, outcome, seconds, data, self.left)
        self.clean(is_async, thoroughly)
        # For its capsule, should the next one fail. It takes up to 80 µs, so not after each quick one.
        self.states = capsules.random_states() if seconds > WORTH or outcome != Outcome.VALUE else None

    def wrap_up(self, task: TaskNumber, seconds: float) -> bytes:
        """Tell what an evaluation has printed; return what it has used, if it took long enough to be measured."""
        if self.log.echo is not None:
            self.log.echo.end(task)
        self.log.task = TaskNumber(0)
        if seconds <= WORTH:
            return b""
        self.sums.skip()
        return frames.MEASURED.pack(*self.measure.since_last())

    def leave_capsule(self, error: BaseException) -> None:
        """Leave a capsule of the evaluation that runs: it has failed, or an item of it has."""
        if getattr(type(error), "has_capsule", True) is False:
            return
        if self.at_work is None and self.function_at_work is not None:
            self.at_work = self.lock_client.task, self.function_at_work, self.quick.payload, []
        if self.at_work is None or os.getpid() != self.pid:
            return
        task, function, payload, buffers = self.at_work
        if not self.capsules.wants(task):
            return
        try:
            failure = capsules.Failure(
                task,
                short_str(self.log.function, LONGEST_NAME),
                self.definitions.pickle_of(function),
                Pickle(payload, [self.found(each) if isinstance(each, int) else each for each in buffers]),
                capsules.are_as_left(buffers),
                self.definitions.known(),
                self.states,
                self.lock_client.stream_of(task),
                error,
            )
            why_not = self.capsules.leave(failure)
        except BaseException as trouble:  # whatever it is: the failure itself counts more
            why_not = text(trouble)
        if why_not:
            self.log.write_line(f"hyperflow keeps nothing of this failure to run it again: {why_not}")

    def leave_copy(self, task: TaskNumber, error: BaseException) -> None:
        """Leave a copy of this process, to be looked at."""
        if os.getpid() != self.pid:
            return
        from hyperflow.worker import post_mortem  # noqa: PLC0415 (few evaluations ask for it)

        try:
            why_not = post_mortem.leave(self.stream, task, error)
        except Exception as trouble:
            why_not = text(trouble)
        if why_not:
            self.log.write_line(f"hyperflow keeps no copy of this process: {why_not}")

    def unreadable(self, task: TaskNumber, what: str, error: BaseException) -> None:
        """Answer that a call cannot be unpickled here."""
        words = f"{what} could not be unpickled on the worker: {text(error)}"
        if isinstance(error, ModuleNotFoundError):
            words += (
                f"; the worker looks for modules in {sys.path}; to send a module by value, call "
                f"hyperflow.register_pickle_by_value({(error.name or 'module').partition('.')[0]})"
            )
        words += self.definitions.trouble
        self.at_work = None
        self.arrivals.leave()
        self.answer(task, Outcome.UNREADABLE, 0.0, dumps(words))
        self.clean()

    def clean(self, is_async: bool = False, thoroughly: bool = True) -> None:
        """Remove what the function has left in this process, or leave the next task to another one."""
        refusing = self.clean_loop() if is_async else ""
        if thoroughly:
            self.quick.looked = time.perf_counter()
        if self.keeping.asked:
            self.look_at_kept()
        self.leaving = self.traces.remove(thoroughly) or refusing
        if self.leaving:
            end_soon()  # what a function has registered with atexit may hang
            self.log.write_line(f"another process takes the place of this worker: {self.leaving}")

    def look_at_kept(self) -> None:
        """The evaluation has asked for what the worker keeps: close what is too much."""
        self.keeping.asked = False
        self.traces.adopt()
        self.keeping.trim()
        if self.keeping.changed:
            self.tell_kept()

    def tell_kept(self) -> None:
        """Tell the head for which functions something is kept."""
        self.keeping.changed = False
        body = b"".join(map(frames.NUMBER.pack, sorted(self.keeping.functions())))
        self.stream.sendall(frames.frame(Kind.HAS, body=body))

    def function_that_runs(self) -> DefinitionNumber:
        """Return the number of its definition."""
        if self.at_work is not None:
            return self.at_work[1]
        return self.function_at_work or DefinitionNumber(0)

    def clean_loop(self) -> str:
        """Cancel tasks that an async function has left, and end the threads of its loop; return who refuses."""
        assert self.runner is not None
        loop, refusing = self.runner.get_loop(), ""
        if loop.is_closed():
            return ""
        if left := asyncio.all_tasks(loop):
            end_soon()
            for one in left:
                one.cancel()
            _, pending = loop.run_until_complete(asyncio.wait(left, timeout=LAST_WORDS / 2))
            if pending:
                refusing = f"{len(pending)} tasks do not let themselves be cancelled"
        if self.traces.has_threads() or has_callbacks(loop):
            loop.close()  # which ends the threads of its executor
            self.runner = None
        return refusing

    def tidy(self) -> None:
        """Put back streams, write what the function has not ended, let go of names that its arguments brought."""
        self.at_work = None
        sys.stdin = self.input
        sys.stdout, sys.stderr = stdout, stderr = self.outputs
        if stdout.partial or stderr.partial:
            stdout.flush()
            stderr.flush()
        if self.arrivals.visitors:
            self.arrivals.leave()

    def run_async(self, coroutine: Any, context: contextvars.Context) -> Any:
        """Run an async function to its end; what it leaves behind is cancelled once it has been answered."""
        if self.runner is None or self.runner.get_loop().is_closed():  # an earlier function may have closed it
            self.runner = asyncio.Runner()
        return self.runner.run(coroutine, context=context)

    def answer(
        self,
        task: TaskNumber,
        outcome: int,
        seconds: float,
        data: bytes,
        buffers: Sequence[memoryview] = (),
        measured: bytes = b"",
    ) -> None:
        if measured:
            outcome |= frames.IS_MEASURED
        if not buffers:
            self.stream.answer(task, outcome, seconds, measured + data, self.left)
            return
        found = [self.shared(each) for each in buffers]
        record = frames.result_record(task, outcome, seconds, data, found, measured)
        self.stream.answer_in_parts(record, self.left)

    def send_piece(self, parts: Sequence[frames.Bytes]) -> None:
        """Send a value of the generator that runs."""
        self.stream.sendall(b"".join(parts))

    def shared(self, data: memoryview) -> frames.Buffer:
        """Put a buffer into the channel, or into a block that is passed on, and return where; or return it as it is."""
        if data.nbytes < LARGE:
            return data if self.channel is None else self.channel.results.offer(data)
        try:
            number, block = self.results.filled(data)
        except OSError:  # too many open files, no memory, no memfd here
            return data
        self.stream.send_fd(frames.frame(Kind.BLOCK, body=frames.BLOCK.pack(number, block.size, 0, -1)), block.fd)
        self.results.sent(number, block)
        return number

    def give_back(self) -> None:
        """Tell the head which blocks of arguments nobody looks at any more."""
        done = self.arguments.returned()
        if done:
            body = b"".join(frames.RETURNED.pack(*each) for each in done)
            self.stream.sendall(frames.frame(Kind.RETURNED, body=body))

    def found(self, buffer: frames.Buffer) -> memoryview:
        """Return a buffer of an argument; changes to one that is in a block are this evaluation's own."""
        if not isinstance(buffer, int):
            return buffer
        if buffer >= IN_CHANNEL:
            assert self.channel is not None
            return self.channel.tasks.copy(buffer)
        return self.arguments.view(buffer)
