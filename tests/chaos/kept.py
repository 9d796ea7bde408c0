"""Seeds that found something once: `kept.json`. A test tries them again; those of the cluster, `make chaos` does."""

import json
from collections.abc import Iterable
from pathlib import Path

import attrs

from tests.chaos.case import Case

FILE = Path(__file__).with_suffix(".json")


@attrs.frozen
class Kept:
    """A case that broke with a seed; `found` says what it was, "" before somebody has looked."""

    case: str
    seed: str
    found: str = ""


def read(file: Path = FILE) -> list[Kept]:
    """Return all that are kept."""
    return [Kept(**one) for one in json.loads(file.read_text())] if file.exists() else []


def keep(case: Case, seed: str, file: Path = FILE) -> None:
    """Keep one more; a person adds what it was, or takes it out if it was nothing."""
    _write([*read(file), Kept(case.title, seed)], file)


def _write(all_of_them: Iterable[Kept], file: Path) -> None:
    once = {(one.case, one.seed): one for one in all_of_them}
    file.write_text(json.dumps([attrs.asdict(one) for one in once.values()], indent=2) + "\n")


def among(cases: Iterable[Case], file: Path = FILE) -> list[tuple[Case, str]]:
    """Return the cases with their seeds, for those kept ones that are among these."""
    named = {case.title: case for case in cases}
    return [(named[one.case], one.seed) for one in read(file) if one.case in named]
