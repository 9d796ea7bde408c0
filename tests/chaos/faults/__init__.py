"""Tables of faults; TABLES has all of them. A new family is a module with a TABLE, and a line here."""

from tests.chaos.case import Case
from tests.chaos.faults import (
    allocation,
    files,
    limits,
    network,
    nodes,
    postgres,
    power,
    processes,
    silence,
    site,
    uses,
)

TABLES: tuple[Case, ...] = (
    *processes.TABLE,
    *limits.TABLE,
    *files.TABLE,
    *postgres.TABLE,
    *power.TABLE,
    *silence.TABLE,
    *uses.TABLE,
    *nodes.TABLE,
    *network.TABLE,
    *site.TABLE,
    *allocation.TABLE,
)
