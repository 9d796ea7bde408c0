"""Modules that no worker can import, as far as they have arrived there: `__main__` above all.

A function of such a module has the module's own `__dict__` as its globals, as at home. So what pickle, multiprocessing,
`typing.get_type_hints` or `dataclasses` look up in `sys.modules["__main__"]` is what the function itself sees; there is
no copy that could differ.

Definitions that were pickled at different times may bring different values for one name. Each keeps its own: its names
are bound before it is called, and what calls have made of them is kept until it is called again. Names that classes
brought stay. Names that came with arguments go when the call ends.

Rejected: globals of their own for each definition, beside a `__main__` that lists them. pickle refuses a function that
is not the very one under its name, and there would be several of one name.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from hyperflow.shipping.importable import SCRIPT, arrived

_Key: TypeAlias = tuple[str, str]
"""Module and name."""


class Absent:
    """Stands for the value of a name that is not bound."""

    def __reduce__(self) -> str:
        return "ABSENT"


ABSENT = Absent()
NOTHING = 0
"""Stands for no definition; their numbers begin with 1."""


def make(name: str, about: Mapping[str, Any]) -> types.ModuleType:
    """Make a module that says where it comes from, and holds nothing else yet."""
    module = types.ModuleType(name)
    describe(module, about)
    return module


def describe(module: types.ModuleType, about: Mapping[str, Any]) -> None:
    """Say where a module comes from; relative imports and `__file__` need that."""
    space = vars(module)
    space["__builtins__"] = __builtins__
    space.update(about)
    if (spec := about.get("__spec__")) is not None:
        name, is_package = spec
        space["__spec__"] = importlib.machinery.ModuleSpec(
            name, None, origin=about.get("__file__"), is_package=is_package
        )


class Arrivals:
    """What has arrived in this process."""

    def __init__(self) -> None:
        self.bound = NOTHING
        """The definition whose names are bound."""
        self.visitors: dict[_Key, Any] = {}
        """Names that came with the arguments of the call, and what they meant before."""
        self._spaces: dict[str, dict[str, Any]] = {}
        self._names: dict[int, dict[_Key, Any]] = {NOTHING: {}}
        # Names that classes brought; up to date where the bound definition has them, too.
        self._lasting: dict[_Key, Any] = {}
        self._holders: Counter[_Key] = Counter()
        self._arriving: dict[_Key, Any] | None = None

    def module(self, name: str, about: Mapping[str, Any]) -> types.ModuleType:
        """Return the module of this name, which others find in `sys.modules`, too."""
        found = sys.modules.get(name)
        if found is not None and self._spaces.get(name) is vars(found):
            describe(found, about)
            return found
        made = sys.modules[name] = make(name, about)
        if name not in SCRIPT:
            arrived(name)
        self._spaces[name] = vars(made)
        return made

    def has(self, module: types.ModuleType) -> bool:
        """Whether this is one of the modules that arrive here."""
        return self._spaces.get(module.__name__) is vars(module)

    def bind(self, module: str, names: Mapping[str, Any]) -> None:
        """Bind names that a pickle has brought."""
        space = self._spaces[module]
        for name, value in names.items():
            key = module, name
            if value is ABSENT and key not in self._holders:
                continue  # nothing has brought it; if a call has bound it, as a cache of its own, it stays
            if self._arriving is None:
                self.visitors.setdefault(key, space.get(name, ABSENT))
            else:
                if key not in self._arriving and key in self._lasting:
                    self._lasting[key] = space.get(name, ABSENT)
                self._arriving[key] = value
            self._put(key, value)

    @contextmanager
    def arriving(self, number: int, is_class: bool) -> Iterator[None]:
        """Note the names that a definition brings while it is unpickled; those of a class stay bound."""
        self._switch(NOTHING)
        names = self._arriving = {}
        try:
            yield
        finally:
            self._arriving = None
            self._holders.update(names.keys())
            self.forget(number)  # what it was before
            self._names[number] = names
            if is_class:
                self._lasting.update(names)
            else:
                self.bound = number

    def enter(self, number: int) -> None:
        """Bind the names of a definition that is to be called."""
        self._switch(number if number in self._names else NOTHING)

    def _switch(self, number: int) -> None:
        before, after = self._names[self.bound], self._names[number]
        for key in before:
            before[key] = self._spaces[key[0]].get(key[1], ABSENT)
            if key in self._lasting:
                self._put(key, self._lasting[key])
        for key, value in after.items():
            if key in self._lasting:
                self._lasting[key] = self._spaces[key[0]].get(key[1], ABSENT)
            self._put(key, value)
        self.bound = number

    def leave(self) -> None:
        """Let go of the names that came with the arguments of the call that has ended."""
        for key, value in self.visitors.items():
            self._put(key, value)
        self.visitors.clear()

    def forget(self, number: int) -> None:
        """Let go of the names of a definition, unless others have them, too."""
        if number == self.bound:
            self._switch(NOTHING)
        for key in self._names.pop(number, ()) if number else ():
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]
                self._lasting.pop(key, None)
                self._put(key, ABSENT)

    def _put(self, key: _Key, value: Any) -> None:
        module, name = key
        if value is ABSENT:
            self._spaces[module].pop(name, None)
        else:
            self._spaces[module][name] = value
