"""Results for reading: what a finished or running program has recorded, without an engine and from anywhere.

    db = hf.open_results("hyperflow-runs/20261120-074513-926a03")
    db.maps()
    db.map("energy").where(basis="sto-3g").frame()

Guarantees: nothing is written, made or locked; each question is answered with what is recorded at that moment. Nothing
of the user's is imported or run: classes that this process does not know are shown as data (see `shown`).
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from hyperflow import files, program
from hyperflow.database import keys, memo, plain, records, shown, tables
from hyperflow.database.conditions import Test, equal, loose, test_of, text_of
from hyperflow.database.entries import members
from hyperflow.database.keyvalmap import KeyValMap
from hyperflow.database.memo import Memoized
from hyperflow.database.memo_function import Memo, Unresolved
from hyperflow.database.origins import Origin
from hyperflow.database.readers import reader
from hyperflow.database.reading import Reader, Sample
from hyperflow.database.shown import Arguments
from hyperflow.database.shown_keys import LEFT_OUT, ShownKeys
from hyperflow.database.tables import Kind, MapInfo, Maps, parts
from hyperflow.database.values import codec_for
from hyperflow.errors import ConfigurationError, DatabaseError, MisuseError, SerializationError
from hyperflow.saying import in_one_line

BASE_DIR = Path("hyperflow-runs")


class Results:
    """A results database that is only read; made by `open_results`. It needs no closing."""

    def __init__(self, found: Reader) -> None:
        self.reader: Reader = found
        self.where: str = found.where
        """The file, or the URL."""

    def maps(self) -> Maps:
        """Return what maps there are, the oldest first."""
        return Maps(self.map(name).info() for name in self.reader.maps())

    def map(
        self,
        name: str | KeyValMap[Any, Any] | Callable[..., Any],
        *,
        version: int | str | None = None,
        key: Any = Any,
        value: Any = Any,
    ) -> ResultsMap:
        """Return a map, or the results of a memoized function.

        Args:
            name: Its name, as `KeyValMap("name")` or `memoize("name")` has it; or that KeyValMap or function itself,
                which brings its types along.
            version: Of a memoized function; by default the one that recorded last.
            key: The type of keys, as for a KeyValMap: it makes classes again that are not imported here otherwise. Of
                a memoized function, a tuple of the arguments' types.
            value: The type of values, or of the function's results.

        Raises:
            ConfigurationError: There is no such map, or no such version.
        """
        if isinstance(name, KeyValMap):
            key = name.key if key is Any else key
            value = name.value if value is Any else value
            return self._map(name.name, key, value, None)
        if isinstance(name, Memoized):
            known = name.__memo__
            return self._map(known.map_name, key, known.codec.hint if value is Any else value, known)
        if not isinstance(name, str):
            raise MisuseError(f"map({shown.short(name)}): a name, a KeyValMap or a memoized function is needed")
        return self._map(self._map_name(name, version), key, value, None)

    def _map(self, map_name: str, key: Any, value: Any, known: Memo | None) -> ResultsMap:
        return ResultsMap(self.reader, map_name, key, value, known)

    def _map_name(self, name: str, version: int | str | None) -> str:
        there = self.reader.maps()
        if version is None and name in there:
            return name
        versions = [one for one in there if one.startswith(f"{memo.MAP_OF}{name}:")]
        if version is not None and memo.map_of(name, version) in there:
            return memo.map_of(name, version)
        if version is None and versions:
            return max(versions, key=lambda one: self.reader.size(one).time)
        if versions:
            others = ", ".join(in_one_line(one.removeprefix(f"{memo.MAP_OF}{name}:")) for one in versions)
            raise ConfigurationError(f"{self.where} has no version {version} of {name!r}; it has {others}")
        raise self._no_map(name, there)

    def _no_map(self, name: str, there: list[str]) -> ConfigurationError:
        names = list(dict.fromkeys(parts(one)[0] for one in there))
        close = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        listed = ", ".join(map(in_one_line, names[:20])) + (", ..." if names[20:] else "")
        return ConfigurationError(f"{self.where} has no map {name!r}{hint} It has {listed or 'none yet'}")

    def close(self) -> None:
        """Do nothing: each question opens and closes the database by itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<results in {self.where}>"

    def _repr_html_(self) -> str:
        maps = self.maps()
        return shown.html_table(f"results in {self.where}", maps.HEADINGS, maps.rows(), "" if maps else "no maps yet")


class ResultsMap:
    """A map of a results database, or the results of a memoized function, for reading; made by `Results.map`.

    Keys of a memoized function are its arguments: tuples whose parts have names, too.
    """

    def __init__(self, found: Reader, map_name: str, key: Any, value: Any, known: Memo | None) -> None:
        name, version, kind = parts(map_name)
        self.map_name: str = map_name
        self.name: str = name
        self.version: str = version
        self.kind: Kind = kind
        self.reader: Reader = found
        self._sample: list[Sample] = found.sample(map_name)
        self._memo: Memo | None = known
        self._value: Any = value
        self._tests: dict[str, Test] = {}
        told = [members(metadata) for _, _, metadata in self._sample]
        self.function: str = next((str(one["function"]) for one in told if "function" in one), "")
        self._parameters: list[str] = _names(one.get("parameters") for one in told)
        if known is not None and known.key_hint is Unresolved:
            self._parameters = known.parameters
        modules = {name: module for one in reversed(told) for name, module in _modules(one).items()}
        self._makers: plain.Makers = {**shown.known_classes(modules), **_makers(key, known)}
        self.shown_keys: ShownKeys = ShownKeys(kind, self._parameters, self._makers)

    def beside(self, map_name: str) -> ResultsMap:
        """Return another map of the same database, by the name that the database has it under."""
        return self if map_name == self.map_name else ResultsMap(self.reader, map_name, Any, Any, None)

    @property
    def parameters(self) -> list[str]:
        """The names of a memoized function's arguments; without them in the database, in alphabetical order."""
        if self._parameters or self.kind != "memoized":
            return list(self._parameters)
        return sorted({name for key, _, _ in self._sample for name in self.shown_keys.arguments(key)})

    def items(self) -> list[tuple[Any, Any]]:
        """Return all keys with their newest values, the oldest key first."""
        found = self.reader.read_all(self.map_name)
        return [
            (key, self._decoded(text))
            for raw, text in found
            if (key := self.shown_keys.passing(raw, self._tests)) is not LEFT_OUT
        ]

    def keys(self) -> list[Any]:
        """Return all keys, the oldest first."""
        found = self.reader.read_keys(self.map_name)
        return [key for raw in found if (key := self.shown_keys.passing(raw, self._tests)) is not LEFT_OUT]

    def values(self) -> list[Any]:
        """Return the newest value of each key, the oldest key first."""
        return [value for _, value in self.items()]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys()) if self._tests else self.reader.size(self.map_name).keys

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        arguments = key if isinstance(key, tuple) and len(self.parameters) > 1 else (key,)
        found = self.get(*arguments, default=LEFT_OUT)
        if found is LEFT_OUT:
            raise KeyError(key)
        return found

    def __contains__(self, key: object) -> bool:
        try:
            self[key]
        except KeyError:
            return False
        return True

    def get(self, *arguments: Any, default: Any = None, **named: Any) -> Any:
        """Return the newest value of a key, or of a memoized function's arguments; else `default`.

            db.map("energies").get(3)
            db.map("energy").get(molecule, basis="sto-3g")

        An int finds a float of the same value where there is no such int.

        Raises:
            MisuseError: They are not all of the arguments that make a key.
        """
        found = self._find(arguments, named)
        return default if found is None else self._decoded(found[1])

    def origin(self, *arguments: Any, **named: Any) -> Origin | None:
        """Return how the newest value of a key came about, None where there is no such key; takes what `get` takes.

        db.map("energy").origin(molecule, basis="sto-3g").seconds
        """
        found = self._find(arguments, named)
        marks = [] if found is None else [mark for mark in self.reader.marks(self.map_name) if mark.key == found[0]]
        return marks[-1].origin if marks else None

    def _find(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[str, str] | None:
        """Return the key that is meant, and the text of its value."""
        asked, text = self._asked(arguments, named)
        found = None if text is None else self.reader.lookup(self.map_name, text)
        if found is None:
            text = self._similar(asked, text)
            found = None if text is None else self.reader.lookup(self.map_name, text)
        elif text is not None and self.shown_keys.passing(text, self._tests) is LEFT_OUT:
            return None
        return None if found is None or text is None else (text, found)

    def where(self, **conditions: Any) -> ResultsMap:
        """Return the part of the map whose arguments have these values, or pass these tests.

            db.map("energy").where(basis="sto-3g", distance=lambda x: x < 2)

        In a map whose keys are records, names are those of fields; of other keys, `where(key=...)`.

        Raises:
            MisuseError: There is no such argument.
        """
        narrowed = ResultsMap.__new__(ResultsMap)
        narrowed.__dict__.update(self.__dict__)
        known = self._condition_names()
        for name in conditions:
            if known and name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise MisuseError(f"where({name}=...): {hint}{self.name} has {', '.join(known)}")
        narrowed._tests = {**self._tests, **{name: test_of(value) for name, value in conditions.items()}}
        return narrowed

    def info(self) -> MapInfo:
        """Return what is known of the map without reading all of it."""
        size = self.reader.size(self.map_name)
        entries = [
            (self.shown_keys.key(key), LEFT_OUT if text is None else self._shown(text)) for key, text, _ in self._sample
        ]
        kinds = [shown.kind(value) for _, value in entries if value is not LEFT_OUT]
        example = next(((key, value) for key, value in entries if value is not LEFT_OUT), None)
        return MapInfo(
            name=self.name,
            version=self.version,
            kind=self.kind,
            count=size.keys,
            key=self._kind_of_keys([key for key, _ in entries]),
            value=shown.either(kinds),
            example=example,
            size=size.characters,
            time=size.time,
            function=self.function,
            map_name=self.map_name,
        )

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Return columns and rows: a column for each argument and for the result; fields of records have their own."""
        rows = [tables.row_of(self.kind, key, value) for key, value in self.items()]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return columns, [[row.get(name) for name in columns] for row in rows]

    def frame(self, library: Literal["pandas", "polars"] | None = None) -> Any:
        """Return a DataFrame of pandas, or of polars where only that is installed (or asked for).

        It has a column for each argument, or for the key, and for the result. A record's fields are columns: those of
        an argument as `molecule.charge`, those of the result by their names.

        Raises:
            ConfigurationError: Neither is installed.
        """
        return tables.frame(*self.table(), library)

    def __repr__(self) -> str:
        version = f", version {self.version}" if self.version else ""
        return f"<{self.kind} {self.name!r}{version} in {self.reader.where}>"

    def _repr_html_(self) -> str:
        columns, rows = self.table()
        more = f"and {len(rows) - tables.SHOWN} more" if len(rows) > tables.SHOWN else ""
        version = f", version {self.version}" if self.version else ""
        return shown.html_table(f"{self.name}{version}: {len(rows)} entries", columns, rows[: tables.SHOWN], more)

    # ---- keys ----------------------------------------------------------------------------------------------------

    def _condition_names(self) -> list[str]:
        if self.kind == "memoized":
            return self.parameters
        fields = {name for raw, _, _ in self._sample for name in shown.fields(self.shown_keys.key(raw)) or ()}
        return ["key", *sorted(fields)] if self._sample else []

    def _asked(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, str | None]:
        """Return the key that is asked for, and its text where it can be written."""
        if self.kind != "memoized":
            if len(arguments) != 1 or named:
                raise MisuseError(f"{self!r}.get: one key is needed, as in get(key)")
            return arguments[0], text_of(arguments[0])
        if len(arguments) == 1 and isinstance(arguments[0], Arguments) and not named:
            named, arguments = arguments[0].asdict(), ()
        if self._memo is not None and not self._memo.ignore:
            bound = self._memo.signature.bind(*arguments, **named)
            bound.apply_defaults()
            values = dict(bound.arguments)
            with suppress(SerializationError):
                return Arguments(values.values(), values), self._memo.key(arguments, named)
        else:
            values = self._values(arguments, named)
        texts = [text_of(value) for value in values.values()]
        if any(text is None for text in texts):
            return Arguments(values.values(), values), None
        parts = sorted(f"{keys.encode(name)}:{text}" for name, text in zip(values, texts, strict=True))
        return Arguments(values.values(), values), "{" + ",".join(parts) + "}"

    def _values(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        names = self.parameters
        if len(arguments) > 1 and not self._parameters:
            raise MisuseError(
                f"{self!r} was recorded by an earlier version, which did not note the order of arguments; name them: "
                f"get({', '.join(f'{name}=...' for name in names)})"
            )
        values = {**dict(zip(names, arguments, strict=False)), **named}
        if len(arguments) > len(names) or set(values) != set(names):
            raise MisuseError(f"{self!r}: a key has the arguments {', '.join(names)}; given were {sorted(values)}")
        return {name: values[name] for name in names}

    def _similar(self, asked: Any, text: str | None) -> str | None:
        """Return the only key that differs in what is an int and what a float, or is shown as what is asked for."""
        wanted = None if text is None else loose(json.loads(text))
        found = [
            raw
            for raw in self.reader.read_keys(self.map_name)
            if (key := self.shown_keys.passing(raw, self._tests)) is not LEFT_OUT
            and ((wanted is not None and loose(json.loads(raw)) == wanted) or equal(key, asked))
        ]
        return found[0] if len(found) == 1 else None

    # ---- values --------------------------------------------------------------------------------------------------

    def _shown(self, text: str) -> Any:
        return shown.decoded(text, self._makers)

    def _decoded(self, text: str) -> Any:
        if self._value is Any:
            return self._shown(text)
        try:
            return codec_for(self._value).decode(text)
        except SerializationError as error:
            raise DatabaseError(f"a value of {self!r} is not of the type that was given: {error}") from error

    def _kind_of_keys(self, found: list[Any]) -> str:
        if self.kind != "memoized":
            return shown.either(map(shown.kind, found))
        arguments = [key.asdict() for key in found]
        return ", ".join(
            f"{name}: {shown.either(shown.kind(one[name]) for one in arguments if name in one)}"
            for name in dict.fromkeys(name for one in arguments for name in one)
        )


def _names(told: Any) -> list[str]:
    for names in told:
        if isinstance(names, list):
            return [name for name in names if isinstance(name, str)]
    return []


def _modules(told: dict[str, Any]) -> dict[str, str]:
    found = told.get("classes")
    return found if isinstance(found, dict) else {}


def _makers(key: Any, known: Memo | None) -> plain.Makers:
    hints = [] if key is Any else [key]
    if known is not None:
        hints += (known.hints or records.hints_of(known.fn)).values()
    makers: dict[str, Any] = {}
    for hint in hints:
        makers |= records.makers(hint)
    return makers


# ---- where a run's results are ---------------------------------------------------------------------------------------


def open_results(
    path_or_run: str | os.PathLike[str] | program.ProgramInfo, *, base_dir: str | os.PathLike[str] = BASE_DIR
) -> Results:
    """Open what a program has recorded, to read it: also while it runs, in a script, a shell or a notebook.

        db = hf.open_results("20261120-0745")      # needs no closing; `with` works, too
        db.maps()
        db.map("energy")[molecule, "sto-3g"]
        db.map("energy").where(basis="sto-3g").frame()

    Nothing is written, made or locked, and no engine starts. Of a Cluster program that runs, this is what has come into
    the program's database so far; what a running job has recorded comes there every few seconds.

    Args:
        path_or_run: A run's directory, its id or the beginning of that; the database's file, also another user's; the
            URL of a PostgreSQL server; or a ProgramInfo.
        base_dir: Where ids are looked for.

    Raises:
        ConfigurationError: There is no such run or file; or there is none yet.
        DatabaseError: The file is empty, damaged, not hyperflow's or of a newer version.
    """
    return Results(reader(database_of(path_or_run, Path(base_dir))))


def database_of(which: str | os.PathLike[str] | program.ProgramInfo, base_dir: Path) -> Path | str:
    """Return the database's file, or its URL."""
    if isinstance(which, program.ProgramInfo):
        return which.database
    if program.is_url(which):
        return str(which)
    path = Path(which)
    if path.is_dir():
        return _in_directory(path.absolute())
    if path.exists() or len(path.parts) != 1 or path.suffix:
        if not path.exists():
            raise ConfigurationError(f"there is no results database {path.absolute()}")
        return path
    homes: list[Path] = []
    with suppress(OSError):
        homes = sorted(home for home in base_dir.absolute().iterdir() if home.is_dir())
    return _in_directory(program.chosen(str(which), homes, base_dir))


def _in_directory(home: Path) -> Path | str:
    with suppress(ValueError, KeyError, TypeError, OSError):
        told = str(files.from_json((home / "program.json").read_bytes())["database"])
        if program.is_url(told):
            return told
        if Path(told).exists():
            return Path(told)
    if (own := home / "results.sqlite").exists():  # also of a run that was moved
        return own
    starts = {path: re.fullmatch(r"results\.(\d+)\.(\d+)\.sqlite", path.name) for path in home.glob("results.*.sqlite")}
    jobs = {path: (int(match[1]), int(match[2])) for path, match in starts.items() if match}
    if jobs:  # the directory of a job
        return max(jobs, key=lambda path: jobs[path])
    raise ConfigurationError(
        f"{home} has no results database: its program has recorded nothing yet, or it keeps its results elsewhere "
        "(ProgramInfo.new(database=...)); then name that file or URL"
    )
