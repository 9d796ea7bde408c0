"""Speculative tasks: they take what is idle, and give it back."""

from __future__ import annotations

from hyperflow.request import Capacity, Request
from hyperflow.scheduling.scheduler import Kill, Scheduler, Send
from hyperflow.scheduling.state import State, Task


def guess(number: int, **asks: object) -> Task:
    """Return a speculative task."""
    return Task(number, 1, request=Request(speculative=True, **asks))


def orders(to: Scheduler) -> tuple[list[int], list[int]]:
    """Return the tasks that are sent, and those whose workers are killed."""
    effects = to.schedule()
    sent = [task.number for effect in effects if isinstance(effect, Send) for task in effect.tasks]
    return sent, [effect.worker.current for effect in effects if isinstance(effect, Kill)]


def end(to: Scheduler, task: Task) -> list[int]:
    """The task's worker has ended; return what waits again."""
    assert task.worker is not None
    within, back = to.ended(task.worker.number, task.seq)
    assert within is None
    return [one.number for one in back]


def test_who_is_wanted_gets_what_is_lent() -> None:
    """A speculative task runs on an idle CPU; it ends at once when somebody else wants that, and waits again."""
    it = Scheduler()
    it.add_node("a", range(2))
    guesses = [guess(1), guess(2), guess(3)]
    for one in guesses:
        it.submit(one)
    assert orders(it) == ([1, 2], [])
    assert it.pool.cpus_free == 0

    wanted = Task(4, 1)
    it.submit(wanted)
    assert orders(it) == ([], [2])  # the newest one
    assert it.waiting == 2
    assert end(it, guesses[1]) == [2]
    assert orders(it) == ([4], [])
    assert guesses[1].state is State.WAITING

    assert wanted.worker is not None
    it.answered(wanted.worker.number, 4, 1.0)
    assert orders(it) == ([2], [])


def test_a_guess_that_is_wanted_stays() -> None:
    """What it has is its own from then on."""
    it = Scheduler()
    it.add_node("a", range(1), Capacity(gpus=("0",), memory=100))
    it.set_tokens({"licence": 1})
    first, second = guess(1, gpus=0.5, memory=50, resources=(("licence", 1),)), guess(2)
    it.submit(first)
    it.submit(second)
    assert orders(it) == ([1], [])
    it.want(first)
    it.want(second)
    it.submit(Task(3, 1))
    assert orders(it) == ([], [])
    assert it.pool.gpus == (1, 0.5)
    assert it.pool.memory == (100, 50)
    assert (it.pool.tokens["licence"].free, it.pool.tokens["licence"].lent) == (0, 0)

    assert first.worker is not None
    it.answered(first.worker.number, 1, 1.0)
    assert orders(it) == ([2], [])
    it.settle()
    assert it.pool.gpus == (1, 1.0)
    assert it.pool.tokens["licence"].free == 1


def test_only_who_is_in_the_way_ends() -> None:
    """A GPU is wanted: who has another one, or none, goes on."""
    it = Scheduler()
    it.add_node("a", range(4), Capacity(gpus=("0", "1")))
    guesses = [guess(1), guess(2, gpus=1), guess(3, gpus=1)]
    for one in guesses:
        it.submit(one)
    assert orders(it) == ([1, 2, 3], [])
    it.submit(Task(4, 1, request=Request(gpus=1)))
    sent, killed = orders(it)
    assert (sent, len(killed)) == ([], 1)
    assert killed[0] in (2, 3)


def test_a_promise_is_taken_back() -> None:
    """Cancelled while others make room, a task leaves nothing."""
    it = Scheduler()
    it.add_node("a", range(1))
    first = guess(1)
    it.submit(first)
    orders(it)
    wanted = Task(2, 1)
    it.submit(wanted)
    assert orders(it) == ([], [1])
    it.cancel(wanted)
    assert (it.waiting, it.pool.free) == (0, 1)
    assert end(it, first) == [1]
    assert orders(it) == ([1], [])
