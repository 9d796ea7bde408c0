"""`hyperflow pool start|list|stop`: pools that outlive a program."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import attrs
from cyclopts import App, Parameter, validators
from rich.text import Text

from hyperflow.cli.answers import REFUSED, Json, answering
from hyperflow.config import read_settings
from hyperflow.console.options import Resources
from hyperflow.console.table import plain_table, print_table
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.pools import scripts
from hyperflow.pools.named import named, starting
from hyperflow.pools.named.named import Named
from hyperflow.pools.nodepool import NodePool
from hyperflow.saying import age, printable

NO_RESOURCES = Resources()

AT_LEAST_ONE = validators.Number(gte=1)

ENDING_SECONDS = 60.0
"""How long `stop --now` waits for the end."""

Name = Annotated[str, Parameter(help="The pool's name.")]


@attrs.frozen
class Limits:
    """How many allocations there may be."""

    min_allocations: Annotated[
        int | None,
        Parameter(help="So many are kept, also while no program wants anything. By default one is asked for at once."),
    ] = None
    max_allocations: Annotated[
        int,
        Parameter(help="So many at most; with more than one, the pool grows with what waits.", validator=AT_LEAST_ONE),
    ] = 1
    max_queued: Annotated[int, Parameter(help="So many may wait at Slurm at a time.", validator=AT_LEAST_ONE)] = 2
    idle_timeout: Annotated[
        str, Parameter(help="An allocation that nobody uses is given back after this: 30m, 2h.")
    ] = "30m"
    hosts: Annotated[
        str, Parameter(help="Machines without Slurm, by ssh, with their CPUs: box1=32,box2; all by default.")
    ] = ""


LIMITS = Limits()


def add_to(app: App) -> None:
    """Add the commands to those of `hyperflow pool`."""
    app.command(answering(start))
    app.command(answering(list_), name="list")
    app.command(answering(stop))


def start(
    name: Name,
    /,
    *,
    resources: Annotated[Resources, Parameter(name="*")] = NO_RESOURCES,
    limits: Annotated[Limits, Parameter(name="*")] = LIMITS,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Print the batch script, ask Slurm about it, start nothing.")
    ] = False,
) -> int:
    """Start a pool of nodes that programs use by its name, one after the other or side by side.

    Its manager stays on this host when you log out. Without options, a pool that was killed goes on, and one that ended
    is started again.
    """
    named.check_name(name)
    options = _options(resources, limits)
    if dry_run:
        if options is None:
            raise ConfigurationError(f"pool start {name} --dry-run: what it may have is missing, such as --nodes 2")
        exclude = read_settings().exclude_nodes
        print(asyncio.run(scripts.rehearse(options, named.directory() / name / named.ALLOCATIONS, name, exclude)))
        return 0
    pool, what = starting.start(name, options, keeps=limits.min_allocations is not None)
    told = pool.contact().get("/pool")
    manager = pool.about.manager
    assert manager is not None
    print(f"pool {name} {what}: {named.options_in_words(pool.about.options)}")
    print(f"  its manager is process {manager.pid} on {manager.host}; its log is {pool.home / named.LOG}")
    if job := os.environ.get("SLURM_JOB_ID"):
        print(f"  it ends with Slurm job {printable(job)}, in which this was typed: on a login node it stays")
    for line in _stands(told):
        print(f"  {line}")
    print(f'  in programs here: hyperflow.run_job_pool(job(), "{name}")')
    print(f"  to look: hyperflow pool info {name}; to end it: hyperflow pool stop {name}")
    return 0


def _options(resources: Resources, limits: Limits) -> NodePool | None:
    """Return what a pool may have; None if nothing was said."""
    changes, hosts = resources.changes(), _hosts(limits.hosts)
    if not changes and not hosts:
        if limits != LIMITS:
            raise ConfigurationError(
                "what the pool may have is missing, such as --nodes 2 --time 8:00:00, or --hosts a=2"
            )
        return None
    at_once = 0 if not changes else min(1, limits.max_allocations)
    return NodePool(
        sbatch=resources.options() if changes else (),
        min_allocations=at_once if limits.min_allocations is None else limits.min_allocations,
        max_allocations=limits.max_allocations,
        max_queued=limits.max_queued,
        idle_timeout=limits.idle_timeout,
        hosts=hosts or (),
    )


def _hosts(text: str) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        host, said, cpus = part.partition("=")
        if said and (not cpus.isdecimal() or int(cpus) < 1):
            raise ConfigurationError(
                f"--hosts {text}: {part!r} has no number of CPUs; such as {host or 'box1'}=8 is right"
            )
        if host in found:
            raise ConfigurationError(f"--hosts {text}: {host} is there twice")
        found[host] = int(cpus) if said else None
    return found


def _stands(told: Mapping[str, Any]) -> list[str]:
    """Say how a pool stands, in some lines."""
    lines: list[str] = []
    for one in told["allocations"]:
        reason = one["cause"] or one["reason"]
        why = f" ({reason})" if reason else ""
        job = f"Slurm job {one['slurm_job']}" if one["slurm_job"] else "not at Slurm yet"
        lines.append(f"allocation {one['number']}: {one['state']}, {job}{why}")
    lines += [f"host {one['name']}: {one['state']}" for one in told["hosts"]]
    return lines or [f"no allocation: {told['why'] or told['reason'] or 'asked for when a program wants one'}"]


def list_(*, as_json: Json = False) -> int:
    """Show your pools: how they stand, what they have, and who uses them."""
    unusable: list[dict[str, Any]] = []
    there = named.everyone(lambda name, why: unusable.append(_unusable_row(name, why)))
    rows = [*unusable, *(_row(pool) for pool in there)]
    if as_json:
        print(json.dumps({"pools": rows}, indent=2))
        return 0
    if not rows:
        print("you have no pools. To start one, type: hyperflow pool start mine --nodes 1 --time 8:00:00")
        return 0
    table = plain_table()
    for heading in ("pool", "state", "for", "allocations", "CPUs", "lent", "programs", "what"):
        table.add_column(heading, justify="right" if heading in ("CPUs", "lent", "programs") else "left")
    for row in rows:
        since = None if row["since"] is None else age(max(time.time() - row["since"], 0))
        counts = (row["cpus"], row["cpus_lent"], row["programs"])
        cells = (row["name"], row["state"], since, row["allocations"], *counts, row["what"])
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in cells))
    print_table(table, sys.stdout)
    return 0


def _unusable_row(name: str, why: str) -> dict[str, Any]:
    """Return what is known of a pool whose directory is damaged, or not private."""
    unknown = ("since", "host", "allocations", "cpus", "cpus_lent", "programs", "pid")
    home = str(named.directory() / name)
    return {"name": name, "state": "unusable", "what": why, "home": home, **dict.fromkeys(unknown)}


def _row(pool: Named) -> dict[str, Any]:
    """Return what is known of a pool; what only its manager knows is None where that does not answer."""
    about, owner = pool.about, pool.about.manager
    row: dict[str, Any] = {"name": pool.name, "state": pool.state, "since": about.since, "host": owner and owner.host}
    row |= {"what": named.options_in_words(about.options), "allocations": None, "cpus": None, "cpus_lent": None}
    row |= {"programs": None, "pid": owner and owner.pid, "home": str(pool.home)}
    if pool.state == "ended":
        row |= {"since": about.ended, "what": about.cause}
    if pool.state == "running":
        try:
            told = pool.contact().get("/pool")
        except HyperflowError as error:
            return row | {"state": "silent", "what": str(error)}
        states = [str(one["state"]) for one in told["allocations"]]
        row["allocations"] = ", ".join(f"{states.count(each)} {each}" for each in dict.fromkeys(states)) or "none"
        row |= {"state": told["state"], "cpus": told["cpus"], "cpus_lent": told["cpus_lent"]}
        row["programs"] = len(told["programs"])
    return row


def stop(
    name: Name,
    /,
    *,
    now: Annotated[bool, Parameter(negative="", help="End what programs run there, too.")] = False,
) -> int:
    """End a pool. What is free is given back at once; programs keep the rest until their evaluations there end."""
    pool = named.find(name)
    if pool.state == "left":  # its allocations may live: who takes them over can end them
        pool, _ = starting.start(name, None, keeps=False)
    if pool.state == "ended":
        print(f"pool {name} has ended already: {pool.about.cause}")
        return 0
    told = starting.stop(pool, now)
    busy = [one for one in told["programs"] if one["cpus"]]
    ended = starting.wait_ended(pool, ENDING_SECONDS if now or not busy else 1.0)
    if ended is not None and ended.state == "left":
        print(
            f"the manager of the pool {name} was killed while it ended; `hyperflow pool stop {name}` again gives back "
            "what it has left",
            file=sys.stderr,
        )
        return REFUSED
    if ended is not None:
        print(f"pool {name} has ended; its allocations are given back")
        return 0
    if now:
        print(
            f"pool {name} has not ended within {ENDING_SECONDS:g} s; its log: {pool.home / named.LOG}", file=sys.stderr
        )
        return REFUSED
    who = ", ".join(f"{one['program']} (process {one['pid']}, {one['cpus']} CPUs)" for one in busy)
    print(f"pool {name} ends when the evaluations that run on it have ended: {who}")
    print(f"  to end them now: hyperflow pool stop {name} --now")
    return 0
