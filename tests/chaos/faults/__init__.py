"""Tables of faults; TABLES has all of them. A new family is a module with a TABLE, and a line here."""

from tests.chaos.case import Case
from tests.chaos.faults import (
    entries,
    files,
    limits,
    postgres,
    power,
    processes,
    silence,
    uses,
)

TABLES: tuple[Case, ...] = (
    *processes.TABLE,
    *limits.TABLE,
    *files.TABLE,
    *entries.TABLE,
    *postgres.TABLE,
    *power.TABLE,
    *silence.TABLE,
    *uses.TABLE,
)
