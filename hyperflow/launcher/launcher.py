"""The node launcher: the one process per node that forks, feeds, watches and kills that node's workers.

Guarantees:
- Its stdin and stdout are the stream to the head. It moves them away from fds 0 and 1 before anything else, so what is
  printed on this node cannot reach the protocol. It never unpickles anything.
- When the stream ends, or the launcher is killed, every worker and all their descendants end, daemons included, within
  little more than KILL_GRACE. (For this it has a parent, see keeper.py, and a watcher, see wire/survivors.py.)
- A worker whose process has ended is gone within KILL_GRACE and GONE_GRACE, whatever it has left.
- A crash is charged to the right task: each worker writes the task that it starts into its claim page, which the
  launcher reads.
- Workers are forked from this process after the imports were done once (zygote.py). A fork takes a millisecond or two.

Single-threaded, with one select loop: threads and fork do not mix.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator
from typing import NoReturn

from hyperflow._version import __version__, installed_version
from hyperflow.launcher import child, entry, keeper, own_stream
from hyperflow.launcher.answers import LEAVE_GRACE, Answers
from hyperflow.launcher.cache import NodeCache
from hyperflow.launcher.ends import Ends
from hyperflow.launcher.head_stream import HeadStream
from hyperflow.launcher.memory import MemoryLimits
from hyperflow.launcher.node_files import NodeFiles
from hyperflow.launcher.peers import Peers
from hyperflow.launcher.post_mortems import PostMortems
from hyperflow.launcher.teams import HANDLED, Teams
from hyperflow.launcher.zygote import Zygote
from hyperflow.wire import findings, frames, machine, messages, processes, scratch, survivors
from hyperflow.wire.answer_ring import PAGES
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import (
    CANCELLED,
    MEMORY_LIMIT,
    TIME_LIMIT,
    Fetch,
    Fetched,
    ForkOrder,
    Greeting,
    Guest,
    Inspect,
    Listen,
    Listening,
    Ready,
    Setup,
    SysPath,
    WorkerEnded,
)
from hyperflow.wire.numbers import DefinitionNumber, Seq, WorkerNumber
from hyperflow.wire.shared_memory import Offer

KILL_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL for a worker's process group."""

GONE_GRACE = 5.0
"""Seconds after which a worker counts as gone although processes of it are there that not even SIGKILL ends."""

LOOK_PAUSE = 0.1
"""Seconds between looks at who is left of a worker."""

STANDSTILL = 1.0
"""Seconds that the select loop may wake up late before that counts as a standstill."""

FORK_PAUSE = 0.05
"""Seconds between a failed fork and the report of it."""

GROUP_PAUSE = 0.01
"""Seconds between looks whether the group of a worker that ends is gone."""

LONGEST_LOOK = 3600.0
"""Seconds to wait in the selector at most: epoll refuses more than 24 days, and a time limit may be longer."""

HELD = frozenset(
    map(
        int,
        (
            *(Kind.GIVE, Kind.TASKS, Kind.NAMED, Kind.CHANNEL, Kind.KEEP, Kind.FACTS),
            *(Kind.LIMIT, Kind.LIMIT_MEMORY),
        ),
    )
)
"""What waits with a block that is still to come from another node; the rest is for what the worker is doing already."""

FORWARDED = frozenset(
    map(
        int,
        (
            *(Kind.NAMED, Kind.FACTS, Kind.CHANNEL, Kind.RETURNED),
            *(Kind.LOCK_REPLY, Kind.STREAM_REPLY, Kind.SLOT_REPLY, Kind.RANKS_ENDED, Kind.MORE, Kind.FILE_HERE),
        ),
    )
)
"""What only workers understand."""

OF_FILES = frozenset(map(int, (Kind.FILE_COMES, Kind.FILE_HOLD, Kind.FILE_PULL, Kind.FILE_RELEASED)))
"""What is about files on their way to this node, or kept on it."""


class Launcher:
    """The select loop and what it knows."""

    def __init__(self, in_fd: int, out_fd: int, watched: int) -> None:
        self.watched = watched
        """The pipe whose end the watcher waits for (wire/survivors.py)."""
        self.selector = selectors.DefaultSelector()
        self.head = HeadStream(in_fd, out_fd, self.selector)
        self.workers: dict[WorkerNumber, child.WorkerProcess] = {}
        self.timed: dict[WorkerNumber, child.WorkerProcess] = {}
        """Those to which something is to happen at some moment, which are few; maybe some others."""
        self.now = time.monotonic()
        """When the select loop woke up."""
        self.alarm = 0.0
        """When it is to look at all clocks."""
        self.zygote = Zygote()
        self.peers = Peers(self.selector, self.on_fetched, self.wake_by)
        self.files = NodeFiles(self.peers, self.head.send, self.tell)
        self.cache = NodeCache(self.peers, self.files)
        self.held: dict[WorkerNumber, list[tuple[int, memoryview]]] = {}
        """What workers are to get when a block has come from another node."""
        self.post_mortems = PostMortems(self.selector, self.head.send)
        self.teams = Teams(self.head, self.workers, self.held, self.forward, self.look, self.kill, self.wake_by)
        self.memory = MemoryLimits(self.watch, self.own_children)
        self.answers = Answers(
            *(self.head, self.workers, self.teams, self.cache, self.post_mortems),
            *(self.kill, self.watch, self.wake_by),
        )
        self.ends = Ends()
        self.closing = False
        self.failed_forks: deque[tuple[float, bytes]] = deque()  # when to report which
        self.setup: Setup | None = None
        self.memory_kills = machine.MemoryKills()
        self.wakeup, self.wakeup_end = processes.wakeup()
        for signum in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(signum, lambda *_: None)  # the wakeup fd does the work
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the head decides about Ctrl-C
        self.selector.register(in_fd, selectors.EVENT_READ, self.on_head)
        self.selector.register(self.wakeup, selectors.EVENT_READ, self.on_signal)

    # ---- the loop -----------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Work until the stream has ended, or CLOSE came, and all workers are gone."""
        self.head.send(frames.HELLO, messages.framed(greeting(self.cache.proof.offer())))
        self.head.flush()
        while not (self.closing and not self.workers):
            if not self.zygote.is_warm and not self.closing and not self.selector.select(0):
                self.zygote.warm_up_a_little()
                continue
            self.turn()
        processes.end_descendants()
        self.teams.speak()
        self.head.flush_all()

    def turn(self) -> None:
        """Wait until something happens, and do what is to be done about it. Most turns pass on one message."""
        began = time.monotonic()
        patience = max(min(self.alarm, self.head.due) - began, 0.0)
        ready = self.selector.select(patience)
        self.now = time.monotonic()
        self.woke_up(patience, self.now - began)
        for key, events in ready:
            if isinstance(key.data, child.WorkerProcess):
                self.on_worker(key.data, events)
            else:
                key.data()
        if self.now >= self.alarm:
            self.check_clocks()
        if self.now >= self.head.due or self.head.is_writing:
            self.teams.speak(patient=True)
            self.head.flush()
        self.wake_by(self.memory_kills.look(self.now))

    def woke_up(self, patience: float, took: float) -> None:
        """Count the silence of the head, and put off what was due while this process, or the machine, stood still.

        All of the node was stopped then (scontrol suspend, a frozen control group): nothing ran, and nothing was read.
        """
        if took > patience + STANDSTILL:
            for process in self.workers.values():
                process.put_off(took - patience)
            self.teams.put_off(took - patience)
            self.alarm = 0.0
            took = patience
        self.head.silence += took

    def wake_by(self, moment: float) -> None:
        """Look at all clocks by that moment."""
        self.alarm = min(self.alarm, moment)

    def watch(self, process: child.WorkerProcess) -> None:
        """Something is to happen to a worker at some moment, or it is ending."""
        self.timed[process.number] = process
        self.alarm = 0.0

    def moments(self) -> Iterator[float]:
        """Yield when something is to be done, whatever happens before."""
        yield self.now + LONGEST_LOOK
        if self.failed_forks:
            yield self.failed_forks[0][0]
        for process in self.timed.values():
            if process.status is not None or process.kill_at is not None:
                yield self.now + GROUP_PAUSE  # its group may be gone any moment
            yield from (moment for moment in (process.deadline, process.leave_by) if moment is not None)
        if (look := self.answers.moment) is not None:
            yield look
        yield from self.teams.moments()
        if self.setup is not None:
            yield self.head.last_sent + self.setup.heartbeat
            yield self.now + self.setup.silence_limit - self.head.silence
        if (old := self.post_mortems.moment) is not None:
            yield old
        if (silent := self.peers.moment) is not None:
            yield silent
        if (full := self.memory.moment) is not None:
            yield full

    def check_clocks(self) -> None:
        """Do what is due, and note when the next thing will be. (What moves to a later moment costs a look.)"""
        now, head = self.now, self.head
        if self.setup is not None and not self.closing:
            if head.silence > self.setup.silence_limit:
                self.stop(f"the head has not been heard for {head.silence:.0f} s")
            elif now - head.last_sent >= self.setup.heartbeat:
                head.last_sent = now
                if not head.has_more:  # else something is on its way already
                    head.send(frames.frame(Kind.ALIVE))
        while self.failed_forks and now >= self.failed_forks[0][0]:
            head.send(self.failed_forks.popleft()[1])
        self.post_mortems.end_old(now)
        self.peers.check(now)
        self.answers.check(now)
        self.teams.check(now)
        self.memory.check(now)
        self.check_timed(now)
        self.alarm = min(self.moments())

    def check_timed(self, now: float) -> None:
        """Let happen to workers what is due."""
        for process in list(self.timed.values()):
            if not process.is_timed:
                del self.timed[process.number]
            if process.deadline is not None and now >= process.deadline:
                process.deadline = None
                self.kill(process, TIME_LIMIT)
            if process.leave_by is not None and now >= process.leave_by:
                process.leave_by = None
                self.kill(process, process.leave_why)
            if process.kill_at is not None and now >= process.kill_at:
                child.signal_group(process.pid, signal.SIGKILL)
            if process.status is not None and self.is_gone(process, now):
                self.finish(process)

    def on_signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGTERM in self.wakeup.recv(1024):
                self.stop("SIGTERM")
        by_pid = {process.pid: process for process in self.workers.values()}
        for pid, status, usage in processes.reap():
            process = by_pid.get(pid)
            if process is None:
                continue  # an orphan that we adopted
            process.status = status
            self.watch(process)
            process.peak_memory = usage.ru_maxrss * 1024  # type: ignore[attr-defined]
            self.drain(process)
            process.within = self.teams.lost(process)
            if process.kill_at is None:  # what it leaves behind in its group goes with it
                child.signal_group(pid, signal.SIGTERM)
                process.kill_at = time.monotonic() + KILL_GRACE

    # ---- from the head ------------------------------------------------------------------------------------------

    def on_head(self) -> None:
        try:
            received = self.head.read()
            if received is None:
                self.stop("the head has gone")
                return
            for kind, number, body in received:
                self.handle(kind, number, body)
            self.teams.settle()
        except frames.ProtocolError as error:
            print(f"in the stream from the head: {error}", file=sys.stderr, flush=True)
            self.head.send(frames.frame(Kind.BROKEN, body=str(error).encode()))
            self.stop("the head's stream is broken")

    def handle(self, kind: int, number: WorkerNumber, body: memoryview) -> None:  # noqa: PLR0912, PLR0915 (one branch for each kind)
        if number in self.held and kind in HELD:
            self.held[number].append((kind, body))
            return
        process = self.workers.get(number)
        if kind == Kind.TASKS:  # the most frequent one
            if process is not None and process.status is None:
                process.sent += frames.count_tasks(body)
                self.forward(process, frames.frame(kind, number, body))
        elif kind in HANDLED:
            if not self.closing:
                self.teams.handle(kind, number, body)
        elif kind == Kind.HEARD:
            self.teams.heard(*frames.NUMBER.unpack(body))
        elif kind == Kind.SETUP:
            self.prepare(messages.read(Setup, body))
        elif kind == Kind.DEFINE:
            self.cache.define(body)
        elif kind == Kind.BLOCK:
            self.cache.keep_block(body)
        elif kind == Kind.CONTENT:
            if (filled := self.cache.fill(body)) is not None:
                self.release(filled)
        elif kind == Kind.TAKEN:
            self.cache.taken(number, body)
        elif kind == Kind.FORGET:
            self.cache.forget(body)
            if self.held:
                for (gone,) in frames.NUMBER.iter_unpack(body):
                    self.release(DefinitionNumber(gone))
            for other in self.workers.values():
                self.forward(other, frames.frame(Kind.FORGET, other.number, body))
        elif kind == Kind.FORK:
            self.fork(number, messages.read(ForkOrder, body))
        elif kind == Kind.GUEST:
            self.fork(number, messages.read(Guest, body))
        elif kind == Kind.PATH:
            self.zygote.follow(messages.read(SysPath, body))
            for other in self.workers.values():
                self.forward(other, frames.frame(Kind.PATH, other.number, body))
        elif kind == Kind.LISTEN:
            self.listen(messages.read(Listen, body))
        elif kind == Kind.FETCH:
            self.cache.expect(messages.read(Fetch, body))
        elif kind == Kind.CLOSE:
            self.close()
        elif kind == Kind.ENDS:
            self.ends.hear(body, self.workers.values())
        elif kind == Kind.ALIVE:
            pass  # it was heard
        elif kind in OF_FILES:
            self.files.handle(kind, number, body)
        elif kind == Kind.INSPECT:
            self.post_mortems.ask(messages.read(Inspect, body))
        elif process is None or process.status is not None:
            pass  # it has ended; the head knows, or will soon
        elif kind == Kind.GIVE and self.cache.awaits(body):
            self.held[number] = [(kind, body)]
        elif kind == Kind.GIVE:
            for data in self.cache.given(number, body):
                self.forward(process, data)
        elif kind in FORWARDED:
            self.forward(process, frames.frame(kind, number, body))
        elif kind == Kind.KEEP:
            if self.post_mortems.has_room:
                self.forward(process, frames.frame(kind, number, body))
        elif kind == Kind.LIMIT:
            process.limit(frames.SECONDS.unpack(body)[0], time.monotonic())
            self.watch(process)
        elif kind == Kind.LIMIT_MEMORY:
            self.memory.begin(process, frames.SIZE.unpack(body)[0])
        elif kind == Kind.RETRACT:
            (below,) = frames.SIZE.unpack(body)
            boundary = process.claims.retract(Seq(below + process.shift)) - process.shift
            self.head.send(frames.frame(Kind.RETRACTED, number, frames.SEQS.pack(boundary, below)))
        elif kind == Kind.RETIRE:
            self.retire(process)
        elif kind == Kind.KILL:
            self.kill(process, CANCELLED)
        else:
            raise frames.ProtocolError(f"frame of kind {kind} from the head")

    def prepare(self, setup: Setup) -> None:
        """Make this process ready to fork workers, and tell the head."""
        self.setup = setup
        self.alarm = 0.0
        wrong = self.zygote.prepare(setup)
        scratch.cwd = setup.cwd
        scratch.make(setup.scratch, setup.program_id, setup.node, setup.cache)
        survivors.tell(self.watched)
        if wrong:
            self.head.send(frames.frame(Kind.FAILED, body=wrong.encode()))
            return
        self.cache.settle(setup.memory)
        self.head.silence = 0.0
        self.head.send(messages.framed(Ready(self.cache.shares_memory, self.zygote.remark)))

    # ---- from other nodes ---------------------------------------------------------------------------------------

    def listen(self, order: Listen) -> None:
        """Learn the secret; take connections, and say where."""
        self.peers.know(bytes.fromhex(order.secret))
        if order.open:
            self.head.send(messages.framed(Listening(*self.peers.listen())))

    def on_fetched(self, name: bytes, cause: str) -> None:
        """A block has come from another node, or could not be had there."""
        (number,) = frames.NUMBER.unpack(name)
        if self.files.fetched(number, cause):
            return
        self.head.send(messages.framed(Fetched(number, cause)))
        if not cause:
            self.release(DefinitionNumber(number))

    def release(self, number: DefinitionNumber) -> None:
        """Give workers what has waited for this block, as far as it does not wait for another one."""
        self.cache.has_come(number)
        held = dict(self.held)
        self.held.clear()
        for worker, waiting in held.items():
            for kind, body in waiting:
                self.handle(kind, worker, body)
            self.teams.released(worker)

    def close(self) -> None:
        """The head asks for the end: let idle workers leave by themselves."""
        self.closing = True
        self.teams.close()
        for process in self.workers.values():
            self.retire(process)

    def stop(self, why: str) -> None:
        """End all workers now, and do not tell the head.

        It would take each end for a crash, and send the tasks to a new worker. So it sees only the end of the stream,
        which means a lost node: no task is charged.
        """
        self.closing = True
        self.teams.close()
        self.head.mute()
        for process in self.workers.values():
            self.kill(process, why)

    # ---- workers ------------------------------------------------------------------------------------------------

    def fork(self, number: WorkerNumber, order: ForkOrder | Guest) -> None:
        """Fork a worker, or what is to become a program."""
        self.zygote.warm_up()
        # Delay SIGTERM until the child has its own group and default handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            ours, theirs = socket.socketpair()
            page = mmap.mmap(-1, PAGES)
            entry.before_fork()
            mark = child.mark(number)  # here, too, for the moment: what is done now costs the child no copies of pages
            pid = os.fork()
        except OSError as error:  # too many processes, open files, too little memory; sockets close with their objects
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            report = WorkerEnded(70, Seq(0), f"cannot fork: {error.strerror}", False, "", 0)
            # A little later: the head answers with another order, and shall not keep us busy with nothing but that.
            self.failed_forks.append((time.monotonic() + FORK_PAUSE, messages.framed(report, number)))
            self.alarm = 0.0
            return
        if pid == 0:
            scratch.worker = number
            self.become_worker(theirs, ours, page, order)
        del mark
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        theirs.close()
        ours.setblocking(False)
        process = child.WorkerProcess(number, pid, ours, page, order)
        if process.gpus:  # what those that end have there would be in its way
            ending = (other for other in self.workers.values() if other.is_ending)
            process.behind = {other.number for other in ending if not process.gpus.isdisjoint(other.gpus)}
        self.workers[number] = process
        if not process.is_guest:  # a program has nothing to say, and does not keep the socket
            self.ends.tell(process)
            self.selector.register(ours, selectors.EVENT_READ, process)

    def become_worker(
        self, sock: socket.socket, launcher_end: socket.socket, page: mmap.mmap, order: ForkOrder | Guest
    ) -> NoReturn:
        """In the forked child: close what belongs to the launcher, and serve."""
        code = 70
        try:
            assert self.setup is not None, order
            signal.set_wakeup_fd(-1)
            launcher_end.close()
            os.close(self.watched)  # what it forks may outlive us
            self.wakeup.close()
            self.wakeup_end.close()
            self.selector.close()
            for other in self.workers.values():
                other.let_go()
            self.cache.close()
            self.peers.close()
            self.post_mortems.close()
            self.head.close()
            if isinstance(order, Guest):
                entry.become_guest(order)
            code = entry.become_worker(sock, page, self.setup, order)
        except BaseException:  # noqa: BLE001 (a forked child must not go on as a launcher)
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def forward(self, process: child.WorkerProcess, data: bytes) -> None:
        """Send to a worker, as far as it takes it now."""
        if not process.backlog and not process.behind:
            try:
                sent = process.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # it is dying; reaping it tells the rest
            if sent == len(data):
                return
            data = data[sent:]
            self.selector.modify(process.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, process)
        process.backlog += data

    def tell(self, number: WorkerNumber, data: bytes) -> None:
        """Send to a worker, if it is there."""
        process = self.workers.get(number)
        if process is not None and process.status is None:
            self.forward(process, data)

    def let_go_on(self, gone: child.WorkerProcess) -> None:
        """A worker with GPUs has gone: those that wait for these get what is there for them."""
        for process in self.workers.values():
            if gone.number in process.behind:
                process.behind.remove(gone.number)
                if not process.behind and process.status is None:
                    if not process.is_ending:
                        process.put_off(time.monotonic() - process.forked)
                    if process.backlog:
                        with contextlib.suppress(KeyError, ValueError):  # its stream has ended
                            self.selector.modify(process.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, process)

    def on_worker(self, process: child.WorkerProcess, events: int) -> None:
        if process.sock.fileno() < 0:
            return  # reaped in this very turn
        if events & selectors.EVENT_WRITE and process.backlog:
            try:
                sent = process.sock.send(process.backlog)
                del process.backlog[:sent]
            except BlockingIOError:
                pass
            except OSError:
                process.backlog.clear()
            if not process.backlog and process.number in self.workers:
                self.selector.modify(process.sock, selectors.EVENT_READ, process)
        if events & selectors.EVENT_READ and self.answers.take(process) is False:
            self.selector.unregister(process.sock)
            self.answers.look(process)
            self.watch(process)
            process.leave_by = time.monotonic() + LEAVE_GRACE  # it ends, or it can never answer
            process.leave_why = "its function has closed the descriptor by which it answers"

    def look(self, process: child.WorkerProcess) -> None:
        """Read all that a worker has answered."""
        self.answers.look(process)

    def drain(self, process: child.WorkerProcess) -> None:
        """Take the last that a worker sent before it ended."""
        self.answers.look(process)
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(process.sock)
        process.sock.close()
        for fd in process.fds:  # of an answer that it did not finish
            os.close(fd)
        process.fds.clear()

    def retire(self, process: child.WorkerProcess) -> None:
        """Let a worker end by itself, soon."""
        if process.is_guest:
            self.kill(process, "closing")
        elif process.kill_at is None:
            self.forward(process, frames.frame(Kind.RETIRE, process.number))
            self.watch(process)
            process.leave_by = time.monotonic() + LEAVE_GRACE

    def kill(self, process: child.WorkerProcess, reason: str) -> None:
        """End a worker's process group: TERM now, KILL after the grace."""
        process.deadline = process.leave_by = None
        self.watch(process)
        if process.kill_at is None:
            process.reason = process.reason or reason
            process.kill_at = time.monotonic() + KILL_GRACE
            child.signal_group(process.pid, signal.SIGTERM)

    def is_gone(self, process: child.WorkerProcess, now: float) -> bool:
        """Whether nothing is left of a worker that was reaped; what escaped into sessions of its own is killed.

        A group may be there for ever: of a zombie, whose parent has left it, of a process that may not be killed
        (sudo), or cannot be (a file system that hangs). So after the grace only living processes that we can end count.
        """
        others = self.own_children() - {process.pid}
        grouped = child.group_lives(process.pid)
        if now < process.look_at or (grouped and process.kill_at is not None and now < process.kill_at):
            return False
        if not grouped and (not processes.children_are_left() or not set(processes.children(os.getpid())) - others):
            return True
        process.look_at = now + LOOK_PAUSE
        left = child.remains(process, others)
        processes.kill_all(left)
        return not left or (process.kill_at is not None and now > process.kill_at + GONE_GRACE)

    def own_children(self) -> set[int]:
        """Return the children that we know: workers, and copies of such that have failed."""
        return {process.pid for process in self.workers.values()} | self.post_mortems.pids

    def finish(self, process: child.WorkerProcess) -> None:
        """Nothing is left of a worker: tell the head."""
        del self.workers[process.number], self.timed[process.number]
        self.held.pop(process.number, None)
        self.files.worker_gone(process.number)
        if scratch.discard(process.number):
            os.kill(os.getppid(), signal.SIGCHLD)  # the keeper looks into the trash
        if process.gpus:
            self.let_go_on(process)
        status, reason = process.status if process.status is not None else 70, process.reason
        out_of_memory = status == -signal.SIGKILL and not reason and self.memory_kills.took_one(time.monotonic())
        tail = process.log_tail() if reason in ("", TIME_LIMIT, MEMORY_LIMIT) and not process.done else ""
        started = Seq(max(process.claims.started - process.shift, 0))
        limited = process.memory_limit is not None  # in whose evaluation it has ended
        peak = process.memory_peak if reason == MEMORY_LIMIT else process.peak_memory
        ended = WorkerEnded(
            status, started, reason, out_of_memory, tail, peak, process.within, process.memory_before if limited else 0
        )
        self.head.send(messages.framed(ended, process.number))


def greeting(memory: Offer | None) -> Greeting:
    """Return what the head has to know of this node before it sends anything."""
    return Greeting(
        protocol=frames.PROTOCOL_VERSION,
        python=sys.version.split()[0],
        hyperflow=__version__,
        dill=installed_version("dill"),
        host=socket.gethostname(),
        pid=os.getpid(),
        affinity=tuple(machine.affinity()),
        quota=machine.cpu_quota(),
        memory=memory,
        boot=machine.boot_id(),
        **findings.look()._asdict(),
    )


def main() -> NoReturn:
    """Run a launcher whose stream to the head is stdin and stdout, or one of its own."""
    in_fd, out_fd = own_stream.streams()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    watched = survivors.watch()
    scratch.share()
    processes.adopt_orphans()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(out_fd)
        keeper.keep(pid, in_fd, watched)
    processes.die_with_parent(signal.SIGTERM)
    processes.adopt_orphans()
    if os.getppid() != parent:
        os._exit(70)
    code = 0
    try:
        Launcher(in_fd, out_fd, watched).serve()
    except BaseException:  # noqa: BLE001 (it is printed, and the processes end in any case)
        traceback.print_exc()
        processes.end_descendants()
        code = 70
    scratch.remove_own()
    survivors.dismiss(watched)
    os._exit(code)
