"""Waits on a node until it is to end, and then ends the ranks that srun has started there, which are none of ours."""

import signal
import sys
import time

from hyperflow.wire import processes

SECONDS = 1.5
"""How long to look for what is left: less than what a launcher leaves to a process that it ends."""


def main() -> None:
    """Wait for the signal; end all that carries the mark that is the last argument."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    signal.sigwait([signal.SIGTERM])
    sweep(sys.argv[-1])


def sweep(mark: str) -> None:
    """Kill all of this node that was started with this in its environment."""
    deadline = time.monotonic() + SECONDS
    while (left := processes.carriers(mark)) and time.monotonic() < deadline:
        processes.kill_all(left)
        time.sleep(0.01)
