"""The tasks that are with no worker: a queue for each thing that may be asked for, each in the order of submission.

What is cancelled while it waits stays in its queue until that comes to it; to look for it would cost O(waiting). What
comes back (from a worker that has ended, say) goes to its place by its number, before what is younger.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable
from operator import attrgetter

from hyperflow.scheduling.state import CANCELLED, ENDED, NOT_SENT, WAITING, Batch, Key, Task

_number = attrgetter("number")


class Waiting:
    """All tasks that wait."""

    def __init__(self) -> None:
        self.count = 0
        """How many wait: each one of a batch is one."""
        self.queues: dict[Key, deque[Task]] = defaultdict(deque)
        """By what they ask for; each ordered by number."""
        self.more: Counter[Key] = Counter()
        """How many more tasks wait in each queue than it has entries, because there are batches."""

    def add(self, task: Task) -> None:
        """A task is to be run after all that wait."""
        self.queues[task.request].append(task)
        self.count += 1

    def add_batch(self, batch: Batch) -> None:
        """The same for many."""
        self.queues[batch.cpus].append(batch)
        self.more[batch.cpus] += batch.count - 1
        self.count += batch.count

    def requests(self) -> list[Key]:
        """Return what is asked for."""
        return [request for request in list(self.queues) if self.oldest(request) is not None]

    def oldest(self, request: Key) -> Task | None:
        """Return the oldest of those that ask for this."""
        tasks = self.queues[request]
        while tasks and tasks[0].state is not WAITING:  # cancelled while it waited; no batch, see withdraw
            tasks.popleft()
        return tasks[0] if tasks else None

    def left(self, request: Key) -> int:
        """Return how many ask for this; also some that were cancelled."""
        return len(self.queues[request]) + self.more[request]

    def pop(self, request: Key, most: int = 1) -> Task:
        """Take out the oldest, of a batch so many."""
        queue = self.queues[request]
        task = queue[0]
        if type(task) is not Batch:
            queue.popleft()
        elif task.count > most:
            task = task.cut(most)
            self.more[request] -= most
        else:
            queue.popleft()
            self.more[request] -= task.count - 1
        self.count -= task.count
        return task

    def put_back(self, tasks: Iterable[Task]) -> list[Task]:
        """Let tasks wait again, in the order of their numbers; return them without those that were cancelled."""
        again = [task for task in tasks if task.state is not CANCELLED]
        sizes = defaultdict[Key, list[Task]](list)
        for task in again:
            task.state = WAITING
            task.worker = task.team = None
            task.seq = NOT_SENT
            self.count += task.count
            sizes[task.request].append(task)
            if task.count > 1:
                self.more[task.cpus] += task.count - 1
        for request, back in sizes.items():
            waiting = self.queues[request]
            # What comes back is mostly older than all that waits, so only a few in front are looked at.
            newest = max(task.number for task in back)
            while waiting and waiting[0].number < newest:
                back.append(waiting.popleft())
            back.sort(key=_number)
            if waiting:
                back.append(waiting.popleft())  # it may go on where what comes back ends
            joined = _joined(back)
            waiting.extendleft(reversed(joined))
            if len(joined) < len(back):
                self.more[request] += len(back) - len(joined)
        return again

    def take_out(self, tasks: Collection[Task]) -> list[Task]:
        """Take tasks out of their queues, none of which is a batch; return those that were in one."""
        chosen, taken = set(tasks), list[Task]()
        for request in {task.request for task in tasks}:
            queue = self.queues.get(request, ())
            taken += [task for task in queue if task in chosen]
            left = deque(task for task in queue if task not in chosen)
            if left:
                self.queues[request] = left
            else:
                self.queues.pop(request, None)
        self.count -= len(taken)
        return taken

    def withdraw(self, owner: object) -> list[Batch]:
        """Take out all batches of a map."""
        found: list[Batch] = []
        for request, waiting in self.queues.items():
            mine = [task for task in waiting if type(task) is Batch and task.calls.owner is owner]
            if mine:
                self.queues[request] = deque(t for t in waiting if type(t) is not Batch or t.calls.owner is not owner)
                self.more[request] -= sum(batch.count - 1 for batch in mine)
                self.count -= sum(batch.count for batch in mine)
                found += mine
        return found

    def move(self, task: Task, key: Key) -> None:
        """A task that waits asks for something else now than when it was added with this key."""
        self.queues[key].remove(task)
        self.count -= 1
        self.put_back([task])

    def take_all(self, requests: Iterable[Key]) -> list[Task]:
        """Take out those that ask for one of these; they have ended."""
        taken: list[Task] = []
        for request in requests:
            taken += [task for task in self.queues.pop(request) if task.state is WAITING]
            del self.more[request]
        taken.sort(key=_number)
        for task in taken:
            self.count -= task.count
            task.state = ENDED
        return taken

    def single_out_all(self) -> list[tuple[Batch, list[Task]]]:
        """Make each of all batches a task of its own."""
        found: list[tuple[Batch, list[Task]]] = []
        for request, waiting in self.queues.items():
            apart: deque[Task] = deque()
            for entry in waiting:
                if type(entry) is Batch:
                    found.append((entry, [entry.one(number) for number in entry.numbers]))
                    apart.extend(found[-1][1])
                else:
                    apart.append(entry)
            self.queues[request] = apart
        self.more.clear()
        return found


def _joined(tasks: Iterable[Task]) -> list[Task]:
    """Return tasks that wait with batches put together: else what comes back again and again would be ever smaller."""
    joined: list[Task] = []
    for task in tasks:
        last = joined[-1] if joined else None
        both = last.with_next(task) if type(last) is Batch else None
        if both is not None:
            joined[-1] = both
        else:
            joined.append(task)
    return joined
