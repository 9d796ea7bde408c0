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
from collections import deque
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

from hyperflow import failures
from hyperflow.database import plain, records, untagged
from hyperflow.database.hints import Conform, conform_to, per_hint, show
from hyperflow.errors import SerializationError
from hyperflow.saying import short_repr

_parse = json.JSONDecoder().raw_decode  # json.loads takes a microsecond more for a number, to look for blanks


FAILURES_ARE_COMPUTED_AGAIN = (
    "a failure is not recorded, for it may succeed the next time: raise it (errors='raise'), or return the results "
    "without it"
)


class Codec(NamedTuple):
    """How values of one type are written: to and from JSON text."""

    hint: Any
    conform: Conform
    writer: plain.Writer
    makers: plain.Makers

    def encode(self, value: Any, for_people: bool = False) -> str:
        """Return a value's text; `for_people` leaves out the tags that the type makes needless.

        Raises SerializationError for a value that is not of the type, or cannot be stored.
        """
        try:
            text = self.writer.text(self.conform(value))
        except SerializationError:
            if (failed := failures.found_in(value)) is not None:
                raise SerializationError(f"{failed!r} is in it, and {FAILURES_ARE_COMPUTED_AGAIN}") from None
            raise
        except RecursionError:
            raise SerializationError("the value contains itself, or is nested too deeply to be stored") from None
        except Exception as error:
            raise SerializationError(
                f"{short_repr(value, 60)} cannot be stored as {show(self.hint)}: {type(error).__name__}: {error}"
            ) from error
        return untagged.for_people(text, self.hint) if for_people else text

    def encode_again(self, value: Any) -> tuple[str, Any]:
        """Return a value's text, and the value made again from it.

        What cannot be made again is refused, because it must not be recorded.
        """
        if type(value) in plain.SAME:
            try:
                value = self.conform(value)
            except SerializationError:
                pass  # told below, in words
            else:
                if type(value) in plain.SAME:  # what is read of its text is the same, and nobody can change it
                    return self.writer[type(value)](value), value
        text = self.encode(value)
        return text, self.decode(text)

    def decode(self, text: str) -> Any:
        """Return the value of a text; raises SerializationError when the text is of another type."""
        try:
            data, end = _parse(text)
            if end != len(text):
                data = json.loads(text)  # tells what is wrong with the rest
            if type(text) is untagged.Text:
                data = plain.from_json(untagged.with_tags(data, self.hint), self.makers)
            elif '"!' in text:
                data = plain.from_json(data, self.makers)
            return self.conform(data)
        except SerializationError:
            raise
        except Exception as error:
            raise SerializationError(
                f"{short_repr(str(text), 60)} cannot be read as {show(self.hint)}: {type(error).__name__}: {error}"
            ) from error


@per_hint
def codec_for(hint: Any) -> Codec:
    """Return the codec of a type; `Any` stands for untyped, that is plain data.

    Raises:
        SerializationError: Values of the type, or of one inside it, could not be made again.
    """
    try:
        if any(one is failures.Failed for one in records.parts(hint)):
            raise SerializationError(f"{show(hint)} has hyperflow.Failed in it, and {FAILURES_ARE_COMPUTED_AGAIN}")
        classes = [typing.get_origin(one) or one for one in records.parts(hint)]
        # Written as a dict, and made again by `conform`.
        dicts = [cls for cls in classes if isinstance(cls, type) and issubclass(cls, Mapping)]
        writer = plain.Writer(partial(_write_for, records.classes_in(hint), dicts))
        return Codec(records.bare(hint), conform_to(hint), writer, records.makers(hint, conform_to))
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"{show(hint)} cannot be stored: {type(error).__name__}: {error}") from error


def _write_for(names: Mapping[type, str], dicts: Collection[type], writer: plain.Writer, cls: type) -> plain.Write:
    if cls in names and issubclass(cls, enum.Enum):
        return writer.enum(cls, names[cls])
    if cls in names:
        fields = [field for field in records.fields_of(cls) if field.argument is not None]
        return writer.record(names[cls], [(field.name, conform_to(field.hint)) for field in fields])
    if cls in dicts:
        return writer.mapping
    if cls is deque:
        return writer.tagged_list("!deque")
    raise SerializationError(
        f"a {cls.__qualname__} cannot be stored without being told its type: give the map's types, as in "
        f"KeyValMap('name', value={cls.__name__}), or annotate the function: -> hyperflow.Job[{cls.__name__}]; "
        f"if the type is unknown even then, {plain.recipe(cls)}"
    )
