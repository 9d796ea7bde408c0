"""Values without tags: as databases before schema version 2 have them, and as people write them for an `ExtVar`.

Such a text is JSON in which only the type hint says what a list or an object stands for: a tuple, a set, a record. Here
it gets the tags that it lacks. What has them already stays as it is.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from hyperflow.database import plain, records
from hyperflow.database.hints import COLLECTIONS, show


class Text(str):
    """The text of a value without tags."""

    __slots__ = ()


def with_tags(data: Any, hint: Any, names: Mapping[type, str] | None = None) -> Any:
    """Return JSON data with the tags that its type hint implies; `names` are those of its classes."""
    if names is None:
        names = records.classes_in(hint)
    hint = records.bare(hint)
    cls, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if cls is typing.Union or cls is types.UnionType:
        return _of_union(data, arguments, names)
    if not isinstance(cls, type) or plain.leaf_for(cls) is not None:
        return data
    if issubclass(cls, enum.Enum):
        return data if isinstance(data, dict) else {"!enum": [names[cls], data]}
    if isinstance(data, list):
        return _of_list(data, hint, cls, arguments, names)
    if isinstance(data, dict):
        return _of_object(data, hint, cls, arguments, names)
    return data


def _of_union(data: Any, members: tuple[Any, ...], names: Mapping[type, str]) -> Any:
    if isinstance(data, dict) and "!as" in data:
        name, data = data["!as"]
        for member in members:
            if name in (show(member), show(records.bare(member))):  # version 1 names a NewType, not what it stands for
                return with_tags(data, member, names)
        raise ValueError(f"{name} is none of {', '.join(map(show, members))}")
    others = [member for member in members if member is not type(None)]
    return with_tags(data, others[0], names) if len(others) == 1 and data is not None else data


def _of_list(data: list[Any], hint: Any, cls: Any, arguments: tuple[Any, ...], names: Mapping[type, str]) -> Any:
    if records.is_record(cls):  # a NamedTuple
        fields = records.fields_of(hint)
        items = {field.name: with_tags(item, field.hint, names) for field, item in zip(fields, data, strict=True)}
        return {"!class": [names[cls], items]}
    if cls is tuple:
        each = arguments if len(arguments) == len(data) and ... not in arguments else [*arguments[:1]] * len(data)
        hints = each or [Any] * len(data)
        return {"!tuple": [with_tags(item, one, names) for item, one in zip(data, hints, strict=True)]}
    tag = f"!{COLLECTIONS.get(cls, list).__name__}"
    each_tagged = [with_tags(item, arguments[0] if arguments else Any, names) for item in data]
    return each_tagged if tag == "!list" else {tag: each_tagged}


def _of_object(data: dict[str, Any], hint: Any, cls: Any, arguments: tuple[Any, ...], names: Mapping[type, str]) -> Any:
    is_record = records.is_record(cls)
    if is_record or typing.is_typeddict(cls):
        if len(data) == 1 and next(iter(data)).startswith("!") and (is_record or "!dict" in data):
            return data
        hints = {field.name: field.hint for field in records.fields_of(hint)} if is_record else records.items_of(hint)
        items = {name: with_tags(item, hints.get(name, Any), names) for name, item in data.items()}
        return {"!class": [names[cls], items]} if is_record else _plain_object(items)
    if issubclass(cls, Mapping):
        key, item = arguments if len(arguments) == 2 else (Any, Any)
        if "!dict" in data:
            return {
                "!dict": [[with_tags(name, key, names), with_tags(one, item, names)] for name, one in data["!dict"]]
            }
        return {name: with_tags(one, item, names) for name, one in data.items()}
    return data


def _plain_object(items: dict[str, Any]) -> dict[str, Any]:
    """Return a dict whose names are not taken for tags."""
    return {"!dict": [[name, item] for name, item in items.items()]} if any(n[:1] == "!" for n in items) else items


def for_people(text: str, hint: Any) -> str:
    """Return a value's text without the tags that its type hint makes needless."""
    data = json.loads(text)
    bare = _without_tags(data)
    return json.dumps(bare, separators=(",", ":")) if with_tags(bare, hint) == data else text


def _without_tags(data: Any) -> Any:
    if isinstance(data, list):
        return [_without_tags(item) for item in data]
    if not isinstance(data, dict):
        return data
    for tag, payload in data.items():
        if tag in plain.COLLECTIONS:
            return _without_tags(payload)
        if tag == "!class":
            return _without_tags(payload[1])
        if tag == "!enum":
            return payload[1]
    return {name: _without_tags(item) for name, item in data.items()}
