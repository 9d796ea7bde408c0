"""Codecs: values of an annotated type to and from JSON text.

Guarantees: what is encoded comes back with the same types and values, or is refused: a 2.5 where the annotation says
int, an instance of a subclass, whose own fields would be lost, a type that cannot be made again. Types are looked at
before a value exists, so that a function whose result cannot be stored is refused before it runs.

cattrs is imported when the first type asks for it: it costs 40 ms, and most programs store numbers.
"""

from __future__ import annotations

import json
import typing
from functools import cache
from typing import Any

import attrs

from hyperflow.database import plain
from hyperflow.database.scalars import SCALARS, In, Out, none_in, none_out, plain_in, short, show
from hyperflow.errors import SerializationError


@attrs.frozen(eq=False)
class Codec:
    """How values of one type are written: to and from data that `json` knows."""

    hint: Any
    out: Out
    into: In

    def encode(self, value: Any) -> str:
        """Return a value's text; raises SerializationError when it is not of the type, or not storable."""
        try:
            return plain.dumps(self.out(value))
        except SerializationError:
            raise
        except RecursionError:
            raise SerializationError("the value contains itself, or is nested too deeply to be stored") from None
        except Exception as error:
            raise SerializationError(
                f"{short(value)} cannot be stored as {show(self.hint)}: {type(error).__name__}: {error}"
            ) from error

    def decode(self, text: str) -> Any:
        """Return the value of a text; raises SerializationError when the text is of another type."""
        try:
            return self.into(json.loads(text), self.hint)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(
                f"{short(text)} cannot be read as {show(self.hint)}: {type(error).__name__}: {error}"
            ) from error


def codec_for(hint: Any) -> Codec:
    """Return the codec of a type; `Any` stands for untyped, that is plain data.

    Raises:
        SerializationError: Values of the type, or of one inside it, could not be made again.
    """
    try:
        return _codec_for(hint)
    except TypeError:  # a hint that cannot be hashed, such as Annotated[int, []]
        return _codec_for.__wrapped__(hint)


@cache
def _codec_for(hint: Any) -> Codec:
    while isinstance(hint, typing.NewType):
        hint = hint.__supertype__
    if hint is Any or hint is object or isinstance(hint, typing.TypeVar):
        return Codec(Any, plain.to_json, plain_in)
    if hint is None or hint is type(None):
        return Codec(None, none_out, none_in)
    if hint in SCALARS:
        return Codec(hint, *SCALARS[hint])
    from hyperflow.database import hooks  # noqa: PLC0415 - imports cattrs, for the first type that needs it

    converter = hooks.converter()
    try:
        return Codec(hint, converter.get_unstructure_hook(hint), converter.get_structure_hook(hint))
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"{show(hint)} cannot be stored: {type(error).__name__}: {error}") from error


plain.when_registered(_codec_for.cache_clear)
