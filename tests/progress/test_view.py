"""Texts of progress: rows, rates, the time that is left."""

import pytest

from hyperflow.progress.tally import Course, Group, Snapshot
from hyperflow.progress.view import WINDOW, View


def seen(*moments: tuple[float, Snapshot], base: Snapshot | None = None) -> View:
    """Return what has seen a run at these moments; it began at 0."""
    view = View(0.0, base)
    for now, stands in moments:
        view.see(now, stands)
    return view


def stands(done: int, ended: int, cpus: int = 0, busy: int = 0, nodes: int = 0) -> Snapshot:
    """Return how a run with one function and one map stands."""
    groups = (Group("f", submitted=done + 4, done=done, running=3),)
    return Snapshot(groups, (Course("remote_map of f", ended, 100),), cpus, busy, nodes)


def test_rows() -> None:
    """Counts, rates, and the time that is left of a map with a known length."""
    view = seen((10.0, stands(20, 40, cpus=4, busy=3, nodes=1)))
    assert view.rows(10) == [
        ("f", "20", "3", "1", "", "2.0/s", ""),
        ("remote_map of f", "40", "", "60", "", "4.0/s", "15 s"),
    ]
    assert view.foot(2) == "3 of 4 CPUs busy, 1 node; 10 s"
    assert view.line() == "20 done, 3 running, 1 waiting; remote_map of f: 40 of 100, 15 s left; " + view.foot(2)
    assert view.last_line() == "20 done in 10 s, 4 CPUs"


def test_rates_are_those_of_late() -> None:
    """What was slow at first is forgotten after a while; where nothing has ended of late, all the time counts."""
    slow = [(float(t), stands(0, 0)) for t in range(100)]
    view = seen(*slow, *((float(t), stands(10 * (t - 99), 0)) for t in range(100, 100 + int(WINDOW))))
    assert view.rows(1)[0][5] == "10/s"
    view = seen((1.0, stands(60, 0)), *((60.0 * t, stands(60, 0)) for t in range(1, 61)))
    assert view.rows(1)[0][5] == "1.0/min"


@pytest.mark.parametrize(
    ("done", "seconds", "rate"),
    [(5000, 1.0, "5000/s"), (3, 2.0, "1.5/s"), (1, 40.0, "1.5/min"), (1, 7200.0, "0.5/h"), (0, 9.0, "")],
)
def test_rates_in_units_that_can_be_read(done: int, seconds: float, rate: str) -> None:
    """A number of at least one, where there is a unit for it."""
    assert seen((seconds, stands(done, 0))).rows(1)[0][5] == rate


def test_a_map_without_a_length() -> None:
    """Nobody knows when it ends."""
    view = seen((10.0, Snapshot((Group("f", 5, 5),), (Course("map of f", 5, None),))))
    assert view.rows(5)[1] == ("map of f", "5", "", "", "", "30/min", "")


def test_more_groups_than_rows() -> None:
    """Those that are under way are shown, and the others are counted."""
    groups = tuple(Group(f"f{number}", 1, int(number != 7)) for number in range(20))
    view = seen((1.0, Snapshot(groups)))
    rows = view.rows(3)
    assert [row[0] for row in rows] == ["f0", "f1", "f7"]
    assert view.foot(len(rows)).startswith("and 17 more; ")


def test_names_are_for_people() -> None:
    """Neither escape sequences nor line breaks reach the terminal, and none is long."""
    hostile = "\x1b]0;owned\x07\nf" + 100 * "x"
    view = seen((1.0, Snapshot((Group(hostile, 1, 1), Group("g", 2, 2)), (Course(hostile, 1, 3),), jobs=hostile)))
    text = "\n".join(cell for row in view.rows(9) for cell in row) + view.foot(3) + view.line() + view.last_line()
    assert text.replace("\n", "").isprintable()
    assert max(len(row[0]) for row in view.rows(9)) == 40


def test_a_spell() -> None:
    """What was there before is not counted again."""
    view = seen((2.0, stands(30, 0)), base=stands(20, 0))
    assert view.last_line() == "10 done in 2 s"


def test_the_last_line() -> None:
    """Failures are told, and the largest groups are named."""
    groups = (Group("a", 1, 1), Group("b", 9, 7, 2), Group("c", 3, 2, 0, 1), Group("d", 2, 2))
    view = seen((90.0, Snapshot(groups, cpus=1)))
    assert view.last_line() == "12 done, 2 failed, 1 cancelled in 1 min (b 9, c 3, d 2, ...), 1 CPU"


def test_looking_at_a_run_that_began_earlier() -> None:
    """Its age is told from its beginning, and rates from the first look on."""
    view = View(0.0)
    view.join(1000.0, stands(500, 0))
    assert (view.rows(1)[0][5], view.foot(2)) == ("", "16 min")
    view.see(1010.0, stands(520, 0))
    assert view.rows(1)[0][5] == "2.0/s"


def test_gpus_are_told_where_there_are_any() -> None:
    """Beside the CPUs, with fractions."""
    view = seen((10.0, stands(20, 40, cpus=4, busy=3, nodes=1)._replace(gpus=2, gpus_busy=1.5)))

    assert view.foot(2) == "3 of 4 CPUs, 1.5 of 2 GPUs busy, 1 node; 10 s"


def test_nodes_on_their_way_are_told() -> None:
    """Of a pool, also before any node is there."""
    view = seen((10.0, stands(20, 40, cpus=4, busy=3, nodes=1)._replace(nodes_asked=2)))
    assert view.foot(2) == "3 of 4 CPUs busy, 1 node, 2 asked for; 10 s"
    view = seen((10.0, stands(0, 40)._replace(nodes_asked=2)))
    assert view.foot(2) == "0 of 0 CPUs busy, 0 nodes, 2 asked for; 10 s"
