"""The holder: what an elastic allocation runs. It does nothing but be there, so that its nodes are.

    python -m hyperflow.pools.holder DIRECTORY NUMBER

It writes one small file, which says what Slurm has granted, and looks at the claim of its pool until that does not want
it any more, see `claim`. Its end is the end of the allocation, and of all steps in it. A second start (somebody
has requeued it by hand) ends at once: what ran here goes on elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from hyperflow.pools import claim

LOOK = 2.0
"""Seconds between two looks at the claim."""

PATIENCE = 360.0
"""The same as `Claim.patience`, for a holder that has never seen a claim."""


def report_name(number: int) -> str:
    """Return the name of the file that the holder of an allocation writes."""
    return f"holder-{number}"


def main() -> None:
    """Hold the allocation; the arguments are the pool's directory and the number of the allocation."""
    directory, number = Path(sys.argv[-2]), int(sys.argv[-1])
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Slurm's word that the end is near, which the head knows by itself
    if int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        print("this allocation was put back into the queue; its pool asks for another one")
        return
    _report(directory, number)
    print(_hold(directory, number), flush=True)


def _report(directory: Path, number: int) -> None:
    from hyperflow.files import write_whole  # noqa: PLC0415 (the claim is looked at without them)
    from hyperflow.slurm import allocation  # noqa: PLC0415 (see above)

    found = allocation.find(os.environ)
    said: dict[str, Any] = {
        "number": number,
        "slurm_job": found.job_id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "ends": found.end_time,
        "restarts": found.restart_count,
        "nodes": [{"name": it.name, "cpus": it.cpus, "gpus": it.gpus, "memory": it.memory} for it in found.nodes],
    }
    write_whole(directory / report_name(number), json.dumps(said).encode())


def _hold(directory: Path, number: int) -> str:
    """Wait until the allocation is not wanted any more, and say why."""
    seen, since, patience = b"", time.monotonic(), PATIENCE
    while True:
        data = claim.read(directory)
        if data and data != seen:
            seen, since = data, time.monotonic()
            if (said := claim.Claim.of(data)) is not None:
                patience = said.patience
                if not said.wants(number):
                    return "given back"
        if time.monotonic() - since > patience:
            return f"nobody has wanted this allocation for {patience:.0f} s"
        time.sleep(min(LOOK, patience / 4))
