"""What the harness found once is tried again."""

from pathlib import Path

import pytest

from tests.chaos import harness, kept
from tests.chaos.case import Case
from tests.chaos.faults import TABLES

HERE = [(case, seed) for case, seed in kept.among(TABLES) if case.world not in harness.ON_THE_CLUSTER]


@pytest.mark.process
@pytest.mark.timeout(150)
@pytest.mark.parametrize(("case", "seed"), HERE, ids=[f"{case.title}, {seed}" for case, seed in HERE])
def test_again(case: Case, seed: str) -> None:
    """Each holds now."""
    result = harness.try_one(case, seed)

    if result.not_run:
        pytest.skip(result.not_run)
    assert not result.broken, result.details()


def test_each_is_a_case_with_a_cause() -> None:
    """Each names a case that there is, and says what it was."""
    titles = {case.title for case in TABLES}

    assert [one for one in kept.read() if one.case not in titles or not one.found] == []


def test_one_that_broke_is_kept_once(tmp_path: Path) -> None:
    """It is tried again from then on."""
    file = tmp_path / "kept.json"
    case = TABLES[0]

    kept.keep(case, "7.0", file)
    kept.keep(case, "7.0", file)

    assert kept.among(TABLES, file) == [(case, "7.0")]
