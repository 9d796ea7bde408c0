"""`hyperflow var`: list, get and set the variables (`ExtVar`) of a program, whether or not it runs.

They are files in its directory, so this works for a Cluster program and for a job that is run by itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from hyperflow import extvar, files
from hyperflow.cli import heads
from hyperflow.cli.answers import BASE_DIR, BaseDir, Json, RunOption, Which, answering
from hyperflow.errors import ConfigurationError
from hyperflow.extvar import ExtVar

RUN = "RUN is the program: its id, the beginning of it, or its directory; by default the newest that has variables."

app = App(name="var", help="Look at and set the variables (ExtVar) of a program while it runs.")


def add_to(main: App) -> None:
    """Add the commands to the command line."""
    main.command(app)


@app.command
@answering
def list_(run: Which = None, *, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Show the variables of a program with their values: those that it has read, and those that were set."""
    home = _find(run, base_dir)
    found = texts(home)
    if as_json:
        print(json.dumps({"run": str(home), "variables": {name: _value(text) for name, text in found.items()}}))
        return 0
    for name, text in found.items():
        print(f"{name}  {text}")
    if not found:
        print(f"run {home.name} has no variables: its program has read no ExtVar so far, and none was set")
    return 0


@app.command
@answering
def get(
    *words: Annotated[str, Parameter(help=f"[RUN] NAME. {RUN}")],
    run: RunOption = None,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Print the value of a variable, as JSON: hyperflow var get [RUN] NAME."""
    which, name = _split(words, run, "get", "NAME")
    here = ExtVar[object](name).of(_find(which, base_dir))
    here.get()  # raises if the value is not valid
    print(_text(here.path))
    return 0


@app.command
@answering
def set_(
    *words: Annotated[
        str,
        Parameter(
            help=f"""[RUN] NAME VALUE. {RUN} A variable that the program has not read yet is made, with a note. The """
            """value is JSON: 0.5, true, '"text"', '[1, 2]'.""",
            allow_leading_hyphen=True,
        ),
    ],
    run: RunOption = None,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Set a variable: hyperflow var set [RUN] NAME VALUE. The program gets the value when it reads it next."""
    which, name, value = _split(words, run, "set", "NAME", "VALUE")
    here = ExtVar[object](name).of(_find(which, base_dir))
    text = as_json_text(value)
    if here.version() is None:
        there = ", ".join(extvar.names(here.path.parent.parent)) or "none yet"
        print(f"note: the program has not asked for {name} so far; it has {there}", file=sys.stderr)
    extvar.write(here.path, text, over=True)
    return 0


def as_json_text(value: str) -> str:
    """Return what somebody has typed as a variable's file has it; raises ConfigurationError if it is no JSON."""
    try:
        return json.dumps(files.from_json(value))
    except ValueError as error:
        quoted = json.dumps(value)
        raise ConfigurationError(f"{value} is no JSON ({error}); a text needs its quotes: {quoted!r}") from None


def texts(home: Path) -> dict[str, str]:
    """Return the variables of a run, each with what its file says."""
    return {name: _text(home / "vars" / f"{name}.json") for name in extvar.names(home)}


def _find(which: str | None, base_dir: Path) -> Path:
    """Return the directory of a program; for None, of the newest that has variables, or else of the newest."""
    newest = heads.find(which, base_dir)
    if which is not None or extvar.names(newest):
        return newest
    home = next((home for home in reversed(heads.all_in(base_dir)) if extvar.names(home)), newest)
    if home != newest:
        print(f"note: this is {home.name}; the newest, {newest.name}, has no variables so far", file=sys.stderr)
    return home


def _split(words: tuple[str, ...], run: str | None, command: str, *names: str) -> list[Any]:
    """Return the run, None where none was named, and the other words of a command; `run` is the option's."""
    words = words if run is None else (run, *words)
    missing = len(names) + 1 - len(words)
    if missing not in (0, 1):
        raise ConfigurationError(
            f"`var {command}` takes {' and '.join(names)}, and before them a RUN where you do not mean the newest; "
            f"type: hyperflow var {command} [RUN] {' '.join(names)}"
        )
    return [*[None] * missing, *words]


def _text(path: Path) -> str:
    try:
        return extvar.read(path).strip()
    except OSError as error:
        return f"({error.strerror})"
    except (UnicodeDecodeError, ConfigurationError) as error:
        return f"({error})"


def _value(text: str) -> object:
    try:
        return files.from_json(text)
    except ValueError:
        return None
