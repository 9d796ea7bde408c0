"""The one place where a forked child of the launcher becomes a worker, and so enters the room worker/.

The import is in the function, because worker/ needs asyncio and pickle: the launcher imports them when it forks the
first worker, not while it starts.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
from typing import NoReturn

from hyperflow.wire import survivors
from hyperflow.wire.messages import ForkOrder, Guest, Setup

_OF_STEP = ("SLURM_", "PMI_", "PMIX_")
"""How variables of the step begin that has started this launcher: an MPI would take itself for a rank of that."""

_OF_NODE = ("HYPERFLOW_SERVICE_ID", survivors.VARIABLE)
"""What is another one on each node, beside CPUs and GPUs."""


def before_fork() -> None:
    """In the launcher: do what would cost the child a copy of each page that it touches."""
    from hyperflow.worker import capsules, surroundings  # noqa: PLC0415 (see above)

    capsules.seed_next()
    surroundings.make_ready()


def become_worker(sock: socket.socket, page: mmap.mmap, setup: Setup, order: ForkOrder) -> int:
    """Evaluate what comes through the socket until it ends; return the exit code."""
    from hyperflow.worker import worker  # noqa: PLC0415 (see above)

    info = worker.WorkerInfo(
        service_id=order.name,
        node=setup.node,
        cpus=order.cpus,
        pinned=order.pinned,
        log_file=order.log_file,
        program_id=setup.program_id,
        gpus=order.gpus,
    )
    return worker.serve(sock, page, info, order.fresh, setup.echo)


def become_guest(order: Guest) -> NoReturn:
    """Become a program that belongs to an evaluation on another node; what it prints is its log."""
    from hyperflow.wire import here  # noqa: PLC0415 (only programs need it)
    from hyperflow.worker.settling import settle  # noqa: PLC0415 (see above)

    try:
        for name in [name for name in os.environ if name.startswith(_OF_STEP)]:
            del os.environ[name]
        os.environ.update(order.environment)
        settle(order.log_file, order.name, order.cpus, order.pinned, order.gpus)
        own = here.variables(order.cpus, order.pinned, order.gpus)
        own |= {name: os.environ[name] for name in _OF_NODE if name in os.environ}
        os.environ.update(own)
        os.environ[here.VARIABLE] = here.exported(own)
        os.chdir(order.cwd)
        os.execvp(order.argv[0], order.argv)
    except OSError as error:
        os.write(2, f"cannot start {' '.join(order.argv)[:200]}: {error}\n".encode())
    sys.stderr.flush()
    os._exit(127)
