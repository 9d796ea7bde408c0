"""Deadlines: what a launcher tells a worker of ends."""

import math
import mmap
import time

from hyperflow.wire.answer_ring import PAGES, AnswerRing
from hyperflow.wire.claim_page import ClaimPage
from hyperflow.wire.deadlines import LIMIT, NEAR, NODE, Deadlines


def test_the_first_end_counts() -> None:
    """Of the node, or of the evaluation's time limit; none is for ever."""
    page = mmap.mmap(-1, PAGES)
    launcher, worker = Deadlines(page), Deadlines(page)
    assert worker.time_left() == math.inf
    assert not worker.is_ending()
    now = time.monotonic()
    launcher.put(NODE, now + 5000, now + 4000)
    assert 4900 < worker.time_left() <= 5000
    launcher.limit(1000, now)
    assert 900 < worker.time_left() <= 1000
    assert not worker.is_ending()
    launcher.put(LIMIT, math.inf, math.inf)
    assert worker.time_left() > 4000
    launcher.put(NODE, now + 5000, now)
    assert worker.is_ending()
    launcher.put(NODE, now - 1, now - 2)
    assert worker.time_left() == 0


def test_when_a_time_limit_is_near() -> None:
    """In its last tenth, or its last minute."""
    page = mmap.mmap(-1, PAGES)
    deadlines, now = Deadlines(page), time.monotonic()
    for limit, near in ((10, 1.0), (100_000, NEAR)):
        deadlines.limit(limit, now)
        end, soon = deadlines.moments[LIMIT : LIMIT + 2]
        assert math.isclose(end - soon, near, rel_tol=1e-3)


def test_it_is_in_nobody_elses_way() -> None:
    """Its words are neither those of the claim page nor those of the ring."""
    page = mmap.mmap(-1, PAGES)
    Deadlines(page).limit(10, 5.0)
    Deadlines(page).put(NODE, 1.0, 1.0)
    assert ClaimPage(page).started == 0
    assert AnswerRing(page).look() == 0
