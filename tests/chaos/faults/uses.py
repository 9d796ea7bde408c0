"""What programs do beside: locks, cancels, short tasks. Without a fault, or with lost workers."""

import functools
import time

from tests.chaos.case import Case
from tests.chaos.promises import Promise
from tests.chaos.run import Run
from tests.chaos.workload import Workload

LOCKS, CANCELS = frozenset({Promise.LOCKS}), frozenset({Promise.CANCELLED})

USES = {
    "plain": (Workload(), frozenset[Promise]()),
    "many short": (Workload(keys=400, seconds=0.02, slow=12, limit=8), frozenset[Promise]()),
    "programs left": (Workload(leaves=True), frozenset[Promise]()),
    "locks": (Workload(keys=40, locks=2, cpus=4), LOCKS),
    "cancels": (Workload(keys=40, cancels=4, seconds=0.2, options={"retries": 2}), CANCELS),
    "locks and cancels": (Workload(keys=40, cancels=4, locks=2, cpus=4, seconds=0.1), LOCKS | CANCELS),
}


def lose_workers(run: Run) -> None:
    """Kill a worker now and then."""
    run.at_work()
    for _ in range(5):
        if (worker := run.one("worker")) is not None:
            worker.signal()
        time.sleep(run.rng.uniform(0, 0.3))


_case = functools.partial(Case, table="uses")

TABLE = (
    *(
        _case(name=f"{name}, nothing breaks", workload=workload, tries=tries, survives=True, quiet=True)
        for name, (workload, tries) in USES.items()
    ),
    *(
        _case(name=f"{name}, lost workers", attack=lose_workers, workload=workload, tries=tries)
        for name, (workload, tries) in USES.items()
    ),
)
