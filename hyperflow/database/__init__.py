"""The results database: named maps, memoized functions and work directories that outlive a program.

`KeyValMap`, `memoize` and `new_work_dir` are what users call; `register` teaches them a type. `open_database` opens
the store under them: one SQLite file written by one process, or a PostgreSQL server. `open_results` only reads.

Read in this order: keyvalmap, memo and single_flight, workdir (what users see); keys, values (texts; below them plain,
records, hints, untagged); thread, entries; store, file, index, kept, ownership, place, ingest (the disk);
server (PostgreSQL); results, shown, reading, server_reading (who only looks at it); shrink (what is left out).

The rooms above it use it. It may import `flow`, `environment`, `program`, `errors`, `aio`, `files` and `saying`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperflow.database.keyvalmap import KeyValMap as KeyValMap
    from hyperflow.database.memo import memoize as memoize
    from hyperflow.database.plain import register as register
    from hyperflow.database.results import Results as Results
    from hyperflow.database.results import ResultsMap as ResultsMap
    from hyperflow.database.results import open_results as open_results
    from hyperflow.database.shown import Record as Record
    from hyperflow.database.store import DamagedEntry as DamagedEntry
    from hyperflow.database.store import open_database as open_database
    from hyperflow.database.workdir import new_work_dir as new_work_dir

__all__ = (
    "DamagedEntry",
    "KeyValMap",
    "Record",
    "Results",
    "ResultsMap",
    "memoize",
    "new_work_dir",
    "open_database",
    "open_results",
    "register",
)

_MODULE_OF = {
    "KeyValMap": "keyvalmap",
    "memoize": "memo",
    "open_database": "store",
    "register": "plain",
    "DamagedEntry": "store",
    "new_work_dir": "workdir",
    "Record": "shown",
    "Results": "results",
    "ResultsMap": "results",
    "open_results": "results",
}
"""The module of each name; each is imported at its first use."""


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
