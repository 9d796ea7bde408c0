"""Tables of faults; TABLES has all of them. A new family is a module with a TABLE, and a line here."""

from tests.chaos.case import Case
from tests.chaos.faults import (
    allocation,
    entries,
    files,
    limits,
    master,
    network,
    nodes,
    pairs,
    postgres,
    power,
    processes,
    programs,
    run_files,
    silence,
    site,
    slurm_commands,
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
    *nodes.TABLE,
    *network.TABLE,
    *site.TABLE,
    *allocation.TABLE,
    *pairs.TABLE,
    *master.TABLE,
    *programs.TABLE,
    *run_files.TABLE,
    *slurm_commands.TABLE,
)
