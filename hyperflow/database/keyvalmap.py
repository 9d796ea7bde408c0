"""KeyValMap: a named map from keys to values in the program's results database.

Guarantees: what was inserted is on the disk when `insert` returns. The newest value of a key counts, and nothing is
overwritten. Maps of one name are one map, in this program and in later ones that go on from its database.

With types, `KeyValMap[tuple[int, int], Energy]("energies")` or `KeyValMap("energies", key=tuple[int, int],
value=Energy)`, keys and values come back as what they were.
Without, values are plain data: None, bool, int, float, str, bytes, complex, dates, numpy arrays, lists, tuples, dicts,
sets. A class is refused then, because it could not be made again.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, overload

from hyperflow import environment, saying
from hyperflow.database import keys, memo, plain, records
from hyperflow.database.entries import NO_METADATA, FromCode, metadata_with
from hyperflow.database.memo_function import OnChange
from hyperflow.database.values import codec_for
from hyperflow.errors import DatabaseError, HyperflowError, MisuseError, SerializationError
from hyperflow.flow import Flow, Job, Native

if TYPE_CHECKING:  # Python 3.13 has defaults itself; users' checkers know typing_extensions without installing it
    from typing_extensions import TypeVar

    K = TypeVar("K", default=Any)
    V = TypeVar("V", default=Any)
else:
    from typing import TypeVar

    K = TypeVar("K")
    V = TypeVar("V")

D = TypeVar("D")
K2 = TypeVar("K2")
V2 = TypeVar("V2")


class KeyValMap(Generic[K, V]):
    """A named map in the results database.

        energies = hf.KeyValMap[int, float]("energies")  # or: hf.KeyValMap("energies", key=int, value=float)
        await energies.insert(3, 0.5)

    Args:
        name: Names the map in the database.
        key: The type of keys; needed for classes in `lookup_all`, and says that 1 means 1.0 where it is float.
        value: The type of values; without it they are plain data.
    """

    @overload
    def __init__(self, name: str) -> None: ...
    @overload
    def __init__(self: KeyValMap[K2, Any], name: str, *, key: type[K2]) -> None: ...
    @overload
    def __init__(self: KeyValMap[Any, V2], name: str, *, value: type[V2]) -> None: ...
    @overload
    def __init__(self, name: str, *, key: type[K], value: type[V]) -> None: ...
    @overload
    def __init__(self: KeyValMap[Any, Any], name: str, *, key: Any = ..., value: Any = ...) -> None: ...
    def __init__(self, name: str, *, key: Any = Any, value: Any = Any) -> None:
        _check_name(name)
        self.name = name
        self.key: Any = key
        self.value: Any = value
        self._widen = keys.widening(key)
        self._metadata: str | None = None
        for base in getattr(type(self), "__orig_bases__", ()):  # class Energies(KeyValMap[int, float])
            self._take_types(base)

    @property
    def __orig_class__(self) -> Any:
        """What was called: Python sets it to `KeyValMap[K, V]` after `KeyValMap[K, V]("name")` has made the object."""
        return self._made_by

    @__orig_class__.setter
    def __orig_class__(self, alias: Any) -> None:
        self._made_by = alias
        self._take_types(alias)

    def _take_types(self, alias: Any) -> None:
        """Take the types in brackets where no other ones were given."""
        if typing.get_origin(alias) is not KeyValMap:
            return
        key, value = (Any if isinstance(arg, TypeVar) else arg for arg in typing.get_args(alias))
        if self.key is Any:
            self.key, self._widen = key, keys.widening(key)
        if self.value is Any:
            self.value = value
        self._metadata = None

    def __repr__(self) -> str:
        hints = {name: hint for name, hint in (("key", self.key), ("value", self.value)) if hint is not Any}
        types = "".join(f", {name}={inspect.formatannotation(hint)}" for name, hint in hints.items())
        return f"KeyValMap({self.name!r}{types})"

    def _repr_html_(self) -> str:
        from hyperflow.database import shown  # noqa: PLC0415 (only a notebook asks)

        env = environment.peek() or environment.started()
        if env is None:
            return shown.html_table(repr(self), (), (), "its entries are shown where an environment is open")
        try:
            return self._shown_in(env)
        except (HyperflowError, OSError) as error:
            return shown.html_table(repr(self), (), (), saying.in_words(error))

    def _shown_in(self, env: environment.Environment) -> str:
        """Return the newest entries that are recorded by now, as a table."""
        from hyperflow.database import shown  # noqa: PLC0415 (only a notebook asks)
        from hyperflow.database.readers import reader  # noqa: PLC0415 (only a notebook asks)

        where = env.program.database
        found = reader(where) if isinstance(where, str) or where.exists() else None
        if found is None or self.name not in found.maps():
            return shown.html_table(repr(self), (), (), "no entries yet")
        makers, entries = records.makers(self.key), dict[str, str | None]()
        for text, value, _ in found.sample(self.name):
            entries.setdefault(text, value)
        rows = [
            (keys.decode(text, makers), "(long)" if value is None else self._decoded(value))
            for text, value in entries.items()
        ]
        count = found.size(self.name).keys
        more = f"and {count - len(rows)} older ones" if count > len(rows) else ""
        return shown.html_table(f"{self!r}: {count} entries", ("key", "value"), rows, more)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.name, self.key, self.value)

    def insert(self, key: K, value: V) -> Job[None]:
        """Record a value for a key; it is on the disk when the flow ends.

        Many inserts side by side (`map_concurrently`) share one fsync. Cancelling does not take the value back. Raises
        SerializationError for a key or value that cannot be recorded, DatabaseError when the disk is full.
        """
        return Job(Native("KeyValMap.insert", self._insert, (key, value)))

    def lookup(self, key: K) -> Job[V | None]:
        """Give the newest value of a key, or None if there is none.

        Takes microseconds after the map's first use, except for long values, which are read from the disk.
        """
        return Job(Native("KeyValMap.lookup", self._lookup, (key, None)))

    def lookup_default(self, key: K, default: D) -> Job[V | D]:
        """Give the newest value of a key, or `default` if there is none."""
        return Job(Native("KeyValMap.lookup_default", self._lookup, (key, default)))

    def lookup_all(self) -> Job[list[tuple[K, V]]]:
        """Give all keys with their newest values, the oldest key first.

        A list of pairs and not a dict, because keys may be lists, dicts or arrays, and because 1, 1.0 and True are
        three keys here and one in a dict. Where that does not matter: `dict(await m.lookup_all())`.
        """
        return Job(Native("KeyValMap.lookup_all", self._lookup_all))

    def memoize(self, fn: Callable[[K], Flow[V]], *, on_change: OnChange = "warn") -> Callable[[K], Job[V]]:
        """Return `fn` with its results recorded in this map: the argument is the key.

        What is in the map already, also by `insert`, is returned without running `fn`. See `hyperflow.memoize` for
        the rest.
        """
        memo.check_on_change(on_change)
        remedy = f"If it gives other results now, use a map of another name. {memo.ON_CHANGE}"
        typed = {} if self.value is Any else {"result": self.value}
        local_names = records.names_of_caller()
        return memo.memoized(
            fn, self.name, f"{self!r}.memoize", local_names, key=self.key, **typed, on_change=on_change, remedy=remedy
        )

    def _key(self, key: Any) -> str:
        try:
            return keys.encode(key if self._widen is None else self._widen(key), self.name)
        except SerializationError as error:
            raise SerializationError(f"key of {self!r}: {error}") from error

    async def _insert(self, key: Any, value: Any) -> None:
        text = self._key(key)
        try:
            encoded, _ = codec_for(self.value).encode_again(value)
        except SerializationError as error:
            raise SerializationError(f"value for key {key!r:.60} of {self!r}: {error}") from error
        if self._metadata is None:  # for who reads the map without the program
            classes = {**records.modules_in(self.key), **records.modules_in(self.value)}
            self._metadata = metadata_with(classes=classes)
        if self._metadata != NO_METADATA:
            encoded = FromCode.of(encoded, "", self._metadata)
        await environment.current("KeyValMap.insert").database.insert(self.name, text, encoded)

    async def _lookup(self, key: Any, default: Any) -> Any:
        raw = self._key(key)
        text = await environment.current("KeyValMap.lookup").database.lookup(self.name, raw)
        if text is not None and (making := environment.peek_making()) is not None:
            making.read(self.name, raw)
        return default if text is None else self._decoded(text)

    async def _lookup_all(self) -> Any:
        entries = await environment.current("KeyValMap.lookup_all").database.lookup_all(self.name)
        makers = records.makers(self.key)
        try:
            decoded = [keys.decode(key, makers) for key, _ in entries]
        except SerializationError as error:
            raise SerializationError(f"{self!r}: {error}") from error
        return [(key, self._decoded(text)) for key, (_, text) in zip(decoded, entries, strict=True)]

    def _decoded(self, text: str) -> Any:
        try:
            return codec_for(self.value).decode(text)
        except SerializationError as error:
            raise DatabaseError(f"a value of {self!r} is not of the map's type: {error}") from error


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or not plain.is_text(name):
        raise MisuseError(f"KeyValMap({name!r}): a name is needed, as in KeyValMap('energies')")
    if reason := saying.unfit_name(name):
        raise MisuseError(f"KeyValMap({name!r}): {reason}")


def _make(name: str, key: Any, value: Any) -> KeyValMap[Any, Any]:
    return KeyValMap(name, key=key, value=value)
