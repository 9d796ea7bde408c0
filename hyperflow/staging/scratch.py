"""scratch: a directory on the node's own disk, gone with the evaluation.

Guarantees: when the `with` ends, nothing of it is left, whatever rights a program has taken from its directories; when
the evaluation ends in another way (os._exit, a kill, a cancellation), its launcher removes it with the worker. What is
to be kept of a failure is copied before; if that cannot be, the user's own error is raised all the same, with a note.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperflow import environment
from hyperflow.config import read_settings
from hyperflow.errors import FileUnavailable, NotInFlow, ScratchFull
from hyperflow.saying import in_one_line
from hyperflow.wire import scratch as node
from hyperflow.wire.removal import remove
from hyperflow.worker import worker


@contextmanager
def scratch(keep_on_failure: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yield an empty directory on the node's own disk: `with hf.scratch() as d: ...`.

    In functions of evaluations, plain and async, in `open_inline_job`, and in the job itself. It is made where the
    node's scratch is (the setting `scratch`, or $TMPDIR there, or /tmp), and may be used by several programs of the
    evaluation. To make and remove it takes some system calls, and what removing its files takes.

    Args:
        keep_on_failure: A directory, relative to the program's: if the block raises, a copy of what is there goes into
            it, under the run's id and the number of the evaluation. A node that does not see the program's directory
            notes that it cannot.

    Raises:
        FileUnavailable: This node has no scratch directory; the message says why, and what to type.
        ScratchFull: There is no room for a directory.
    """
    keep = None if keep_on_failure is None else _keep_in(os.fspath(keep_on_failure))
    made, lock = _make()
    try:
        try:
            yield made
        except (Exception, SystemExit) as error:
            if keep is not None:
                _keep(made, keep, error)
            raise
    finally:
        if lock is None:
            remove(made)
        else:
            node.remove_whole(made.parent)
            os.close(lock)


def _make() -> tuple[Path, int | None]:
    """Make a directory; return it, and the lock of what is above it where that is for it alone."""
    if node.worker is None:
        try:
            own, lock = node.make_apart(read_settings().scratch)
        except OSError as error:
            raise FileUnavailable(f"there can be no scratch directory here: {error.strerror or error}") from error
        made = own / "scratch"
        made.mkdir(0o700)
        return made, lock
    above = node.directory_of(node.worker)
    info = worker.worker_info()
    if above is None:
        raise FileUnavailable(
            f"on {info.node} {node.why_not}. Name a place that can be written: HYPERFLOW_SCRATCH=/local, or "
            'scratch="/local" of run_*'
        )
    made = above / f"scratch-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        with suppress(FileExistsError):
            above.mkdir(0o700)
        made.mkdir(0o700)
    except OSError as error:
        raise ScratchFull(info.node, str(above.parent), f"no directory can be made: {error}", node.free()) from error
    worker.at_end("scratch directories", lambda: _empty(above))
    return made, None


def _empty(above: Path) -> None:
    """Remove what an evaluation has left there."""
    with suppress(OSError):
        for name in os.listdir(above):
            remove(above / name)


def _keep_in(given: str) -> Path:
    """Return where to keep what a failure leaves: below this, a directory with the name of the evaluation."""
    base = node.cwd if node.worker is not None else os.getcwd()
    return Path(os.path.normpath(os.path.join(base, given))) / _name()


def _name() -> str:
    if node.worker is not None:
        return f"{worker.worker_info().program_id}.{worker.task_number()}"
    try:
        return f"{environment.current().program.program_id}.job"
    except NotInFlow:
        return f"job-{os.getpid()}"


def _keep(made: Path, keep: Path, error: BaseException) -> None:
    try:
        if not os.path.isdir(node.cwd or "/"):
            raise FileNotFoundError(f"this node does not see {node.cwd}")
        place = keep
        for number in range(2, 1000):
            try:
                place.mkdir(parents=True)
            except FileExistsError:
                place = keep.with_name(f"{keep.name}-{number}")
            else:
                break
        shutil.copytree(made, place, symlinks=True, dirs_exist_ok=True)
    except (OSError, shutil.Error) as trouble:
        error.add_note(
            f"hyperflow keeps not all of the scratch directory, in {keep}: {in_one_line(str(trouble))[:500]}"
        )
    else:
        error.add_note(f"what its scratch directory held is in {place}")
