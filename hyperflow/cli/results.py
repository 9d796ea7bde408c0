"""`hyperflow results`: the maps of a run, finished or not, and what is in one of them."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from cyclopts import App, Parameter
from rich.text import Text

from hyperflow import program
from hyperflow.cli import heads, runs
from hyperflow.cli.answers import BASE_DIR, BaseDir, Json, answering
from hyperflow.console.table import plain_table, print_lines, print_table
from hyperflow.database import shown
from hyperflow.database.results import Results, ResultsMap, open_results
from hyperflow.errors import ConfigurationError
from hyperflow.saying import in_one_line

SHOWN = 200
"""So many rows a terminal gets; a file or a pipe gets all."""


def add_to(app: App) -> None:
    """Add the command to the command line."""
    app.command(answering(results_))


def results_(  # noqa: PLR0913 (the options of a command)
    run: Annotated[
        str | None,
        Parameter(
            help="A run: its id, the beginning of it, its directory, its database's file or URL; by default the newest."
        ),
    ] = None,
    name: Annotated[str | None, Parameter(name="MAP", help="A map, or the name of a memoized function.")] = None,
    /,
    *,
    as_csv: Annotated[bool, Parameter(name="--csv", negative="", help="Print comma-separated values.")] = False,
    as_parquet: Annotated[
        bool, Parameter(name="--parquet", negative="", help="Write a Parquet file; needs polars or pyarrow.")
    ] = False,
    as_json: Json = False,
    where: Annotated[
        tuple[str, ...],
        Parameter(name="--where", negative="", help="NAME=VALUE: only with this argument; may be given several times."),
    ] = (),
    version: Annotated[str | None, Parameter(help="Of a memoized function; by default the newest.")] = None,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="The file to write; by default standard output.")
    ] = None,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Show what a program has recorded, also while it runs: its maps, or the entries of one.

    A map has a column for each argument and for the result; fields of records have columns of their own.
    """
    if as_csv + as_parquet + as_json > 1:
        raise ConfigurationError("--csv, --parquet and --json are three forms: choose one")
    if run is not None and name is None and not is_run(run, base_dir):
        run, name = None, run
    db = opened(run, base_dir)
    if name is None:
        if where or version is not None or as_parquet or output is not None:
            raise ConfigurationError("name a map, too: hyperflow results RUN MAP; `hyperflow results` shows which")
        return _show_maps(db, as_json, as_csv)
    chosen = _filtered(db.map(name, version=version), where)
    if as_parquet:
        with _binary(output) as file:
            _write_parquet(chosen, file)
        return 0
    if as_json:
        text = _in_json(db, chosen)
    elif as_csv:
        text = _in_csv(*chosen.table())
    else:
        if output is not None:
            raise ConfigurationError("--output is for --csv, --parquet or --json")
        _print_rows(chosen)
        return 0
    if output is None:
        sys.stdout.write(text)
    else:
        _put(output, text)
    return 0


def opened(run: str | None, base_dir: Path) -> Results:
    """Open the results of a run, by default the newest one."""
    place = run if run is not None and _is_place(run) else runs.chosen(run, _homes(base_dir), base_dir)
    return open_results(place, base_dir=base_dir)


def _is_place(run: str) -> bool:
    """Whether it is a URL, a file, or a directory: what needs not be looked for in the base directory."""
    return program.is_url(run) or Path(run).exists() or "/" in run


def is_run(word: str, base_dir: Path) -> bool:
    """Whether a word alone is a run and not a map: its form says so."""
    if program.is_url(word) or Path(word).is_file() or "/" in word:
        return True
    path = Path(word)
    if path.is_dir() and ((path / "program.json").exists() or any(path.glob("*.sqlite"))):
        return True
    return word[:1].isdigit() and any(home.name.startswith(word) for home in _homes(base_dir))


def _homes(base_dir: Path) -> list[Path]:
    """Return the directories of what may have results, the oldest first."""
    found = {*heads.all_in(base_dir), *(path.parent for path in base_dir.absolute().glob("*/results.sqlite"))}
    return sorted(found)


def _filtered(found: ResultsMap, where: tuple[str, ...]) -> ResultsMap:
    for condition in where:
        name, equals, text = condition.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--where {condition}: write NAME=VALUE, as in --where basis=sto-3g")
        found = found.where(**{name: is_(text)})
    return found


def is_(text: str) -> Callable[[Any], bool]:
    """Return a test: the argument is this text, or what it says in JSON, or is shown as it."""
    try:
        wanted = json.dumps(json.loads(text), sort_keys=True)
    except ValueError:
        wanted = None

    def test(value: Any) -> bool:
        if value == text if isinstance(value, str) else shown.short(value, 1000) == text:
            return True
        if wanted is None:
            return False
        simple = json.dumps(shown.as_json(value), sort_keys=True)
        return simple == wanted or (_number(simple) is not None and _number(simple) == _number(wanted))

    return test


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _show_maps(db: Results, as_json: bool, as_csv: bool) -> int:
    maps = db.maps()
    if as_json:
        rows = [
            {
                "name": one.name,
                "version": one.version,
                "kind": one.kind,
                "count": one.count,
                "key": one.key,
                "value": one.value,
                "size": one.size,
                "time": one.time,
                "function": one.function,
                "example": None if one.example is None else [shown.as_json(part) for part in one.example],
            }
            for one in maps
        ]
        print(json.dumps({"results": db.where, "maps": rows}, indent=2))
        return 0
    if as_csv:
        sys.stdout.write(_in_csv(list(maps.HEADINGS), [list(row) for row in maps.rows()]))
        return 0
    print(f"results in {db.where}{'' if maps else ': nothing yet'}")
    if maps:
        table = plain_table()
        for heading in maps.HEADINGS:
            whole = heading in ("name", "version", "count", "size")
            table.add_column(heading, no_wrap=True, justify="right" if heading in ("count", "size") else "left")
            if whole:
                table.columns[-1].min_width = max(
                    len(heading), *(len(row[len(table.columns) - 1]) for row in maps.rows())
                )
        for row in maps.rows():
            table.add_row(*map(Text, row))
        print_table(table, sys.stdout)
    return 0


def _print_rows(found: ResultsMap) -> None:
    columns, rows = found.table()
    shown_rows = rows[:SHOWN] if sys.stdout.isatty() else rows
    if columns:
        print_lines(
            [[*map(in_one_line, columns)], *([shown.short(value) for value in row] for row in shown_rows)], sys.stdout
        )
    more = len(rows) - len(shown_rows)
    if more:
        print(f"and {more} more: --csv, --json or --parquet have all")
    elif not rows:
        print(f"no entries in {found.name}")


def _in_json(db: Results, found: ResultsMap) -> str:
    entries = [{"key": shown.as_json(key), "value": shown.as_json(value)} for key, value in found.items()]
    about = {"results": db.where, "map": found.name, "version": found.version, "function": found.function}
    return json.dumps({**about, "entries": entries}, indent=2) + "\n"


def _in_csv(columns: list[str], rows: list[list[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([shown.cell(value) for value in row] for row in rows)
    return file.getvalue()


def _put(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", errors="backslashreplace")  # a value may have half a surrogate pair
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror or error}") from error


def _binary(output: Path | None) -> BinaryIO:
    if output is None:
        if sys.stdout.isatty():
            raise ConfigurationError("a Parquet file is not for a terminal: name a file with -o, or redirect")
        return open(sys.stdout.fileno(), "wb", closefd=False)
    try:
        return output.open("wb")
    except OSError as error:
        raise ConfigurationError(f"cannot write {output}: {error.strerror or error}") from error


def _write_parquet(found: ResultsMap, file: BinaryIO) -> None:
    columns, rows = found.table()
    data = {name: _of_one_type([shown.cell(row[place]) for row in rows]) for place, name in enumerate(columns)}
    # By name: they are optional, and not all have types.
    if importlib.util.find_spec("polars") is not None:
        importlib.import_module("polars").DataFrame(data, strict=False).write_parquet(file)
    elif importlib.util.find_spec("pyarrow") is not None:
        table = importlib.import_module("pyarrow").table(data)
        importlib.import_module("pyarrow.parquet").write_table(table, file)
    else:
        raise ConfigurationError("--parquet needs polars or pyarrow; type: pip install pyarrow")


def _of_one_type(values: list[Any]) -> list[Any]:
    """Return a column that a file of columns can hold: numbers of one kind, or texts."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds <= {int, float}:
        return [value if value is None else float(value) for value in values]
    return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
