"""The one place where a forked child of the launcher becomes a worker, and so enters the room worker/.

The import is in the function, because worker/ needs asyncio and pickle: the launcher imports them when it forks the
first worker, not while it starts.
"""

from __future__ import annotations

import mmap
import socket

from hyperflow.wire.messages import ForkOrder, Setup


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
    )
    return worker.serve(sock, page, info, order.fresh, setup.echo)
