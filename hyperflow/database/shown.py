"""Shown: values and keys of a results database for who reads it, with the classes that are known here, or without.

Guarantees: what is whole in the database can be looked at. A value of a class that this process has not imported is
a `Record`: the class's name and the fields. Nothing is imported for a database's sake, because importing executes code,
and a database may come from a colleague.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from hyperflow import displays
from hyperflow.database import plain, records, untagged
from hyperflow.database.hints import conform_to
from hyperflow.saying import LOOKED_AT, in_one_line, short_repr


@attrs.frozen(repr=False, eq=False)
class Record:
    """A value whose class is not known here: `record.class_name`, and its fields as attributes or items."""

    class_name: str
    fields: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        if name in ("class_name", "fields") or name.startswith("__"):  # while it is being unpickled
            raise AttributeError(name)
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(f"{self.class_name} has no field {name!r}; it has {', '.join(self.fields)}") from None

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return (self.class_name, self.fields) == (other.class_name, other.fields)

    def __hash__(self) -> int:
        return hash((self.class_name, *self.fields))

    def __repr__(self) -> str:
        fields = ", ".join(f"{in_one_line(name)}={value!r}" for name, value in self.fields.items())
        return f"{in_one_line(self.class_name)}({fields})"


class Arguments(tuple[Any, ...]):  # noqa: SLOT001 - a tuple can have no slots of its own
    """The arguments of a call of a memoized function: a tuple in the function's order, and by name."""

    names: tuple[str, ...]

    def __new__(cls, values: Iterable[Any], names: Iterable[str]) -> Arguments:
        made = super().__new__(cls, values)
        made.names = tuple(names)
        return made

    def __getattr__(self, name: str) -> Any:
        if name == "names" or name not in self.names:
            raise AttributeError(name)
        return self[self.names.index(name)]

    def asdict(self) -> dict[str, Any]:
        """Return the arguments by name."""
        return dict(zip(self.names, self, strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return Arguments, (tuple(self), self.names)

    def __repr__(self) -> str:
        return f"({', '.join(f'{in_one_line(name)}={value!r}' for name, value in self.asdict().items())})"


class StandIns(Mapping[str, Any]):
    """Makers of all classes: of those that are known, themselves, and of all others, `Record`."""

    def __init__(self, known: plain.Makers) -> None:
        self._known = known

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> Any:
        return self._known[name] if name in self._known else _stand_in(name.removeprefix("!type "))

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _stand_in(name: str) -> Any:
    def make(data: Any) -> Any:
        if isinstance(data, dict) and all(isinstance(field, str) for field in data):
            return Record(name, data)
        return f"{name}.{data}" if isinstance(data, str) else Record(name, {"value": data})  # a member of an enum

    return make


def known_classes(modules: Mapping[str, object]) -> plain.Makers:
    """Return the makers of those classes that this process has imported; `modules` has their modules by name."""
    makers: dict[str, Any] = {}
    for name, module in modules.items():
        found: Any = sys.modules.get(module) if isinstance(module, str) else None
        for part in name.removeprefix(f"{module}.").split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and name not in makers:
            makers |= {own: make for own, make in records.makers(found, conform_to).items() if own == name}
    return makers


def decoded(text: str, makers: plain.Makers) -> Any:
    """Return the value of a text as far as it can be made again here."""
    data = json.loads(text)
    if type(text) is untagged.Text:
        data = untagged.with_tags(data, Any)
    return made_of(data, makers) if '"!' in text else data


def made_of(data: Any, makers: plain.Makers) -> Any:
    """Return the value that JSON data stands for, as far as it can be made again here."""
    for known in (makers, {}):
        try:
            return plain.from_json(data, StandIns(known))
        except Exception:  # noqa: BLE001 - a class that has changed, numpy that is missing, a later tag
            continue
    return data


def kind(value: Any) -> str:
    """Return what a value is, in a word or two: `int`, `list[float]`, `ndarray(float64, 3x3)`, `Energy`."""
    if value is None:
        return "None"
    if isinstance(value, Record):
        return value.class_name
    name = type(value).__name__
    if isinstance(value, Arguments):
        return ", ".join(f"{one}: {kind(item)}" for one, item in value.asdict().items())
    if name == "ndarray":
        return f"ndarray({value.dtype}, {'x'.join(map(str, value.shape))})"
    if type(value) is tuple and len(value) <= 5:
        return f"tuple[{', '.join(map(kind, value))}]" if value else "tuple"
    if type(value) in (list, set, frozenset, tuple, deque):
        inside = either(kind(item) for item in list(value)[:20])
        return f"{name}[{inside}]" if inside else name
    if type(value) is dict:
        pairs = list(value.items())[:20]
        inside = f"[{either(kind(key) for key, _ in pairs)}, {either(kind(item) for _, item in pairs)}]"
        return f"dict{inside}" if pairs else "dict"
    return name


def either(kinds: Iterable[str], most: int = 4) -> str:
    """Return kinds as one: `int | str`."""
    found = list(dict.fromkeys(kinds))
    return " | ".join(found[:most]) + (" | ..." if len(found) > most else "")


def fields(value: Any) -> dict[str, Any] | None:
    """Return the fields of a record, or the items of a dict whose keys are names; else None."""
    if isinstance(value, Record):
        return value.fields
    if isinstance(value, Arguments):
        return value.asdict()
    if records.is_record(type(value)):
        return {field.name: getattr(value, field.name) for field in records.fields_of(type(value))}
    if type(value) is dict and value and all(isinstance(name, str) for name in value):
        return value
    return None


def as_json(value: Any) -> Any:
    """Return a value as JSON says it best, for other programs: arrays as lists, records as objects, the rest as texts.

    Numbers that JSON lacks are texts: "nan", "inf".
    """
    if value is None or isinstance(value, bool | int) or type(value) is str:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if (named := fields(value)) is not None:
        return {name: as_json(item) for name, item in named.items()}
    if isinstance(value, dict):
        return [[as_json(key), as_json(item)] for key, item in value.items()]
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [as_json(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):  # of numpy
        return as_json(value.tolist())
    return str(value)


def cell(value: Any) -> Any:
    """Return a value for a file of columns: numbers, texts and None as they are, the rest as JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist") and not getattr(value, "shape", None):
        return cell(value.tolist())  # a number of numpy's
    simple = as_json(value)
    return simple if isinstance(simple, str) else json.dumps(simple)


def short(value: Any, limit: int = 60) -> str:
    """Return a value in one line."""
    text = in_one_line(value[:LOOKED_AT] if type(value) is str else short_repr(value, limit))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def html_table(title: str, headings: Iterable[str], rows: Iterable[Iterable[Any]], note: str = "") -> str:
    """Return a table for a notebook."""
    return displays.table(title, headings, ([short(one) for one in row] for row in rows), note)


def text_table(headings: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table of plain text."""
    lines = [[*map(in_one_line, headings)], *([short(one) for one in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(one.ljust(width) for one, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
