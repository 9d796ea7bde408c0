"""Calls and results of the cluster level, to bytes and back; and which call is the same one in the next run.

A job travels as a file, and so does its result, which may come back to another process: the master may have been
restarted in between. So classes of the script come back by name, and the master uses its own script's class of that
name. (Inside one run of an engine classes go by number, see shipping/pickler.py.)

The identity of a call is a text: the function's qualified name and its arguments as in a key of the database. If they
cannot be in a key, a digest of the pickled call takes their place; it is stable as long as the code is.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import pickle
import sys
from contextlib import suppress
from typing import Any

import attrs

from hyperflow import failures, saying
from hyperflow.checked_files import Damaged
from hyperflow.database import keys
from hyperflow.database.memo import MemoCall
from hyperflow.errors import EvaluationExited, HyperflowError, RemoteError, SerializationError
from hyperflow.flow import Call, Flow, Step, Using
from hyperflow.master.rundir import VALUE
from hyperflow.remote import RemoteEval
from hyperflow.shipping import captures, diagnose, exceptions, pickler, rebuild

WHERE = "jobs of a Cluster"

LONGEST = 2000
"""Characters of an identity; an array in the arguments would make a long one."""

SCRIPT = ("__main__", "__mp_main__")


def class_of_script(module: str, qualname: str, number: str) -> Any:
    """Return the class that a result refers to: the one that was sent, or the script's own of that name."""
    with suppress(KeyError):
        return rebuild.known(number)
    found: Any = sys.modules.get("__main__" if module in SCRIPT else module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise SerializationError(
            f"it contains a {qualname} of the script, which the script does not have (any more); define the class at "
            "the top level of the script"
        )
    return found


class _Pickler(pickler.Recipes, pickle.Pickler):
    """Pickles the script's classes by name; with `stable`, without what changes from process to process."""

    def __init__(self, file: Any, stable: bool) -> None:
        pickle.Pickler.__init__(self, file, protocol=pickler.PROTOCOL)
        self.begin()
        self._stable = stable

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, type) and not captures.found_by_name(obj, obj.__module__, obj.__qualname__):
            if self._stable:
                return class_of_script, (obj.__module__, obj.__qualname__, "")
            number = rebuild.track(obj)
            if not rebuild.is_ours(number):
                return class_of_script, (obj.__module__, obj.__qualname__, number)
        return super().reducer_override(obj)


def _pickled(value: Any, stable: bool = False) -> bytes:
    file = io.BytesIO()
    _Pickler(file, stable).dump(value)
    return file.getvalue()


def for_people(job: Flow[Any]) -> str:
    """Return the call of a job as lists and errors show it; that of a lone evaluation by what it evaluates."""
    step = job.used().step
    return step.call() if isinstance(step, RemoteEval) else str(step)


def pack_job(job: Flow[Any]) -> bytes:
    """Pickle a job, with the script's functions and classes; SerializationError names the part that cannot travel."""
    try:
        return pickler.by_value(job)
    except BaseException as error:
        raise SerializationError(str(diagnose.explain(f"the job {job!r}", job.step, error))) from error


def pack_value(value: Any, what: str) -> bytes:
    """Pickle a result; raises SerializationError if it cannot travel."""
    try:
        return _pickled(value)
    except BaseException as error:
        raise SerializationError(str(diagnose.explain(f"the result of {what}", value, error))) from error


def error_for_people(error: BaseException, context: str) -> str:
    """Return the traceback of what a job raised, and the context."""
    failures.shorten(error)
    return f"{exceptions.in_words(error)[-1]}\n({context})\n"


def pack_error(error: BaseException, context: str) -> bytes:
    """Pickle what a job raised: as itself if it survives that, else in words. Traceback and context become notes."""
    failures.shorten(error)
    words = exceptions.in_words(error)
    notes = [f"remote {words[-1]}", f"({context})"]
    if not isinstance(error, Exception):
        return _pickled((EvaluationExited(*words), notes[1:]))
    data = exceptions.dumps(error, lambda it: _pickled((it, notes)), unpack_error)
    return data if data is not None else _pickled((RemoteError(*words), notes[1:]))


@attrs.frozen
class Value:
    """A job's result, still pickled."""

    payload: bytes

    def make(self) -> Any:
        """Return the result; raises Damaged if it cannot be unpickled here."""
        try:
            return pickle.loads(self.payload)
        except BaseException as error:
            raise Damaged(f"its result cannot be made here: {saying.in_words(error)}") from error


def unpack(outcome: str, payload: bytes) -> Value | Exception:
    """Return a job's result or error, from its result file; raises Damaged if its error cannot be unpickled here."""
    if outcome == VALUE:
        return Value(payload)
    try:
        return unpack_error(payload)
    except BaseException as error:
        words = saying.in_words(error)
        raise Damaged(f"the error that it ended with cannot be made here: {words}") from error


def unpack_error(data: bytes) -> Exception:
    """Return the error that a job ended with, with its notes."""
    error, notes = pickle.loads(data)
    with suppress(BaseException):  # a frozen exception takes no note
        for note in notes:
            error.add_note(exceptions.without_notes(note, error))
    if not isinstance(error, Exception):
        raise SerializationError(f"a {type(error).__name__} is no Exception")
    return error


def identity(job: Flow[Any]) -> str:
    """Return a text that says which call this is, the same in every run of the program."""
    text = _identity(job.step)
    if len(text) <= LONGEST:
        return text
    return f"{function_name(text)}(digest {_digest(text.encode('utf-8', 'surrogatepass'))})"


def function_name(identity: str) -> str:
    """Return the part of an identity that is the function's name."""
    return identity.partition("(")[0]


def _identity(step: Step) -> str:
    try:
        match step:
            case Call():
                return f"{_name(step.fn)}({_arguments(step.fn, step.args, step.kwargs)})"
            case MemoCall():
                memo = step.fn.__memo__
                return f"{memo.name}({memo.key(step.args, step.kwargs)})"
            case RemoteEval():
                return f"remote_eval {_name(step.fn)}({_arguments(step.fn, step.args, dict(step.kwargs))})"
            case Using():
                return f"{_identity(step.source.step)}.using({keys.encode(step.options, WHERE)})"
            case _:
                pass
    except HyperflowError:
        pass
    try:
        digest = _digest(_pickled(step, stable=True))
    except BaseException:  # noqa: BLE001 (whatever a user's __reduce__ raises; dill may still find a way to send it; then only the name and the order count)
        digest = "unknown"
    fn = getattr(step, "fn", None)
    name = getattr(inspect.unwrap(fn), "__qualname__", None) if callable(fn) else None
    return f"{name or type(step).__name__}(digest {digest})"


def _name(fn: Any) -> str:
    inner = inspect.unwrap(fn)
    if getattr(inner, "__closure__", None) or getattr(fn, "__self__", None) is not None:
        raise SerializationError("what it captured belongs to the call")
    if "<lambda>" in inner.__qualname__:
        raise SerializationError("one lambda has the name of all")
    return str(inner.__qualname__)


def _arguments(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    try:
        bound = inspect.signature(inspect.unwrap(fn)).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return keys.encode([list(args), kwargs], WHERE)
    bound.apply_defaults()
    return keys.encode(dict(bound.arguments), WHERE)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()
