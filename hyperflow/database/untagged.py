"""Values without tags: as databases before schema version 2 have them, and as people write them for an `ExtVar`.

Such a text is JSON in which only the type hint says what a list or an object stands for: a tuple, a set, a record. Here
it gets the tags that it lacks. What has them already stays as it is.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping
from typing import Any

from hyperflow.database import plain, records
from hyperflow.database.hints import COLLECTIONS, show


class Text(str):
    """The text of a value without tags."""

    __slots__ = ()


def with_tags(data: Any, hint: Any) -> Any:
    """Return JSON data with the tags that its type hint implies."""
    return _Tagger(records.classes_in(hint)).tagged(data, hint)


class _Tagger:
    def __init__(self, names: dict[type, str]) -> None:
        self._names = names

    def tagged(self, data: Any, hint: Any) -> Any:
        hint = records.bare(hint)
        cls, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
        if cls is typing.Union or cls is types.UnionType:
            return self._of_union(data, arguments)
        if not isinstance(cls, type) or plain.leaf_for(cls) is not None:
            return data
        if issubclass(cls, enum.Enum):
            return data if isinstance(data, dict) else {"!enum": [self._names[cls], data]}
        if isinstance(data, list):
            return self._of_list(data, hint, cls, arguments)
        if isinstance(data, dict):
            return self._of_object(data, hint, cls, arguments)
        return data

    def _of_union(self, data: Any, members: tuple[Any, ...]) -> Any:
        if isinstance(data, dict) and "!as" in data:
            name, data = data["!as"]
            return self.tagged(data, next(member for member in members if show(records.bare(member)) == name))
        others = [member for member in members if member is not type(None)]
        return self.tagged(data, others[0]) if len(others) == 1 and data is not None else data

    def _of_list(self, data: list[Any], hint: Any, cls: Any, arguments: tuple[Any, ...]) -> Any:
        if records.is_record(cls):  # a NamedTuple
            fields = records.fields_of(hint)
            named = {field.name: self.tagged(item, field.hint) for field, item in zip(fields, data, strict=True)}
            return {"!class": [self._names[cls], named]}
        if cls is tuple:
            each = arguments if len(arguments) == len(data) and ... not in arguments else [*arguments[:1]] * len(data)
            return {"!tuple": [self.tagged(*pair) for pair in zip(data, each or [Any] * len(data), strict=True)]}
        items = [self.tagged(item, arguments[0] if arguments else Any) for item in data]
        tag = f"!{COLLECTIONS.get(cls, list).__name__}"
        return items if tag == "!list" else {tag: items}

    def _of_object(self, data: dict[str, Any], hint: Any, cls: Any, arguments: tuple[Any, ...]) -> Any:
        if records.is_record(cls) or typing.is_typeddict(cls):
            if len(data) == 1 and next(iter(data)).startswith("!"):
                return data
            if typing.is_typeddict(cls):
                hints = records.items_of(hint)
                return {name: self.tagged(item, hints.get(name, Any)) for name, item in data.items()}
            hints = {field.name: field.hint for field in records.fields_of(hint)}
            items = {name: self.tagged(item, hints.get(name, Any)) for name, item in data.items()}
            return {"!class": [self._names[cls], items]}
        if issubclass(cls, Mapping):
            key, item = arguments if len(arguments) == 2 else (Any, Any)
            if "!dict" in data:
                return {"!dict": [[self.tagged(name, key), self.tagged(one, item)] for name, one in data["!dict"]]}
            return {name: self.tagged(one, item) for name, one in data.items()}
        return data


def without_tags(data: Any) -> Any:
    """Return JSON data without the tags that a type hint can make needless."""
    if isinstance(data, list):
        return [without_tags(item) for item in data]
    if not isinstance(data, dict):
        return data
    for tag, payload in data.items():
        if tag in ("!tuple", "!set", "!frozenset", "!deque"):
            return without_tags(payload)
        if tag == "!class":
            return without_tags(payload[1])
        if tag == "!enum":
            return payload[1]
    return {name: without_tags(item) for name, item in data.items()}
