"""Time and state: how long a function may go on, and where it keeps what its next try is to find."""

from __future__ import annotations

import math
from pathlib import Path

from hyperflow import environment
from hyperflow.errors import MisuseError, NotInFlow
from hyperflow.worker import worker


def time_left() -> float:
    """Return for how many seconds this function, or this job, can go on: until what runs here is ended.

    That is some seconds (at most 10) before the end of the allocation, so that results still reach the job; on a
    worker, the evaluation's own `time_limit` if that is sooner. `math.inf` where no end is known, also outside of a
    run. Cheap: a look into memory, to be made in a loop, in threads and child processes of the function, too.
    """
    found = _deadlines()
    return math.inf if found is None else found.time_left()


def ending() -> bool:
    """Tell whether what runs here is to end soon: a function saves its state now, and returns or raises.

        for step in range(first, 1000):
            if hf.ending():
                save(step)
                raise hf.AllocationEnding  # to be started again

    True once the allocation's end is near (`end_margin`, a minute before it if the user has set no other), once Slurm
    has announced it by a signal (`#SBATCH --signal=USR1@120`), or once a person drains the node (`hyperflow node
    drain`). On a worker also when less than a tenth of the evaluation's own `time_limit` is left, or a minute if that
    is less. As cheap as `time_left`.

    An evaluation that then raises AllocationEnding gives back its place and uses no retries: it is started again on
    another node, or ends with the allocation and is started again after it (`run_job_slurm(job, requeue=True)`, or the
    next run). With its own time limit it is an error like others.
    """
    found = _deadlines()
    return found is not None and found.is_ending()


def _deadlines() -> environment.Deadlines | None:
    inline = environment.inline_evaluation.get() or worker.deadlines()
    if inline is not None:
        return inline
    env = environment.peek() or environment.started()
    return None if env is None else env.evaluator


def checkpoint_dir() -> Path:
    """Return a directory in which this evaluation keeps its state, and in which its next try finds it.

        def simulate(x):
            saved = hf.checkpoint_dir() / "state.npy"
            state = np.load(saved) if saved.exists() else start(x)

    It is on the disk that all nodes of the program share, empty at the first try, and for its user alone. The next try
    gets the same one: after an exception or crash under `retries`, after the loss of a node. In a computation that is
    memoized (`memoize`, `KeyValMap.memoize`), the same call also gets it in a later run that goes on with the same
    database, or from it, and after a requeue: a call is known by the memoized call that it is part of, its function's
    name, its arguments and what it captured. Without memoize it is kept within this run only.

    It is removed when the evaluation has succeeded and, where that is memoized, the result is recorded; it stays after
    a failure. `hyperflow gc` shows and removes old ones. No two evaluations have one directory at the same time: of
    equal calls side by side each gets one of its own (which of them, in a later run, is not promised), and so does the
    copy of a straggler. A directory whose owner may still be at work on another machine is not used; the new one is
    empty, and a warning says so. Write a file beside the old one and rename it: a node may end in the middle.

    An item of a remote_map in chunks has a directory within that of its chunk, and loses it when the chunk is taken
    apart after a failure: for items that save their state, write `chunk_size=1`.

    The first call in an evaluation asks the head, and has to be made by the function itself; afterwards threads and
    child processes that were forked may call it, too.

    Raises:
        MisuseError: In the job itself; or first in a thread or child process.
        NotInFlow: Neither an evaluation nor a flow runs here.
    """
    inline, client = environment.inline_evaluation.get(), worker.lock_client()
    if inline is not None:
        return _of_item(inline.checkpoint_dir())
    if client is not None:
        return _of_item(Path(client.checkpoint_dir()))
    if environment.peek() is None and environment.started() is None:
        raise NotInFlow(
            "checkpoint_dir() belongs in a function that runs on a worker: await hyperflow.remote_eval(my_function)"
        )
    raise MisuseError(
        "checkpoint_dir() belongs in a function that runs on a worker, and this is the job itself. What a job has "
        "computed is kept by @hyperflow.memoize; a directory of its own is `await hyperflow.new_work_dir(key)`"
    )


def _of_item(path: Path) -> Path:
    """Return the directory of the item of a remote_map that runs here, if one does."""
    if (item := environment.map_item.get()) is not None:
        path /= f"item-{item[-1]}"
        path.mkdir(mode=0o700, exist_ok=True)
    return path
