"""Tables: what a results database is shown as: a line for each map, a row for each entry, a DataFrame."""

from __future__ import annotations

import importlib
import importlib.util
import time
from typing import Any, ClassVar, Literal, TypeAlias

import attrs

from hyperflow.database import memo, shown, workdir
from hyperflow.database.shown import Arguments
from hyperflow.errors import ConfigurationError
from hyperflow.saying import in_one_line

SHOWN = 20
"""So many entries of a map are shown by themselves."""

Kind: TypeAlias = Literal["map", "memoized", "work directories"]


@attrs.frozen
class MapInfo:
    """What is known of a map without reading all of it.

    Args:
        name: As `Results.map` takes it.
        version: Of a memoized function.
        kind: "map", "memoized", or "work directories".
        count: How many keys it has.
        key, value: Types of some of the newest entries, with the names of arguments.
        example: The newest entry.
        size: Characters of all values, earlier ones of the same keys included.
        time: When the newest entry was recorded, in seconds since 1970.
        function: The function whose results they are, with its module.
        map_name: What the database has it under.
    """

    name: str
    version: str
    kind: Kind
    count: int
    key: str
    value: str
    example: tuple[Any, Any] | None
    size: int
    time: float
    function: str
    map_name: str


class Maps(list[MapInfo]):
    """The maps of a database, as a list; a notebook shows it as a table."""

    HEADINGS: ClassVar[tuple[str, ...]] = ("name", "version", "count", "key", "value", "example", "size", "newest")

    def rows(self) -> list[tuple[str, ...]]:
        """Return what is shown of each."""
        return [
            (
                *map(in_one_line, (one.name, one.version, str(one.count), one.key, one.value)),
                "" if one.example is None else " -> ".join(shown.short(part, 40) for part in one.example),
                in_bytes(one.size),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(one.time)) if one.time else "",
            )
            for one in self
        ]

    def __repr__(self) -> str:
        return shown.text_table(self.HEADINGS, self.rows()) if self else "no maps yet"

    def _repr_html_(self) -> str:
        return shown.html_table("", self.HEADINGS, self.rows(), "" if self else "no maps yet")


def in_bytes(size: float) -> str:
    """Return a size for people: `12 B`, `3.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def parts(map_name: str) -> tuple[str, str, Kind]:
    """Return name, version and kind of a map."""
    if map_name == workdir.WORK_DIRS:
        return map_name, "", "work directories"
    if map_name.startswith(memo.MAP_OF):
        name, _, version = map_name.removeprefix(memo.MAP_OF).rpartition(":")
        if name:
            return name, version, "memoized"
    return map_name, "", "map"


def columns_of(name: str, value: Any) -> dict[str, Any]:
    """Return an argument's columns: one, or of a record one for each field."""
    named = shown.fields(value)
    return {name: value} if named is None else {f"{name}.{field}": part for field, part in named.items()}


def row_of(kind: Kind, key: Any, value: Any) -> dict[str, Any]:
    """Return an entry's row: what is in each column."""
    cells: dict[str, Any] = {}
    if isinstance(key, Arguments):
        for name, argument in key.asdict().items():
            cells |= columns_of(name, argument)
    elif isinstance(key, tuple) and not hasattr(key, "_fields"):
        cells |= {f"key.{place}": part for place, part in enumerate(key)}
    else:
        cells |= columns_of("key", key)
    base = "result" if kind == "memoized" else "value"
    named = shown.fields(value)
    if named is None:
        cells[base if base not in cells else f"{base}_"] = value
        return cells
    return cells | {f"{base}.{name}" if name in cells else name: part for name, part in named.items()}


def frame(columns: list[str], rows: list[list[Any]], library: Literal["pandas", "polars"] | None) -> Any:
    """Return a DataFrame of pandas, or of polars where only that is installed or asked for."""
    if library is None:
        there = [name for name in ("pandas", "polars") if importlib.util.find_spec(name) is not None]
        if not there:
            raise ConfigurationError("frame() needs pandas or polars; type: pip install pandas")
        library = "pandas" if there[0] == "pandas" else "polars"
    elif importlib.util.find_spec(library) is None:
        raise ConfigurationError(f"frame({library!r}): it is not installed; type: pip install {library}")
    data = {name: [row[place] for row in rows] for place, name in enumerate(columns)}
    return _in_pandas(data) if library == "pandas" else _in_polars(data)


def _in_pandas(data: dict[str, list[Any]]) -> Any:
    pandas = importlib.import_module("pandas")  # by name: it is optional
    return pandas.DataFrame({name: _plain_column(pandas, values) for name, values in data.items()})


def _plain_column(pandas: Any, values: list[Any]) -> Any:
    """Return a column; of arrays, lists and records, one of objects, which pandas would try to unfold."""
    simple = all(value is None or not hasattr(value, "__len__") or isinstance(value, str | bytes) for value in values)
    return pandas.Series(values) if simple else pandas.Series(values, dtype=object)


def _in_polars(data: dict[str, list[Any]]) -> Any:
    polars = importlib.import_module("polars")
    columns: list[Any] = []
    for name, values in data.items():
        try:
            columns.append(polars.Series(name, values, strict=False))
        except Exception:  # noqa: BLE001 - what polars has no type for stays a Python object
            columns.append(polars.Series(name, values, dtype=polars.Object))
    return polars.DataFrame(columns)
