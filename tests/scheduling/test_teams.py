"""Teams: what is alike goes to workers that serve one queue of their node, rule by rule."""

from __future__ import annotations

import attrs
import pytest

from hyperflow.scheduling import teams
from hyperflow.scheduling.prefetch import RESERVE_AHEAD, RESERVE_TASKS
from hyperflow.scheduling.scheduler import Scheduler
from hyperflow.scheduling.state import (
    Batch,
    Cancel,
    Effect,
    Feed,
    Fork,
    Join,
    Recall,
    Send,
    State,
    Task,
    Team,
    in_ranges,
    is_started,
)
from hyperflow.wire.numbers import DefinitionNumber, Seq, TaskNumber, WorkerNumber

QUICK, SLOW = 1e-3, 10.0


@attrs.frozen
class Calls:
    """What a batch is of."""

    owner: object
    alike: str = "a"


def scheduler(*nodes: int) -> Scheduler:
    """Return a scheduler with nodes a, b, c... of so many CPUs."""
    made = Scheduler()
    for name, cpus in zip("abcdefgh", nodes, strict=False):
        made.add_node(name, range(cpus))
    return made


def submit(it: Scheduler, first: int, count: int, alike: str = "a", cpus: int = 1, owner: object = None) -> Batch:
    """Submit a batch."""
    batch = Batch(TaskNumber(first), DefinitionNumber(1), cpus, 10, count, Calls(owner, alike))
    it.submit_batch(batch)
    return batch


def only(it: Scheduler) -> Team:
    """Return the one team that there is."""
    (team,) = it.teams.all.values()
    return team


def fed(effects: list[Effect]) -> dict[str, list[int]]:
    """Return what each node's teams are sent."""
    found: dict[str, list[int]] = {}
    for effect in effects:
        if isinstance(effect, Feed):
            found.setdefault(effect.team.node, []).extend(effect.batch.numbers)
    return found


def answer(it: Scheduler, team: Team, *numbers: int, seconds: float = SLOW) -> None:
    """A team answers these."""
    for number in numbers:
        del team.held[TaskNumber(number)]
    it.teams.answered(team, len(numbers), len(numbers) * seconds)


def leave(it: Scheduler, team: Team, count: int | None = None) -> None:
    """So many workers of a team have nothing to do, or all."""
    it.left(team.number, list(team.members)[:count])


def test_a_node_gets_its_share_at_once() -> None:
    """One order for all workers of a node, and one for what they are to do; all nodes get their share."""
    it = scheduler(4, 4)
    submit(it, 1, 6)
    effects = it.schedule()

    assert fed(effects) == {"b": [1, 2, 3], "a": [4, 5, 6]}
    assert [len(effect.workers) for effect in effects if isinstance(effect, Join)] == [3, 3]
    assert sum(isinstance(effect, Fork) for effect in effects) == 6
    assert (it.waiting, it.sent, it.pool.free) == (0, 6, 2)
    assert {state: count for state, count in it.states.items() if count} == {"busy": 6}


def test_what_differs_is_for_another_team() -> None:
    """Another name or epoch, another size; and single tasks go to workers of no team."""
    it = scheduler(8)
    submit(it, 1, 2)
    submit(it, 3, 2, alike="b")
    submit(it, 5, 1, cpus=2)
    it.submit(Task(TaskNumber(6), DefinitionNumber(1)))
    effects = it.schedule()

    assert sorted([*team.held] for team in it.teams.all.values()) == [[1, 2], [3, 4], [5]]
    assert [[task.number for task in effect.tasks] for effect in effects if isinstance(effect, Send)] == [[6]]
    assert all(worker.team is None or not worker.queue for worker in it.workers.values())


def test_nothing_is_in_reserve_of_what_nobody_knows() -> None:
    """The time of the function is not known yet: each worker has one; then there is a reserve."""
    it = scheduler(2)
    submit(it, 1, 5000)
    assert fed(it.schedule()) == {"a": [1, 2]}

    answer(it, only(it), 1, seconds=QUICK)
    it.schedule()

    assert len(only(it).held) == 2 + 0.1 / QUICK * 2
    assert it.teams.queued == len(only(it).held) - 2


def test_the_reserve_is_bounded() -> None:
    """However quick a function seems to be."""
    it = scheduler(1)
    submit(it, 1, 3 * RESERVE_TASKS)
    it.schedule()
    answer(it, only(it), 1, seconds=0.0)
    it.schedule()
    assert len(only(it).held) == 1 + RESERVE_TASKS


def test_what_takes_long_is_in_reserve_where_answers_are_many() -> None:
    """A thousand answers a second are expected: the head may come round late."""
    it = scheduler(60)
    submit(it, 1, 200)
    it.schedule()
    answer(it, only(it), 1, seconds=0.0625)
    it.schedule()
    assert len(only(it).held) == 59 + 1  # one for the worker that has answered

    it = scheduler(*[60] * 8)
    submit(it, 1, 20_000)
    it.schedule()
    for team in it.teams.all.values():
        answer(it, team, next(iter(team.held)), seconds=0.25)
    it.schedule()
    assert {len(team.held) for team in it.teams.all.values()} == {60 + 60 * RESERVE_AHEAD / 0.25}


def test_reserves_are_not_filled_for_each_answer() -> None:
    """A team has to have used half of its reserve."""
    it = scheduler(1)
    submit(it, 1, 1000)
    it.schedule()
    answer(it, only(it), 1, seconds=QUICK)
    it.schedule()
    held = [*only(it).held]
    answer(it, only(it), *held[:40], seconds=QUICK)
    assert not it.schedule()
    answer(it, only(it), *held[40:60], seconds=QUICK)
    assert len(fed(it.schedule())["a"]) == 60


def test_nothing_goes_past_what_is_older_and_of_another_size() -> None:
    """It waits for the node, and what is younger is in nobody's reserve."""
    it = scheduler(2)
    submit(it, 1, 2)
    it.schedule()
    submit(it, 3, 1, cpus=2)
    submit(it, 4, 50)
    answer(it, only(it), 1, seconds=QUICK)
    leave(it, only(it), 1)
    assert not it.schedule()
    answer(it, only(it), 2, seconds=QUICK)
    leave(it, only(it))
    assert fed(it.schedule()) == {"a": [3]}


def test_who_leaves_serves_what_waits_next() -> None:
    """It has its CPUs still: no way over the pool, and one order for all."""
    it = scheduler(3)
    submit(it, 1, 3)
    submit(it, 4, 3, alike="b")
    it.schedule()
    first = only(it)
    answer(it, first, 1, 2)
    leave(it, first, 2)
    effects = it.schedule()

    assert fed(effects) == {"a": [4, 5]}
    assert [len(effect.workers) for effect in effects if isinstance(effect, Join)] == [2]
    assert not any(isinstance(effect, Fork) for effect in effects)


def test_what_is_on_its_way_to_the_last_who_leaves() -> None:
    """A team that holds something has somebody; one that holds nothing is no more."""
    it = scheduler(1)
    submit(it, 1, 2)
    it.schedule()
    team = only(it)
    answer(it, team, 1)
    it.schedule()
    assert [*team.held] == [2]

    leave(it, team)
    (join,) = it.schedule()
    assert isinstance(join, Join)
    assert len(team.members) == 1

    answer(it, team, 2)
    leave(it, team)
    it.schedule()
    assert not it.teams.all
    assert (it.pool.free, it.states["idle"]) == (1, 1)


def recalls(it: Scheduler) -> list[int]:
    """Let it schedule, and return how many it recalls each time."""
    return [effect.most for effect in it.schedule() if isinstance(effect, Recall)]


def with_reserve(it: Scheduler, seconds: float = QUICK) -> Team:
    """Bring a node with two CPUs to have a reserve of 200."""
    submit(it, 1, 203)
    it.schedule()
    team = only(it)
    answer(it, team, 1, seconds=seconds)
    it.schedule()
    assert len(team.held) == 202
    return team


def test_a_free_cpu_takes_its_share_of_a_reserve() -> None:
    """What comes back goes there; nothing is asked for twice."""
    it = scheduler(2)
    team = with_reserve(it)
    it.add_node("b", range(2))
    assert recalls(it) == [100]
    assert recalls(it) == []

    back = it.recalled(team.number, [(TaskNumber(104), 100)])
    assert sum(task.count for task in back) == 100
    assert fed(it.schedule()) == {"b": [*range(104, 204)]}
    assert [len(one.held) for one in it.teams.all.values()] == [102, 100]


def test_who_gives_nothing_is_spared() -> None:
    """The workers have in hand what the team holds: the head asks less often."""
    it = scheduler(2)
    team = with_reserve(it)
    it.add_node("b", range(2))
    asked = 0
    for _ in range(100):
        if recalls(it):
            asked += 1
            it.recalled(team.number, [])
        it.rebalance()
    assert 3 <= asked <= 10
    assert team.in_vain == teams.MOST_IN_VAIN


def test_little_work_stays_where_it_is() -> None:
    """It ends sooner than it could come back."""
    it = scheduler(2)
    submit(it, 1, 100)
    it.schedule()
    team = only(it)
    answer(it, team, *list(team.held)[:1], seconds=1e-6)
    it.schedule()
    assert len(team.held) == 99
    it.add_node("b", range(2))
    assert recalls(it) == []
    it.rebalance()
    assert recalls(it) == [49]


def test_a_node_that_is_put_aside_gives_all_back() -> None:
    """Nothing more goes there, and who leaves stays idle."""
    it = scheduler(2, 0)
    team = with_reserve(it)
    it.put_aside("a")
    assert recalls(it) == [202]
    it.recalled(team.number, [(TaskNumber(4), 200)])
    assert it.schedule() == []

    it.take_back("a")
    answer(it, team, 2, 3)
    leave(it, team)
    assert fed(it.schedule())["a"]
    assert team not in it.teams.all.values()


def test_a_pause_takes_back_what_nobody_is_in() -> None:
    """What workers are in goes on."""
    it = scheduler(2)
    with_reserve(it)
    it.pause()
    assert recalls(it) == [202]


def test_a_team_without_workers_gives_all_back() -> None:
    """All of them have died."""
    it = scheduler(1)
    submit(it, 1, 3)
    it.schedule()
    team = only(it)
    (worker,) = team.members
    task = it.teams.single_out(team, team.held[TaskNumber(1)], TaskNumber(1))  # type: ignore[arg-type]
    assert it.ended(worker, Seq(1), TaskNumber(1)) == (task, [])
    assert task.state is State.ENDED
    assert it.pool.free == 1


def test_what_a_dead_team_held_comes_back() -> None:
    """It is asked for at once, and runs elsewhere."""
    it = scheduler(1)
    submit(it, 1, 3)
    it.schedule()
    team = only(it)
    answer(it, team, 1, seconds=QUICK)
    it.schedule()
    assert [*team.held] == [2, 3]
    (worker,) = team.members
    within, back = it.ended(worker, Seq(2), TaskNumber(0))
    assert (within, back) == (None, [])
    assert recalls(it) == [2]
    it.recalled(team.number, [(TaskNumber(2), 2)])
    assert not it.teams.all
    assert fed(it.schedule()) == {"a": [2, 3]}


def test_withdrawn_is_what_a_map_has_left() -> None:
    """What waits and what teams hold, in ranges; the rest of a team comes back, because some of its workers end."""
    it, mine, other = scheduler(4), object(), object()
    submit(it, 1, 2, owner=mine)
    submit(it, 3, 1, owner=other)
    submit(it, 4, 9, owner=mine)
    it.schedule()
    team = only(it)
    found = it.withdraw(mine)

    assert [number for batch in found for number in batch.numbers] == [1, 2, *range(4, 13)]
    assert all(batch.state is State.CANCELLED for batch in found)
    cancel, recall = it.schedule()
    assert isinstance(cancel, Cancel)
    assert cancel.ranges == [(1, 2), (4, 1)]
    assert isinstance(recall, Recall)
    assert ([*team.held], it.sent, it.waiting) == ([3], 1, 0)
    assert it.recalled(team.number, [(TaskNumber(1), 2)]) == []


def test_one_that_is_by_itself_stays_with_its_team() -> None:
    """Until it is answered, or cancelled."""
    it = scheduler(2)
    submit(it, 1, 2)
    it.schedule()
    team = only(it)
    ((_, tasks),) = it.single_out_all()
    assert [task.team for task in tasks] == [team, team]
    assert all(map(is_started, tasks))

    worker = next(iter(team.members))
    assert it.answered(worker, TaskNumber(1), SLOW) is tasks[0]
    it.cancel(tasks[1])
    assert (it.sent, it.waiting, tasks[1].state) == (0, 0, State.CANCELLED)
    assert [effect.ranges for effect in it.schedule() if isinstance(effect, Cancel)] == [[(2, 1)]]
    assert it.answered(worker, TaskNumber(2), SLOW) is None
    assert it.late == 1


def test_what_a_lost_node_held_waits_again() -> None:
    """Each by itself, as a suspect."""
    it = scheduler(2)
    submit(it, 1, 3)
    it.schedule()
    it.add_node("b", range(1))
    it.single_out_all(["a"])
    at = it.tasks_at("a")
    back, impossible = it.lose_node("a")
    assert [task.number for task in back] == [1, 2]
    assert impossible == []
    assert at == {1: (None, True), 2: (None, True)}
    assert all(task.past is not None and task.past.lost == ["a"] for task in back)
    assert (it.sent, it.waiting, len(it.teams.all)) == (0, 3, 0)


def test_a_team_that_has_fallen_behind_gives_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Younger ones would start before what it has in reserve; until it answers, it gets nothing."""
    monkeypatch.setattr(teams, "PATIENCE", 1)
    it = scheduler(1, 1)
    submit(it, 1, 5000)
    it.schedule()
    behind, other = it.teams.all.values()
    for team in (behind, other):
        answer(it, team, *team.held, seconds=QUICK)
    it.schedule()
    effects: list[Effect] = []
    for _ in range(4):
        answer(it, other, *list(other.held)[:80], seconds=QUICK)
        effects += it.schedule()
    assert behind.slow
    assert any(isinstance(effect, Recall) and effect.team is behind for effect in effects)


def test_news_of_a_team_that_is_no_more() -> None:
    """Nothing comes of it."""
    it = scheduler(1)
    it.left(WorkerNumber(7), [WorkerNumber(1)])
    assert it.recalled(WorkerNumber(7), [(TaskNumber(1), 2)]) == []


def test_ranges() -> None:
    """Consecutive numbers, as first and count."""
    assert in_ranges([TaskNumber(n) for n in (1, 2, 3, 7, 9, 10)]) == [(1, 3), (7, 1), (9, 2)]
    assert in_ranges([]) == []
