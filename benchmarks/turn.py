"""One turn of one contestant: `python -m benchmarks.turn benchmarks.many:hyperflow 120`; its last line is JSON.

The contestant is a child of this process, which adopts the daemons that it starts and leaves nothing of them. They
could not be found otherwise: some change their session, their name and what /proc tells of their environment.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable

from benchmarks import harness
from hyperflow.wire import processes

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL. Python's resource trackers ignore the first, and remove semaphores meanwhile."""


def contest(where: str) -> int:
    """Be the contestant: print figures, or why there are none."""
    try:
        said = harness.load(where)()
    except harness.Skipped as reason:
        said = {"skipped": str(reason)}
    except Exception as error:  # noqa: BLE001 (a peer may raise anything; it is told)
        said = {"skipped": f"failed: {type(error).__name__}: {error}"}
    print("\n" + json.dumps(said), flush=True)
    return 0


def wait_for(child: int, limit: float) -> int:
    """Return the child's exit code, and collect the orphans that end before it."""
    signal.setitimer(signal.ITIMER_REAL, limit)
    while True:
        pid, status = os.wait()
        if pid == child:
            signal.setitimer(signal.ITIMER_REAL, 0)
            return os.waitstatus_to_exitcode(status)


def end_all() -> None:
    """End what is left below this process."""
    deadline = time.monotonic() + GRACE
    processes.kill_all(processes.descendants(os.getpid()), signal.SIGTERM)
    while processes.descendants(os.getpid()) and time.monotonic() < deadline:
        processes.reap()
        time.sleep(0.005)
    processes.end_descendants()


def raising(error: BaseException) -> Callable[..., None]:
    """Return a handler of a signal that raises."""

    def handler(*_: object) -> None:
        raise error

    return handler


def main(where: str, limit: float = 120.0) -> int:
    """Run the contestant, see to it that nothing of it is left, and return its exit code."""
    child = os.fork()
    if child == 0:
        return contest(where)
    processes.adopt_orphans()
    processes.die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, raising(SystemExit(1)))
    signal.signal(signal.SIGALRM, raising(TimeoutError()))
    code, late = 0, False
    try:
        code = wait_for(child, limit)
    except TimeoutError:
        late = True
    finally:
        end_all()
    if late:
        print("\n" + json.dumps({"skipped": f"failed: it took more than {limit:.0f} s"}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(float, sys.argv[2:])))
