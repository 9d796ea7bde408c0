"""`hyperflow node join` makes this machine a node of a pool; `hyperflow pool access` prints what it needs for that."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from hyperflow.cli.answers import BASE_DIR, REFUSED, BaseDir, Which, answering
from hyperflow.errors import ConfigurationError
from hyperflow.sizes import to_seconds

OnHeadLost = Literal["stop", "finish-running"]

Cpus = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]


def add_to_node(app: App) -> None:
    """Add `hyperflow node join`."""
    app.command(answering(join), name="join")


def add_to_pool(app: App) -> None:
    """Add `hyperflow pool access`."""
    app.command(answering(access), name="access")


def join(
    run: Which = None,
    *,
    cpus: Cpus = None,
    time_limit: str | None = None,
    idle_timeout: str | None = None,
    on_head_lost: OnHeadLost = "stop",
    access: Path | None = None,
    name: str | None = None,
    base_dir: BaseDir = BASE_DIR,
) -> int:
    """Let this machine be a node of a running program's pool, which says NodePool(..., listen=...).

    Where the head cannot reach a node, the node comes to the head: start this by hand, by mpirun, srun or pbsdsh, or in
    a pod. It ends when the program, the pool or the time limit ends, or on SIGTERM or Ctrl-C: then nothing new is
    started here, and what runs has up to 25 seconds.

    The exit code is 0 if the node was released in order, otherwise 1, with the reason.

    Parameters
    ----------
    cpus
        How many CPUs to use; by default all that a process may use here.
    time_limit
        How long this machine is there: 90s, 10m, 1h30m. By default what Slurm or PBS says, if one has started this.
    idle_timeout
        Leave after so long without work; by default never.
    on_head_lost
        What to do when the head is not heard any more. Only `stop` is possible: what runs is ended.
    access
        The access file, on a machine that does not see the run's directory: `hyperflow pool access RUN > FILE`.
    name
        What to call this node; by default its host name.
    """
    if on_head_lost != "stop":
        raise ConfigurationError(
            "--on-head-lost finish-running is not possible yet: without the head nobody takes the results. Evaluations "
            "that are to survive it write checkpoints (hyperflow.checkpoint_dir)"
        )
    limit = None if time_limit is None else to_seconds("--time-limit", time_limit)
    idle = None if idle_timeout is None else to_seconds("--idle-timeout", idle_timeout)
    # asyncssh costs 0.1 s, which other commands need not pay
    from hyperflow._job import run_in_new_loop  # noqa: PLC0415
    from hyperflow.pools.joining import access as access_file  # noqa: PLC0415
    from hyperflow.pools.joining import joining, walltime  # noqa: PLC0415

    found = access_file.read(access or _access_of(run, base_dir))
    left = walltime.seconds_left(os.environ) if limit is None else limit
    how = joining.Joining(cpus, left, idle)
    if name is not None:
        how = joining.Joining(cpus, left, idle, name)
    print(f"joining the pool at {found.where}", file=sys.stderr)

    def joined(name: str, logs: str) -> None:
        print(f"joined as {name}; logs: {logs}", file=sys.stderr)

    try:
        ended = run_in_new_loop(joining.join(found, how, joined))
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(f"hyperflow: {'released' if ended.in_order else 'ended'}: {ended.why}", file=sys.stderr)
    return 0 if ended.in_order else REFUSED


def access(run: Which = None, *, base_dir: BaseDir = BASE_DIR) -> int:
    """Print what a node needs to join the pool of a running program: `hyperflow pool access RUN > FILE`.

    Whoever has it can run anything as you, at the head and on its nodes: keep the file as you keep a private ssh key.
    """
    from hyperflow.pools.joining import access as access_file  # noqa: PLC0415 (see above)

    text = access_file.read(_access_of(run, base_dir)).text()
    there = os.fstat(sys.stdout.fileno())
    if stat.S_ISREG(there.st_mode) and there.st_uid == os.geteuid():
        os.fchmod(sys.stdout.fileno(), 0o600)  # the shell has made it, for others to read
    print(text, end="", flush=True)
    return 0


def _access_of(run: str | None, base_dir: Path) -> Path:
    from hyperflow.cli import heads  # noqa: PLC0415 (see above)
    from hyperflow.pools.joining.listening import expected_access  # noqa: PLC0415 (see above)

    return expected_access(heads.find(run, base_dir))
