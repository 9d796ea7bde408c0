"""Job slots: first come, first served, and nobody's turn is lost."""

from hyperflow.master.shared import JobSlots


def test_slots_are_given_in_order() -> None:
    """A slot that becomes free goes to who has waited longest; who has one keeps it."""
    slots, told = JobSlots(2), list[int]()
    assert [slots.take(job, lambda job=job: told.append(job)) for job in range(1, 5)] == [True, True, False, False]  # type: ignore[misc]
    slots.give_back(2)
    assert told == [3]
    assert slots.take(3, lambda: None)
    assert not slots.take(5, lambda: told.append(5))
    slots.give_back(1)
    slots.give_back(3)
    assert told == [3, 4, 5]


def test_a_turn_that_is_not_taken() -> None:
    """Who goes away while it waits, or just when its turn has come, leaves it to the next one."""
    slots, told = JobSlots(1), list[int]()
    assert slots.take(1, lambda: None)
    for job in (2, 3, 4):
        assert not slots.take(job, lambda job=job: told.append(job))  # type: ignore[misc]
    slots.give_back(2)  # while it waits
    slots.give_back(1)
    assert told == [3]
    slots.give_back(3)  # without having begun
    assert told == [3, 4]


def test_what_is_with_slurm_counts() -> None:
    """Jobs of an earlier master are more than the limit allows, maybe; new ones wait until there is room again."""
    slots, told = JobSlots(1), list[int]()
    slots.occupy(1)
    slots.occupy(2)
    assert not slots.take(3, lambda: told.append(3))
    slots.give_back(1)
    assert told == []
    slots.give_back(2)
    assert told == [3]
