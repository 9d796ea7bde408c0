"""What does a decision of the scheduler cost, and how does that grow from 3 to 1,000 nodes? The core alone."""

import gc
import time
from collections import deque
from collections.abc import Mapping

from benchmarks.harness import Figures, Question, scaled
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import Fork, Send, Task, Worker

CPUS = 64
TASKS = scaled(500_000)
"""In each of two shapes."""
TURN = 100
"""Answers that come in one turn of the event loop, however many nodes there are."""
LONG, SHORT = 10.0, 1e-5
"""Seconds that a task says it took: of long ones none is queued ahead, of short ones many."""


class Driver:
    """Stands for the engine and all launchers: submits, carries out, answers in the order in which it was sent."""

    def __init__(self, nodes: int) -> None:
        self.scheduler = Scheduler()
        for number in range(nodes):
            self.scheduler.add_node(f"node{number}", range(CPUS))
        self.workers = 0
        self.submitted = 0
        self._sent: deque[tuple[Worker, Task]] = deque()

    def submit(self, count: int) -> None:
        """Submit so many tasks."""
        for number in range(self.submitted + 1, self.submitted + count + 1):
            self.scheduler.submit(Task(number, 1, size=100))
        self.submitted += count

    def turn(self, answers: int, seconds: float) -> None:
        """One turn of the event loop: answers come, and what the scheduler then decides is carried out."""
        for _ in range(answers):
            worker, task = self._sent.popleft()
            if self.scheduler.answered(worker.number, task.number, seconds) is not task:
                raise AssertionError(f"the answer of {task} was not taken")
        for effect in self.scheduler.schedule():
            if type(effect) is Send:
                worker = effect.worker
                self._sent.extend([(worker, task) for task in effect.tasks])
            elif type(effect) is Fork:
                self.workers += 1

    def finish(self, seconds: float) -> None:
        """Answer until nothing is left."""
        while self._sent:
            self.turn(min(TURN, len(self._sent)), seconds)


def drive(nodes: int) -> Figures:
    """Return microseconds of CPU per task, from its submission to its end, once the workers are up."""
    gc.disable()  # what a collection costs depends on what else there is in a program, not on the scheduler
    # As they come: each answer brings a new task, and all CPUs are busy all the time.
    driver = Driver(nodes)
    busy = nodes * CPUS
    began = time.process_time()
    driver.submit(busy)
    driver.turn(0, LONG)
    up = time.process_time()
    for _ in range(TASKS // TURN):
        driver.submit(TURN)
        driver.turn(TURN, LONG)
    as_they_come = time.process_time() - up
    driver.finish(LONG)
    # All at once: everything is submitted first, and is queued ahead at the workers. Those are up already.
    started = time.process_time()
    driver.submit(TASKS)
    driver.turn(0, SHORT)
    driver.finish(SHORT)
    at_once = time.process_time() - started
    if driver.workers != busy or driver.scheduler.waiting or driver.scheduler.sent:
        raise AssertionError("something is left over")
    return {
        "value": (as_they_come + at_once) / (2 * TASKS) * 1e6,
        "as_they_come_us": as_they_come / TASKS * 1e6,
        "all_at_once_us": at_once / TASKS * 1e6,
        "each_worker_us": (up - began) / busy * 1e6,
    }


def three() -> Figures:
    """Drive 3 nodes."""
    return drive(3)


def thirty() -> Figures:
    """Drive 30 nodes."""
    return drive(30)


def three_hundred() -> Figures:
    """Drive 300 nodes."""
    return drive(300)


def thousand() -> Figures:
    """Drive 1,000 nodes."""
    return drive(1000)


def reached(medians: Mapping[str, Figures]) -> bool:
    """It grows by less than half."""
    return medians["1,000 nodes"]["value"] < 1.5 * medians["3 nodes"]["value"]


QUESTION = Question(
    key="scheduler",
    title="the scheduler core alone, nodes of 64 CPUs, a million tasks",
    unit="us of CPU for each task",
    better="lower",
    goal="grows by less than half from 3 to 1,000 nodes",
    contestants={
        "3 nodes": "benchmarks.scheduler:three",
        "30 nodes": "benchmarks.scheduler:thirty",
        "300 nodes": "benchmarks.scheduler:three_hundred",
        "1,000 nodes": "benchmarks.scheduler:thousand",
    },
    reached=reached,
    limit=300,
)
