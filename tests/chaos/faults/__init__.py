"""Tables of faults; TABLES has all of them. A new family is a module with a TABLE, and a line here."""

from tests.chaos.case import Case
from tests.chaos.faults import allocation, network, nodes, processes, site

TABLES: tuple[Case, ...] = (
    *processes.TABLE,
    *nodes.TABLE,
    *network.TABLE,
    *site.TABLE,
    *allocation.TABLE,
)
