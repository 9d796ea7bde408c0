"""`hyperflow pool info|set|pause|resume`: how the pool of nodes of a running program stands, and steering it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.text import Text

from hyperflow.cli import elsewhere, heads, joining, named_pools
from hyperflow.cli.answers import BASE_DIR, BaseDir, Json, answering
from hyperflow.cli.heads import Head
from hyperflow.console.options import Resources
from hyperflow.console.table import plain_table, print_table
from hyperflow.control.client import Contact, HeadElsewhere, head
from hyperflow.errors import ConfigurationError
from hyperflow.pools.named import named
from hyperflow.saying import age, in_short, printable
from hyperflow.steering import LIMITS

app = App(
    name="pool",
    help="Pools of nodes, of a running program or with a name of their own: see how they stand, and steer them.",
)
named_pools.add_to(app)
joining.add_to_pool(app)

NO_RESOURCES = Resources()

RUN = Parameter(
    help="The name of a pool; or a program, by its id, the beginning of it, or its directory. By default the newest."
)

Steered = Annotated[str | None, RUN]
"""Given by its place, or as `--run`."""


def add_to(main: App) -> None:
    """Add the commands to the command line."""
    main.command(app)


@app.command
@answering
def info(run: Steered = None, *, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Show the allocations and hosts of a pool, why there are so many, and its limits."""
    one = heads.with_pool(run, base_dir)
    return _ask(one, ["pool", "info"], lambda contact: contact.get("/pool"), as_json)


@app.command(name="set")
@answering
def set_(
    limit: Annotated[str, Parameter(help=f"One of {', '.join(LIMITS)}.")],
    value: Annotated[str, Parameter(help="Its new value: a number, or a time such as 5m.")],
    /,
    run: Steered = None,
    *,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Change a limit of a pool while it is at work: `hyperflow pool set max_allocations 5`."""
    name = limit.replace("-", "_")
    if name not in LIMITS:
        raise ConfigurationError(f"a pool has no limit {limit!r}; it has {', '.join(LIMITS)}")
    one = heads.with_pool(run, base_dir)
    body = {name: _number(value)}
    return _ask(one, ["pool", "set", name, value], lambda contact: contact.post("/pool/set", **body), as_json)


@app.command
@answering
def pause(run: Steered = None, *, base_dir: BaseDir = BASE_DIR, as_json: Json = False) -> int:
    """Ask for no more allocations; what is queued or up stays."""
    one = heads.with_pool(run, base_dir)
    return _ask(one, ["pool", "pause"], lambda contact: contact.post("/pool/pause"), as_json)


@app.command
@answering
def resume(
    run: Steered = None,
    *,
    resources: Annotated[Resources, Parameter(name="*")] = NO_RESOURCES,
    base_dir: BaseDir = BASE_DIR,
    as_json: Json = False,
) -> int:
    """Go on with a pool that was paused or is held, with other options of sbatch if you name some."""
    changes = resources.changes()
    one = heads.with_pool(run, base_dir)
    words = [word for name, value in changes.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    body = {"changes": changes} if changes else {}
    return _ask(one, ["pool", "resume", *words], lambda contact: contact.post("/pool/resume", **body), as_json)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _ask(one: Head, words: Sequence[str], request: Callable[[Contact], Mapping[str, Any]], as_json: bool) -> int:
    """Make a request, here or on the host of the head, and print how the pool stands then."""
    try:
        told: Mapping[str, Any] = request(head(one.home))
    except HeadElsewhere as error:
        which = one.home.name if one.home.parent == named.directory() else str(one.home)
        there = [*words, "--run", which, "--json"]
        told = json.loads(elsewhere.carry_out(error.host, there, error, one.slurm_job))
    about = {"run": str(one.home), **told}
    if as_json:
        print(json.dumps(about, indent=2))
    else:
        print_pool(about, time.time())
    return 0


def print_pool(about: Mapping[str, Any], now: float) -> None:
    """Print how a pool stands, as `GET /pool` tells it."""
    allocations, hosts = about["allocations"], about["hosts"]
    states = [str(one["state"]) for one in allocations]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(printable(f"pool of {about['run']}: {about['state']}; allocations: {counts or 'none'}"))
    if about["why"]:
        print(printable(f"  {about['why']}"))
    if about["state"] == "held":
        print("  `hyperflow pool resume` goes on; --partition, --time and others change what is asked for")
    if about["reason"]:
        more = f"{about['wanted']} more wanted: " if about["wanted"] else ""
        print(printable(f"  {more}{about['reason']}{_stopped_by(about)}"))
    if about["limits"]:
        print(printable("  " + ", ".join(f"{name} {_limit(value)}" for name, value in about["limits"].items())))
    if allocations:
        _table(
            ("", "kind", "state", "Slurm", "nodes", "CPUs", "for", "ends in", "why"), map(_allocation(now), allocations)
        )
    if joined := about.get("joined"):
        print(printable(f"joined by themselves: {', '.join(joined)}"))
    if hosts:
        _table(("host", "state", "CPUs", "for", "next try", "why"), map(_host(now), hosts))
    if programs := about.get("programs"):
        _table(("program", "process", "CPUs", "waits for", "for"), map(_program(now), programs))


def _stopped_by(about: Mapping[str, Any]) -> str:
    """Return which limit keeps the pool from what is wanted, if one does."""
    most = about["limits"].get("max_allocations")
    live = sum(one["state"] != "ended" for one in about["allocations"])
    if not about["wanted"] or most is None or live < most:
        return ""
    return f"; max_allocations {most} allows no more"


def _limit(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _allocation(now: float) -> Callable[[Mapping[str, Any]], list[object]]:
    def row(one: Mapping[str, Any]) -> list[object]:
        over = one["state"] == "ended"  # how its nodes went stands in its cause
        nodes = ", ".join(str(each["name"]) if over else _node(each) for each in one["nodes"])
        left = "" if over or one["ends"] is None else age(max(one["ends"] - now, 0))
        times = age(max(now - one["since"], 0)), left
        why = in_short(one["cause"] or one["reason"])
        return [one["number"], one["kind"], one["state"], one["slurm_job"] or "", nodes, one["cpus"] or "", *times, why]

    return row


def _node(one: Mapping[str, Any]) -> str:
    """Return a node's name, and how it stands where that is not plain."""
    return str(one["name"]) if one["state"] == "up" else f"{one['name']} ({one['why'] or one['state']})"


def _host(now: float) -> Callable[[Mapping[str, Any]], list[object]]:
    def row(one: Mapping[str, Any]) -> list[object]:
        again = "" if one["next_try"] is None else age(max(one["next_try"] - now, 0))
        return [
            one["name"],
            one["state"],
            one["cpus"] or "all",
            age(max(now - one["since"], 0)),
            again,
            in_short(one["cause"]),
        ]

    return row


def _program(now: float) -> Callable[[Mapping[str, Any]], list[object]]:
    def row(one: Mapping[str, Any]) -> list[object]:
        return [one["program"], one["pid"], one["cpus"], one["wants"], age(max(now - one["since"], 0))]

    return row


def _table(headings: Sequence[str], rows: Any) -> None:
    table = plain_table()
    for heading in headings:
        numbers = heading in ("", "CPUs", "waits for", "for", "ends in", "next try", "Slurm")
        table.add_column(heading, justify="right" if numbers else "left", no_wrap=heading not in ("nodes", "why"))
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    print_table(table, sys.stdout)
