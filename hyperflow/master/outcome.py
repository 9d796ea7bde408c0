"""The outcome of a job, as its result file tells it: a value or an error."""

from __future__ import annotations

import pickle
from typing import Any

from hyperflow import checked_files
from hyperflow.checked_files import Damaged
from hyperflow.master import calls
from hyperflow.master.lifecycle import Epoch
from hyperflow.master.rundir import JobDirectory

CUT_OFF = "cut off"
"""The outcome of a start whose allocation came to its end; unlike a value or an error, another start may do better."""


def read_error(directory: JobDirectory, epoch: Epoch) -> Exception | None:
    """Return the error that a start has ended with; None if it has ended with a value.

    Raises:
        Damaged: The result is not there, was cut or altered, or is one of another start.
    """
    outcome, payload = _read(directory, epoch)
    if outcome == "value":
        return None
    try:
        return calls.unpack_error(payload)
    except Exception as error:
        raise Damaged(f"the error that it ended with cannot be made here: {_words(error)}") from error


def read_value(directory: JobDirectory, epoch: Epoch) -> Any:
    """Return the value that a start has ended with; raises Damaged if there is none, or it cannot be made here."""
    outcome, payload = _read(directory, epoch)
    if outcome != "value":
        raise Damaged(f"{directory.result(epoch)} holds an error, although a value was noted")
    try:
        return pickle.loads(payload)
    except Exception as error:
        raise Damaged(f"its result cannot be made here: {_words(error)}") from error


def is_cut_off(directory: JobDirectory, epoch: Epoch) -> bool:
    """Whether a start has ended because its allocation did, which is no outcome of the job."""
    try:
        return _read(directory, epoch)[0] == CUT_OFF
    except Damaged:
        return False


def _read(directory: JobDirectory, epoch: Epoch) -> tuple[str, bytes]:
    path = directory.result(epoch)
    try:
        header, payload = checked_files.read_checked(path, "result")
    except OSError as error:
        raise Damaged(f"cannot read {path}: {error.strerror or error}") from error
    says = Epoch(header["attempt"], header["restarts"])
    job = header.get("job", directory.number)
    if (job, says) != (directory.number, epoch):
        raise Damaged(f"{path} says of itself that it is of start {says} of job {job}")
    return str(header["outcome"]), payload


def _words(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 (a user's __str__ may raise)
        return type(error).__name__
