"""Queues that a launcher keeps for its node: the head sends batches to a team, and its answers come back joined.

Guarantees: a crash is charged to the task that ran (`lost`): what its worker had in hand besides goes to the front of
the queue, and nobody hears of it. What a worker has answered goes to the head before anything else that is said of it.
A worker leaves its team only when it has nothing in hand, the queue is empty, and nobody has anything to give away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from hyperflow.launcher import child
from hyperflow.launcher.head_stream import ENOUGH, HeadStream
from hyperflow.launcher.stretches import Range, Stretch
from hyperflow.launcher.team import HAND_BYTES, IDLE, SILENCE, Member, Team
from hyperflow.wire import frames
from hyperflow.wire.answer_ring import TEAM_WAKE
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import CANCELLED
from hyperflow.wire.numbers import TaskNumber, WorkerNumber

JOIN = 0.001
"""Seconds that answers of workers with several tasks in hand may wait for others, to go to the head together."""

JOIN_SHARE, JOIN_MOST = 0.05, 0.1
"""They may wait longer where their tasks take long: for this share of their time, at most so many seconds."""

WORTH_JOINING = 2
"""They wait only if so many messages are to be expected meanwhile."""

DEEP = 0.03
"""Where so many seconds of work wait for each worker, answers wait for TEAM_WAKE: nobody runs out of work meanwhile."""

MOST_UNHEARD = 2
"""Frames of answers that may be on their way to a head that has not read them; what is answered meanwhile goes together
in the next one. Else a head that is late would find ever more frames, of one answer each."""

HANDLED = frozenset(map(int, (Kind.JOIN, Kind.BATCH, Kind.RECALL, Kind.CANCEL)))
"""What the head says to teams."""


class Teams:
    """All teams of a node.

    Args:
        forward: Sends a frame to a worker.
        look: Reads all that a worker has answered, which comes to `answered`.
        kill: Ends a worker, for a reason.
        held: Those that wait for a block.
    """

    def __init__(
        self,
        head: HeadStream,
        workers: Mapping[WorkerNumber, child.WorkerProcess],
        held: Mapping[WorkerNumber, object],
        forward: Callable[[child.WorkerProcess, bytes], None],
        look: Callable[[child.WorkerProcess], None],
        kill: Callable[[child.WorkerProcess, str], None],
        wake_by: Callable[[float], None],
    ) -> None:
        self._head = head
        self._workers = workers
        self._held = held
        self._forward = forward
        self._look = look
        self._kill = kill
        self._wake_by = wake_by
        self._teams: dict[WorkerNumber, Team] = {}
        self._of: dict[WorkerNumber, Team] = {}
        self._ordered: set[Team] = set()  # those to which the head has just said something
        self._kept = 0  # bytes of answers that were not told yet
        self._unheard = 0  # frames of answers that the head has not read, as far as is known

    # ---- from the head ------------------------------------------------------------------------------------------

    def handle(self, kind: int, number: WorkerNumber, body: memoryview) -> None:
        """Do what the head says to a team."""
        team = self._teams.get(number)
        if team is None:
            team = self._teams[number] = Team(number)
        if kind == Kind.BATCH:
            team.queue.add(Stretch.read(body))
        elif kind == Kind.JOIN:
            for (worker,) in frames.NUMBER.iter_unpack(body):
                self._join(team, WorkerNumber(worker))
        elif kind == Kind.RECALL:
            self._recall(team, *frames.NUMBER.unpack(body))
        else:
            self._cancel(team, *frames.RANGE.unpack(body))
        self._ordered.add(team)

    def heard(self, count: int) -> None:
        """The head has read so many frames of answers, and all that had come besides."""
        self._unheard -= count
        if self._kept:
            self._head.expect(time.monotonic())

    def settle(self) -> None:
        """Act on all that the head has said: not before, for workers that join may be told what to do only then."""
        ordered, self._ordered = self._ordered, set()
        for team in ordered:
            self._supply(team)

    def _join(self, team: Team, worker: WorkerNumber) -> None:
        process = self._workers.get(worker)
        if process is None or process.status is not None:
            return  # the head will hear that it has ended
        sent = process.sent + process.shift
        stale = process.sent if process.claims.started < sent else 0
        team.members[worker] = Member(worker, process.claims, sent, stale)
        self._of[worker] = team

    def _recall(self, team: Team, most: int) -> None:
        """Give back the newest ones, those first that no worker has in hand."""
        if most > team.queue.count:
            for member in team.members.values():
                if member.unstarted:
                    self._take_back(team, member)
        self._recalled(team, team.queue.recall(most))

    def _cancel(self, team: Team, first: int, count: int) -> None:
        gone = team.queue.drop(first, count)
        for member in list(team.members.values()):
            if not member.has(first, count):
                continue
            if member.unstarted:
                self._take_back(team, member)
                gone += team.queue.drop(first, count)
            process = self._workers[member.number]
            self._look(process)
            if first <= member.running() < first + count:
                self._kill(process, CANCELLED)
        self._recalled(team, gone)

    def _recalled(self, team: Team, ranges: Iterable[Range]) -> None:
        self.speak()
        body = b"".join(frames.RANGE.pack(*each) for each in ranges)
        self._head.send(frames.frame(Kind.RECALLED, team.number, body))

    # ---- from workers -------------------------------------------------------------------------------------------

    def serves(self, worker: WorkerNumber) -> bool:
        """Whether a worker serves a team."""
        return worker in self._of

    def answered(self, process: child.WorkerProcess, records: frames.Bytes, in_hand: int, now: float) -> None:
        """A member has answered, and says whether it has more in hand."""
        team = self._of[process.number]
        member = team.members[process.number]
        count, seconds = member.progress(now)
        if count > 0:
            team.learn(count, seconds)
        member.answered(records, in_hand)
        if member.is_odd:
            records, again = member.sifted(records)
            team.queue.put_back(again)
        if len(records):
            team.parts.append((process.number, now, records))
            self._kept += len(records)
            self._head.expect(self._moment(team, records, now))
        self._supply(team, member)

    def _moment(self, team: Team, records: frames.Bytes, now: float) -> float:
        """Return by when answers are to go to the head: at once, unless there is more to do, or to be told soon."""
        if self._kept >= ENOUGH:
            return 0.0
        if team.work >= DEEP:
            return now + TEAM_WAKE
        seconds: float = frames.RESULT.unpack_from(records)[2]  # of the first; the others mostly take as long
        joined = max(min(seconds * JOIN_SHARE, JOIN_MOST), JOIN)
        if not team.queue.count and joined * len(team.members) <= WORTH_JOINING * max(seconds, TEAM_WAKE):
            return 0.0
        return now + joined

    def lost(self, process: child.WorkerProcess) -> TaskNumber:
        """A worker has ended, and its last answers were read: return the task that it was in, or 0."""
        team = self._of.pop(process.number, None)
        if team is None:
            return TaskNumber(0)
        member = team.members.pop(process.number)
        within = member.running()
        team.queue.put_back(member.rest())
        self._supply(team)
        return within

    def released(self, worker: WorkerNumber) -> None:
        """A worker does not wait for a block any more."""
        if (team := self._of.get(worker)) is not None:
            self._supply(team)

    # ---- handing out --------------------------------------------------------------------------------------------

    def _supply(self, team: Team, first: Member | None = None) -> None:
        """Give members what they are to have: one after it has answered, and all who are idle."""
        if first is not None:
            self._hand(team, first)
        idle = [each for each in team.members.values() if each.is_idle and not self._workers[each.number].is_ending]
        while idle:
            for member in idle:
                self._hand(team, member)
            idle = [each for each in idle if each.is_idle]
            if team.queue.count or not idle or not self._gathered(team):
                break
        if idle and not team.queue.count:
            self._let_go(team, idle)
        if not team.members and not team.queue.count:
            self.speak()
            if self._teams.get(team.number) is team:  # else it ended before, and what came since is for a new one
                del self._teams[team.number]

    def _hand(self, team: Team, member: Member) -> None:
        process = self._workers[member.number]
        if not team.queue.count or member.number in self._held or process.is_ending:
            return
        if (count := team.ration(member)) > 0:
            stretch = team.queue.take(count, HAND_BYTES)
            member.give(stretch, time.monotonic())
            process.shift += stretch.count
            self._forward(process, stretch.frame(member.number))
            if member.unstarted and team.look_at == math.inf:
                self._look_at(team, SILENCE)

    def _gathered(self, team: Team) -> bool:
        """Take back from who has most in hand, for those who have nothing; False if that is nothing, or to come."""
        best = team.most_unstarted()
        if best is None:
            return False
        if not team.is_worth(best.unstarted) and time.monotonic() < team.look_at:
            self._look_at(team, IDLE)
            return False
        return self._take_back(team, best)

    def _take_back(self, team: Team, member: Member) -> bool:
        back = member.take_back()
        team.queue.put_back(back)
        return bool(back)

    def _let_go(self, team: Team, idle: list[Member]) -> None:
        """Tell the head who has nothing to do, unless others may have something to give away soon."""
        if team.most_unstarted() is not None:
            self._look_at(team, IDLE)
            return
        if self._head.due <= time.monotonic():
            self.speak(patient=True)
        if team.parts:
            return  # they leave when their answers go
        idle = [each for each in idle if each.number in team.members]
        if not idle:
            return  # they left just now
        for member in idle:
            del team.members[member.number], self._of[member.number]
        body = b"".join(frames.NUMBER.pack(each.number) for each in idle)
        self._head.send(frames.frame(Kind.LEFT, team.number, body))

    # ---- clocks -------------------------------------------------------------------------------------------------

    def _look_at(self, team: Team, seconds: float) -> None:
        team.look_at = min(team.look_at, time.monotonic() + seconds)
        self._wake_by(team.look_at)

    def moments(self) -> Iterator[float]:
        """Yield when to check."""
        for team in self._teams.values():
            yield team.look_at

    def check(self, now: float) -> None:
        """Look who starts nothing."""
        for team in list(self._teams.values()):
            if now < team.look_at:
                continue
            silent = [each for each in team.members.values() if team.is_silent(each, now)]
            for member in silent:
                self._take_back(team, member)
            self._supply(team)
            team.look_at = math.inf
            if team.most_unstarted() is not None:
                self._look_at(team, IDLE if any(each.is_idle for each in team.members.values()) else SILENCE)

    def put_off(self, seconds: float) -> None:
        """All stood still for so long."""
        for team in self._teams.values():
            for member in team.members.values():
                member.moment += seconds

    # ---- to the head --------------------------------------------------------------------------------------------

    def speak(self, patient: bool = False) -> None:
        """Tell the head all answers that wait; if there is time, not before it has read the last ones."""
        if not self._kept or (patient and self._unheard >= MOST_UNHEARD):
            return
        self._kept = 0
        now = time.monotonic()
        for team in list(self._teams.values()):
            if team.parts:
                parts, team.parts = team.parts, []
                found = [(worker, max(now - moment, 0.0), records) for worker, moment, records in parts]
                self._head.send(*frames.records_frame(Kind.ANSWERS, team.number, frames.answers(found)))
                self._unheard += 1
                if not team.queue.count:
                    self._supply(team)

    def close(self) -> None:
        """All ends: hand out nothing more."""
        self.speak()
        self._teams.clear()
        self._of.clear()
