"""Tests of how many allocations what waits is worth."""

import math

from hypothesis import given
from hypothesis import strategies as st

from hyperflow.head.capacity import Supply
from hyperflow.pools.demand import Need, Standing, needed
from hyperflow.pools.kinds import Kind, Room
from hyperflow.request import PLAIN, Request, Want
from hyperflow.slurm.script import SbatchOptions

SMALL = SbatchOptions(ntasks_per_node=4, time="1:00:00")
LARGE = SbatchOptions(ntasks_per_node=16, gres="gpu:2", mem="64G", time="4:00:00")


def _kinds(*options: SbatchOptions) -> list[Kind]:
    return [Kind.of(number, each) for number, each in enumerate(options)]


def _needed(
    *wants: Want,
    kinds: tuple[SbatchOptions, ...] = (SMALL, LARGE),
    up: int = 0,
    free: int = 0,
    closed: tuple[int, ...] = (),
) -> Need:
    standing = [Standing(Room(4, seconds=3600.0), 1) for _ in range(up)]
    return needed(wants, _kinds(*kinds), standing, free, 60.0, closed)


def test_nothing_waits() -> None:
    """Then nothing is needed."""
    assert _needed() == Need((0, 0), "nothing waits")


def test_work_over_target() -> None:
    """480 evaluations of a second keep two allocations of four CPUs busy for a minute."""
    need = _needed(Want(PLAIN, 480, 1.0))
    assert need.allocations == (2, 0)
    assert "480 evaluations wait, 480 CPU seconds" in need.why


def test_never_more_than_can_be_occupied() -> None:
    """Ten evaluations of an hour are worth three allocations of four CPUs, and not 150; a short one is worth one."""
    assert _needed(Want(PLAIN, 10, 3600.0)).allocations == (3, 0)
    assert _needed(Want(PLAIN, 1, 0.001)).allocations == (1, 0)


def test_what_is_up_will_do() -> None:
    """Short work does not need more beside what is up; evaluations of an hour get no help of busy nodes."""
    assert _needed(Want(PLAIN, 100, 1.0), up=1).allocations == (0, 0)
    assert _needed(Want(PLAIN, 480, 1.0), up=1).allocations == (2, 0)  # the first half second goes to what runs
    assert _needed(Want(PLAIN, 8, 3600.0), up=5).allocations == (2, 0)
    assert _needed(Want(PLAIN, 8, 3600.0), up=5, free=8).allocations == (0, 0)


def test_unknown_time() -> None:
    """One allocation first; it tells how long they take."""
    assert _needed(Want(PLAIN, 1000)).allocations == (1, 0)
    assert _needed(Want(PLAIN, 1000), up=1).allocations == (0, 0)


def test_kinds() -> None:
    """The first kind that fits counts: by CPUs, GPUs, memory and time; one that is held is passed over."""
    assert _needed(Want(Request(8), 1, 60.0)).allocations == (0, 1)
    assert _needed(Want(Request(gpus=0.5), 8, 60.0)).allocations == (0, 2)
    assert _needed(Want(Request(memory=32 << 30), 4, 60.0), kinds=(LARGE,)).allocations == (2,)
    assert _needed(Want(Request(min_time=7200), 1, 60.0)).allocations == (0, 1)
    assert _needed(Want(PLAIN, 4, 60.0), closed=(0,)).allocations == (0, 1)


def test_what_fits_nothing() -> None:
    """It is worth nothing, and is told."""
    need = _needed(Want(Request(64), 3, 60.0), Want(PLAIN, 4, 60.0), closed=(1,))
    assert need.allocations == (1, 0)
    assert need.unfit == 3
    assert "3 fit no allocation" in need.why


def test_several_nodes() -> None:
    """What runs on two nodes at a time needs two allocations of one, or one of two."""
    want = Want(Request(4, nodes=2), 1, 1.0)
    assert _needed(want, kinds=(SMALL,)).allocations == (2,)
    assert _needed(want, kinds=(SMALL.changed(nodes=2),)).allocations == (1,)


def test_several_nodes_where_some_are_up() -> None:
    """Nodes that are up count for what needs several, but they are not enough: the others are asked for, too, and those
    that are up are kept for it."""
    for seconds in (None, 0.01, 60.0):
        need = _needed(Want(Request(4, nodes=2), 1, seconds), kinds=(SMALL,), up=1)
        assert (need.allocations, need.gathering) == ((1,), {0})
    assert _needed(Want(Request(4, nodes=2), 1, 0.01), kinds=(SMALL,), up=2).allocations == (0,)
    assert _needed(Want(Request(4, nodes=2), 1), kinds=(SMALL,), up=2).allocations == (0,)


def test_what_a_node_was_seen_to_have() -> None:
    """Memory and time that nobody asked for are known when a node was there: what does not fit is not asked for again.
    Nor is what an allocation lasts too short for, when it is up."""
    want = Want(Request(memory=8 << 30), 1)
    kind = Kind.of(0, SbatchOptions())
    assert needed([want], [kind], [], 0, 60.0).allocations == (1,)
    assert needed([want], [kind.having(Room(1, 0, 4 << 30, 600.0))], [], 0, 60.0) == Need(
        (0,), "1 evaluation waits; 1 fit no allocation that may be asked for now", 1
    )
    assert kind.having(Room(1, 0, 0, 600.0)).having(Room(2, seconds=300.0)).room() == Room(2, 0, 0, 540.0)
    assert not _needed(Want(Request(min_time=3600.0), 1), kinds=(SMALL,)).allocations[0]
    assert kind.node_kind(2).capacity.gpus == ()
    gpus = Kind.of(0, SbatchOptions(nodes=2, ntasks_per_node=3, extra={"gpus-per-task": "a100:2"}))
    assert (gpus.gpus, Kind.of(0, SMALL, Supply(("0", "1"), 5)).room()) == (6, Room(4, 2, 5, 3540.0))


def test_speculation_is_worth_nothing() -> None:
    """It takes only what is idle."""
    assert _needed(Want(Request(speculative=True), 5, 60.0)).allocations == (0, 0)


_WANTS = st.builds(
    Want,
    st.builds(
        Request,
        cpus=st.integers(1, 20),
        gpus=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        min_time=st.sampled_from([0.0, 600.0, 1e5]),
        nodes=st.integers(1, 3),
        speculative=st.just(False),
        memory=st.none(),
        resources=st.just(()),
        avoided=st.just(frozenset[str]()),
    ),
    st.integers(1, 10_000),
    st.none() | st.floats(1e-5, 1e5),
)


@given(st.lists(_WANTS, max_size=6), st.integers(0, 5), st.integers(0, 8), st.sets(st.integers(0, 1)))
def test_bounds(wants: list[Want], up: int, free: int, closed: set[int]) -> None:
    """Something for what fits and has no node; nothing for what fits no kind; never more than can be occupied."""
    need = _needed(*wants, up=up, free=free, closed=tuple(closed))
    kinds = [kind for kind in _kinds(SMALL, LARGE) if kind.number not in closed]
    most = 0.0
    for want in wants:
        fitting = [kind for kind in kinds if kind.room().slots(want.request)]
        if fitting:
            slots = fitting[0].room().slots(want.request)
            most += want.number * want.request.nodes / slots + want.request.nodes
            if not up and not free:
                assert sum(need.allocations)
    assert sum(need.allocations) <= math.ceil(most) + len(kinds)
    assert all(not need.allocations[number] for number in closed)
