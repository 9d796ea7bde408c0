"""Shown keys: the keys of one map, for who reads it: the arguments of calls, or what a KeyValMap has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from hyperflow.database import plain, shown
from hyperflow.database.conditions import Test
from hyperflow.database.shown import Arguments
from hyperflow.database.tables import Kind


class _LeftOut:
    """Stands for a key that is not wanted, and for a value that is not there."""


LEFT_OUT: Any = _LeftOut()


@attrs.frozen
class ShownKeys:
    """How the keys of a map are read.

    Args:
        parameters: The names of a memoized function's arguments, as far as they are known.
    """

    kind: Kind
    parameters: list[str]
    makers: plain.Makers

    def data(self, raw: str) -> dict[str, Any]:
        """Return what is in a key as JSON data: arguments, in the function's order; else all of it, as `key`."""
        return self.arguments(raw) if self.kind == "memoized" else {"key": json.loads(raw)}

    def arguments(self, raw: str) -> dict[str, Any]:
        """Return the arguments in a key as JSON data, in the function's order; none where it is another key."""
        data = json.loads(raw)
        if self.kind != "memoized" or not isinstance(data, dict):
            return {}
        names = [*(name for name in self.parameters if name in data), *sorted(data)]
        return {name: data[name] for name in dict.fromkeys(names)}

    def key(self, raw: str) -> Any:
        """Return a key: of a memoized function, its arguments."""
        if found := self.arguments(raw):
            return Arguments((shown.made_of(data, self.makers) for data in found.values()), found)
        return Arguments((), ()) if self.kind == "memoized" else shown.made_of(json.loads(raw), self.makers)

    def value(self, data: Any) -> Any:
        """Return a part of a key."""
        return shown.made_of(data, self.makers)

    def passing(self, raw: str, tests: Mapping[str, Test]) -> Any:
        """Return a key that passes all tests, else `LEFT_OUT`."""
        key = self.key(raw)
        return LEFT_OUT if tests and not all(self.passes(raw, key, tests).values()) else key

    def passes(self, raw: str, key: Any, tests: Mapping[str, Test]) -> dict[str, bool]:
        """Return which tests a key passes; of an argument that is a record, a field is meant by `molecule.charge`."""
        data: dict[str, Any] = self.arguments(raw)
        values: dict[str, Any] = key.asdict() if isinstance(key, Arguments) else {}
        if not isinstance(key, Arguments):
            whole = json.loads(raw)
            data, values = {"key": whole}, {"key": key, **(shown.fields(key) or {})}
            if isinstance(whole, dict) and "!class" in whole:
                data |= whole["!class"][1]
            elif isinstance(whole, dict):
                data |= whole
        for name in tests:
            argument, _, field = name.partition(".")
            if name not in values and field and argument in values:
                its = shown.fields(values[argument]) or {}
                values |= {f"{argument}.{field}": its[field]} if field in its else {}
        return {name: name in values and test(data.get(name), values[name]) for name, test in tests.items()}
