"""Instructions: what the code of a function says, names and imports, apart from its values."""

from __future__ import annotations

import dis
import hashlib
import types
from typing import Any, NamedTuple

from hyperflow.once import once_for_code

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})


class Import(NamedTuple):
    """An import, as the code has it."""

    level: int
    module: str
    names: tuple[str, ...]


@once_for_code
def globals_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the globals that code and the code inside it name."""
    names = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return tuple(sorted(names.union(*map(globals_in, _inner(code)))))


@once_for_code
def attributes_in(code: types.CodeType) -> tuple[str, ...]:
    """Return all names in code and the code inside it that may be attributes."""
    return tuple(sorted({*code.co_names}.union(*map(attributes_in, _inner(code)))))


@once_for_code
def own_imports(code: types.CodeType) -> tuple[Import, ...]:
    """Return the imports in code, without those in the code inside it."""
    steps = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
    return tuple(
        Import(level.argval, one.argval, tuple(names.argval or ()))
        for level, names, one in zip(steps, steps[1:], steps[2:], strict=False)
        if one.opname == "IMPORT_NAME"
    )


@once_for_code
def imports_in(code: types.CodeType) -> tuple[Import, ...]:
    """Return the imports in code and in the code inside it."""
    return tuple(one for part in (own_imports(code), *map(imports_in, _inner(code))) for one in part)


@once_for_code
def attributes_set_in(code: types.CodeType) -> frozenset[str]:
    """Return the names of attributes that code and the code inside it set."""
    names = {one.argval for one in dis.get_instructions(code) if one.opname == "STORE_ATTR"}
    return frozenset(names.union(*map(attributes_set_in, _inner(code))))


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


_SKIPPED = frozenset({"NOP", "CACHE", "EXTENDED_ARG", "RESUME", "PRECALL"})
"""Instructions that say nothing, or whose number depends on how the source is broken into lines."""


@once_for_code
def digest_of(code: types.CodeType) -> str:
    """Return a digest of code, without line numbers, file, docstring and the places of its constants."""
    everything = list(dis.get_instructions(code))
    places: dict[int, int] = {}
    kept: list[dis.Instruction] = []
    for one in everything:
        places[one.offset] = len(kept)
        if one.opname not in _SKIPPED:
            kept.append(one)
    words: list[object] = []
    for one in kept:
        if one.opcode in dis.hasjrel or one.opcode in dis.hasjabs:
            words.append((one.opname, places.get(one.argval, one.argval)))
        else:
            words.append((one.opname, _constant(one.argval)))
    guarded = [
        (places.get(entry.start), places.get(entry.end), places.get(entry.target), entry.depth, entry.lasti)
        for entry in getattr(dis.Bytecode(code), "exception_entries", ())
    ]
    shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_varnames, code.co_flags)
    text = repr((words, guarded, shape)).encode(errors="backslashreplace")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def _constant(value: Any) -> object:
    if isinstance(value, types.CodeType):
        return digest_of(value)
    if isinstance(value, tuple):
        return [_constant(part) for part in value]
    if isinstance(value, frozenset):
        return sorted(repr(part) for part in value)
    return value if type(value) in _PLAIN else repr(value)
