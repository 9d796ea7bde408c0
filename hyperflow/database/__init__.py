"""The results database: named maps, memoized functions and work directories that outlive a program.

`KeyValMap`, `memoize` and `new_work_dir` are what users call; `register` teaches them a type. `open_database` opens
the store under them, one SQLite file written by one process.

Read in this order: keyvalmap, memo and flights, workdir (what users see); keys, codec (texts; below them plain,
records, scalars, hooks); store, file, ownership, place (the disk).
"""

from __future__ import annotations

from hyperflow.database.keyvalmap import KeyValMap as KeyValMap
from hyperflow.database.memo import memoize as memoize
from hyperflow.database.plain import register as register
from hyperflow.database.store import DamagedEntry as DamagedEntry
from hyperflow.database.store import open_database as open_database
from hyperflow.database.workdir import new_work_dir as new_work_dir

__all__ = ("DamagedEntry", "KeyValMap", "memoize", "new_work_dir", "open_database", "register")
