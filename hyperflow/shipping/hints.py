"""Which names annotations refer to: `typing.get_type_hints` looks them up where a function or class has arrived.

With `from __future__ import annotations` an annotation is a text, and no name in it is captured otherwise.
"""

from __future__ import annotations

import ast
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from hyperflow.once import once_for_code


def referenced(annotations: Iterable[Any], namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what texts in annotations refer to in a namespace, by name."""
    names = {name for annotation in annotations for name in _names(annotation)}
    return {name: namespace[name] for name in sorted(names) if name in namespace}


def of_function(fn: types.FunctionType) -> dict[str, Any]:
    """Return what the annotations of a function refer to, and of classes that it defines.

    dataclasses look for `ClassVar` and the like where the class is defined.
    """
    space = fn.__globals__
    names = _class_body_names(fn.__code__)
    found = {name: space[name] for name in sorted(names) if name in space} if names else {}
    return found | referenced(fn.__annotations__.values(), space) if fn.__annotations__ else found


@once_for_code
def _class_body_names(code: types.CodeType) -> frozenset[str]:
    names: set[str] = set()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _class_body_names(constant)
        elif isinstance(constant, str) and "__annotations__" in code.co_names and len(constant) < LONGEST:
            names |= _names_in(constant)
    return frozenset(names)


LONGEST = 1000
"""Characters of a text that may be an annotation."""


def _names(annotation: Any, depth: int = 0) -> Iterable[str]:
    if isinstance(annotation, str):
        yield from _names_in(annotation)
    elif isinstance(annotation, typing.ForwardRef):
        yield from _names_in(annotation.__forward_arg__)
    elif depth < 20:
        for part in getattr(annotation, "__args__", ()) or ():
            yield from _names(part, depth + 1)


@functools.lru_cache(maxsize=1000)
def _names_in(text: str) -> frozenset[str]:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value != text:
            names |= _names_in(node.value)
    return frozenset(names)
