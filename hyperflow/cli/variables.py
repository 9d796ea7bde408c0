"""`hyperflow var`: list, get and set the variables (`ExtVar`) of a program, whether or not its master runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import App, Parameter

from hyperflow import extvar, files
from hyperflow.cli import runs
from hyperflow.cli.jobs import BaseDir, Json, Which, answering
from hyperflow.cli.runs import BASE_DIR
from hyperflow.extvar import ExtVar

OneRun: TypeAlias = Annotated[str, Parameter(help="The program: its id, the beginning of it, or its directory.")]

app = App(name="var", help="Look at and set the variables (ExtVar) of a program while it runs.")


@app.command
@answering
def list_(run: Which = None, /, *, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Show the variables of a program with their values: those that it has read, and those that were set."""
    home = runs.find(run, base_dir).home
    texts = {name: _text(home / "vars" / f"{name}.json") for name in extvar.names(home)}
    if as_json:
        print(json.dumps({"run": str(home), "variables": {name: _value(text) for name, text in texts.items()}}))
    for name, text in texts.items() if not as_json else ():
        print(f"{name}  {text}")
    return 0


@app.command
@answering
def get(run: OneRun, name: Annotated[str, Parameter(help="The variable.")], /, *, base_dir: BaseDir = BASE_DIR) -> int:
    """Print the value of a variable, as JSON."""
    here = ExtVar[object](name).of(runs.find(run, base_dir).home)
    here.get()  # raises if the value is not valid
    print(_text(here.path))
    return 0


@app.command
@answering
def set_(
    run: OneRun,
    name: Annotated[str, Parameter(help="The variable. If the program has not read it yet, it is made, with a note.")],
    value: Annotated[str, Parameter(help="""JSON: 0.5, true, '"text"', '[1, 2]'.""")],
    /,
    *,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Set a variable; the program gets the value when it reads the variable next."""
    here = ExtVar[object](name).of(runs.find(run, base_dir).home)
    try:
        text = json.dumps(files.from_json(value))
    except ValueError as error:
        print(f"{value} is no JSON ({error}); a text needs its quotes: {json.dumps(value)!r}", file=sys.stderr)
        return 1
    if here.version() is None:
        there = ", ".join(extvar.names(here.path.parent.parent)) or "none yet"
        print(f"note: the program has not asked for {name} so far; it has {there}", file=sys.stderr)
    extvar.write(here.path, text, over=True)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        return f"({error.strerror})"


def _value(text: str) -> object:
    try:
        return files.from_json(text)
    except ValueError:
        return None
