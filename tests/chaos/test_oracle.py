"""The oracle: each of its rules can fail, and a run in which all is well breaks none."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import oracle
from tests.chaos.case import Case
from tests.chaos.ledger import value_of
from tests.chaos.promises import Promise
from tests.chaos.run import Ended, Process, Run
from tests.chaos.workload import Workload


class Ran(Run):
    """A run that is over: two keys, all is well. A test adds what is not."""

    def __init__(self, place: Path) -> None:
        super().__init__(place, Workload(keys=2), random.Random(0))
        self.remaining: list[Process] = []
        self.over("descriptors", told="7")
        for key in range(2):
            self.over("start", key)
            self.over("end", key)
            self.over("ack", key, str(value_of(key)))
        self.over("descriptors", told="7")
        self.turn = 0
        self.turns = [Ended(0, "", 1.0)]

    def over(self, what: str, key: int = -1, told: str = "") -> None:
        """Note something in the first turn."""
        (self.place / "turn").write_text("0")
        self.ledger.note(what, key, told)

    def left(self) -> list[Process]:
        """Return what the test left."""
        return self.remaining

    def kill_all(self) -> None:
        """There is nothing."""


def wrong(run: Ran) -> None:
    """A value is not what the function returns."""
    run.over("ack", 0, "17")


def again(run: Ran) -> None:
    """A key starts after its acknowledgement."""
    run.over("start", 1)


def twice_at_once(run: Ran) -> None:
    """A task found its key taken."""
    run.over("taken", 1)


def shared(run: Ran) -> None:
    """A task found its lock held."""
    run.over("shared", 1)


def cancelled_and_started(run: Ran) -> None:
    """A key starts after it was cancelled."""
    run.workload = Workload(keys=3)
    run.over("cancelled", 2)
    run.over("start", 2)


def too_many(run: Ran) -> None:
    """A task found no seat."""
    run.over("crowded", 1)


def no_end(run: Ran) -> None:
    """The program had to be killed."""
    run.turns = [Ended(None, "", 40.0)]


def no_end_at_first(run: Ran) -> None:
    """It had to be killed in its first turn, and ended well in its second."""
    run.turns = [Ended(None, "", 40.0), Ended(0, "", 1.0)]


def failed(run: Ran) -> None:
    """The program failed."""
    run.turns = [Ended(1, "", 1.0)]


def one_missing(run: Ran) -> None:
    """A key has no result."""
    run.workload = Workload(keys=3)


def somebody_left(run: Ran) -> None:
    """A process is left."""
    run.remaining = [Process(1, 0, "worker", "python")]


def file_left(run: Ran) -> None:
    """A temporary file is left."""
    (run.place / "tmp" / "x").touch()


def descriptor_left(run: Ran) -> None:
    """A descriptor is left."""
    run.over("descriptors", told="7")
    (run.place / "ledger").unlink()
    for key in range(2):
        run.over("ack", key, str(value_of(key)))
    run.over("descriptors", told="7")
    run.over("descriptors", told="8")


def older(run: Ran) -> None:
    """The result of an older start of a job counts."""
    for start in ("first", "second"):
        run.over("began", 0, start)
    run.over("received", 0, "first")


def stranger(run: Ran) -> None:
    """Somebody else's pickle was unpickled."""
    run.over("stranger", told="call")


RULES: dict[Callable[[Ran], None], Promise] = {
    wrong: Promise.RIGHT,
    again: Promise.DURABLE,
    twice_at_once: Promise.ONCE,
    shared: Promise.LOCKS,
    cancelled_and_started: Promise.CANCELLED,
    too_many: Promise.CPUS,
    no_end: Promise.SETTLED,
    no_end_at_first: Promise.SETTLED,
    failed: Promise.WHOLE,
    one_missing: Promise.WHOLE,
    somebody_left: Promise.PROCESSES,
    file_left: Promise.CLEAN,
    descriptor_left: Promise.CLEAN,
    older: Promise.NEWEST,
    stranger: Promise.PRIVATE,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Give the test a run in which all is well; processes get no time to end."""
    monkeypatch.setattr(oracle, "GRACE", 0.01)
    monkeypatch.delenv("CHAOS_TURN", raising=False)
    return Ran(tmp_path / "run")


def test_all_is_well(run: Ran) -> None:
    """Nothing is broken."""
    assert oracle.judge(run) == []


@pytest.mark.parametrize("spoil", RULES)
def test_each_rule_can_fail(run: Ran, spoil: Callable[[Ran], None]) -> None:
    """What is not well is named by exactly the promise that it breaks."""
    spoil(run)

    assert [broken.promise for broken in oracle.judge(run)] == [RULES[spoil]]


def test_what_starts_twice_although_nothing_was_broken(run: Ran) -> None:
    """Is broken, where a fault would excuse it; what was cancelled needs no result."""
    (run.place / "ledger").unlink()
    for what in ("start", "start", "ack"):
        run.over(what, 0, str(value_of(0)))
    run.over("cancelled", 1)

    assert oracle.judge(run) == []
    assert [broken.promise for broken in oracle.judge(run, quiet=True)] == [Promise.ONCE]


def test_a_line_that_was_cut_has_not_happened(run: Ran) -> None:
    """A ledger whose last line is not whole counts without it."""
    with (run.place / "ledger").open("a") as ledger:
        ledger.write('["ack", 0, 0, "host", 1, "17"]')

    assert oracle.judge(run) == []


class Attacked(Ran):
    """A run whose first turn ended badly, and whose second ended well."""

    code = 1
    words = ""

    def start(self) -> None:
        """Begin the next turn."""
        self.turn += 1

    def wait(self, patience: float = 0) -> Ended:
        """End it."""
        self.turns.append(Ended(self.code if self.turn == 0 else 0, self.words, 1.0))
        return self.turns[-1]


@pytest.fixture
def attacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attacked:
    """Give the test a run before its start."""
    monkeypatch.setattr(oracle, "GRACE", 0.01)
    monkeypatch.delenv("CHAOS_TURN", raising=False)
    run = Attacked(tmp_path / "run")
    run.turn, run.turns = -1, []
    return run


def broken_by(case: Case, run: Run) -> list[Promise]:
    """Try a case."""
    return [broken.promise for broken in case.run(run)]


def test_a_run_may_end_badly(attacked: Attacked) -> None:
    """If its second turn ends well, a first turn that failed breaks nothing by itself."""
    assert broken_by(Case("table", "name"), attacked) == []
    assert len(attacked.turns) == 2


def test_a_run_that_has_to_survive(attacked: Attacked) -> None:
    """It has to end well at once, if the fault is nobody's fault."""
    assert broken_by(Case("table", "name", survives=True), attacked) == [Promise.WHOLE]


def test_what_has_to_be_told(attacked: Attacked) -> None:
    """A first turn that failed has to name the cause."""
    assert broken_by(Case("table", "name", told="disk full"), attacked) == [Promise.TOLD]


def test_what_was_told(attacked: Attacked) -> None:
    """By its output."""
    attacked.words = "the disk full of files"

    assert broken_by(Case("table", "name", told="disk full"), attacked) == []


def test_one_that_was_killed_tells_nothing(attacked: Attacked) -> None:
    """Nobody can ask that of it."""
    attacked.code = -9

    assert broken_by(Case("table", "name", told="disk full"), attacked) == []


def test_what_is_excused(attacked: Attacked) -> None:
    """A promise that a fault cannot but break is left out, and is no longer among those that the case tries."""
    case = Case("table", "name", told="disk full", excused={Promise.TOLD: "nobody is there to say it"})

    assert broken_by(case, attacked) == []
    assert Promise.TOLD not in case.promises


def test_what_was_damaged_may_be_lost_after_a_report(run: Ran) -> None:
    """And not before."""
    run.over("told", told="results.sqlite: page 3 is damaged")
    run.over("start", 1)

    assert oracle.judge(run, damage="damaged") == []
    assert [broken.promise for broken in oracle.judge(run, damage="removed")] == [Promise.DAMAGE]


def test_a_damaged_file_gives_no_wrong_value(run: Ran) -> None:
    """Whatever was reported."""
    run.over("told", told="results.sqlite: page 3 is damaged")
    run.over("ack", 1, "17")

    assert [broken.promise for broken in oracle.judge(run, damage="damaged")] == [Promise.RIGHT]
