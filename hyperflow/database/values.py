"""Values: one JSON text for each value, in the format of the keys (see `plain`), under the check of a type hint.

Guarantees: what is encoded comes back with the same types and values, or is refused: a 2.5 where the annotation says
int, an instance of a subclass, whose own fields would be lost, a type that cannot be made again. Types are looked at
before a value exists, so that a function whose result cannot be stored is refused before it runs.

Unlike a key, a value keeps the order of a dict, the type of a numpy number, and the fields that do not count in `==`.
"""

from __future__ import annotations

import enum
import json
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import attrs

from hyperflow.database import plain, records, untagged
from hyperflow.database.hints import Conform, conform_to, short, show
from hyperflow.errors import SerializationError

_parse = json.JSONDecoder().raw_decode  # json.loads takes a microsecond more for a number, to look for blanks


@attrs.frozen(eq=False)
class Codec:
    """How values of one type are written: to and from JSON text."""

    hint: Any
    conform: Conform
    writers: plain.Writers
    makers: plain.Makers

    def encode(self, value: Any, for_people: bool = False) -> str:
        """Return a value's text.

        Args:
            value: Of the type.
            for_people: Leave out the tags that the type makes needless.

        Raises:
            SerializationError: It is not of the type, or cannot be stored.
        """
        try:
            data = plain.to_json(self.conform(value), self.writers)
        except SerializationError:
            raise
        except RecursionError:
            raise SerializationError("the value contains itself, or is nested too deeply to be stored") from None
        except Exception as error:
            raise SerializationError(
                f"{short(value)} cannot be stored as {show(self.hint)}: {type(error).__name__}: {error}"
            ) from error
        if for_people:
            bare = untagged.without_tags(data)
            data = bare if untagged.with_tags(bare, self.hint) == data else data
        return plain.dumps(data)

    def decode(self, text: str) -> Any:
        """Return the value of a text; raises SerializationError when the text is of another type."""
        try:
            data, end = _parse(text)
            if end != len(text):
                data = json.loads(text)  # tells what is wrong with the rest
            if type(text) is not str:
                data = plain.from_json(untagged.with_tags(data, self.hint), self.makers)
            elif '"!' in text:
                data = plain.from_json(data, self.makers)
            return self.conform(data)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(
                f"{short(str(text))} cannot be read as {show(self.hint)}: {type(error).__name__}: {error}"
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
    try:
        names = records.classes_in(hint)
        writers = {
            cls: _enum_writer(cls, name) if issubclass(cls, enum.Enum) else _record_writer(cls, name)
            for cls, name in names.items()
            if plain.leaf_for(cls) is None
        }
        for one in records.parts(hint):
            cls = typing.get_origin(one) or one
            if isinstance(cls, type) and issubclass(cls, Mapping):  # an OrderedDict is written as a dict
                writers.setdefault(cls, plain.dict_to_json)
        return Codec(records.bare(hint), conform_to(hint), writers, records.makers(hint, conform_to))
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"{show(hint)} cannot be stored: {type(error).__name__}: {error}") from error


plain.when_registered(_codec_for.cache_clear)


def _enum_writer(cls: Any, name: str) -> Callable[[Any, plain.Writers], Any]:
    # By name, because a value may be anything; a combination of flags has no name of its own.
    return lambda member, writers: {
        "!enum": [name, member.name if member.name in cls.__members__ else plain.to_json(member.value, writers)]
    }


def _record_writer(cls: type, name: str) -> Callable[[Any, plain.Writers], Any]:
    fields = [(field.name, conform_to(field.hint)) for field in records.fields_of(cls) if field.argument is not None]

    def write(value: Any, writers: plain.Writers) -> Any:
        return {
            "!class": [
                name,
                {field: plain.to_json(conform(getattr(value, field)), writers) for field, conform in fields},
            ]
        }

    return write
