"""What `using(memory="auto")` has learned, in the program's database: a map of its own, which people can read as well.

    await hf.KeyValMap("hyperflow.learned").lookup_all()

A value is {"memory": [...], "seconds": [...]}: bytes and seconds of the last evaluations of a function.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from hyperflow.database import keys
from hyperflow.environment import ResultsDatabase
from hyperflow.errors import HyperflowError

logger = logging.getLogger("hyperflow")

MAP = "hyperflow.learned"

WHAT = 'what using(memory="auto") has learned'


async def recorded(database: ResultsDatabase) -> dict[str, Any]:
    """Return what earlier runs have learned, of each function; nothing if that cannot be read."""
    try:
        return {str(keys.decode(key, {})): json.loads(text) for key, text in await database.lookup_all(MAP)}
    except (HyperflowError, ValueError) as error:
        logger.warning("%s cannot be read: %s", WHAT, error)
        return {}


async def record(database: ResultsDatabase, learned: Mapping[str, Any]) -> None:
    """Record what this run has learned; if that fails, the next one learns it anew."""
    try:
        for function, values in learned.items():
            await database.insert(MAP, keys.encode(function, MAP), json.dumps(values))
    except HyperflowError as error:
        logger.warning("%s cannot be recorded: %s", WHAT, error)
