"""The errors of hyperflow, one tree; every one of them survives pickle.

    HyperflowError
    ├── MisuseError (TypeError)        the call is wrong: the message shows the corrected one
    │   └── NotInFlow                  a Flow was awaited where there is no environment
    ├── ConfigurationError             an option or a place in the file system cannot be used
    │   └── ImpossibleRequest          more of something than any node has, or the program; refused at once
    ├── NothingToReduce (ValueError)   tree_reduce was given no values
    ├── EnvironmentClosed              something was asked of an environment that had been closed
    ├── SerializationError             something could not be shipped; names it
    ├── RemoteError                    the user's exception, when it could not travel itself
    │   └── EvaluationExited           the function called sys.exit() or raised another non-Exception
    ├── WorkerDied                     the process that ran the evaluation ended without an answer
    │   ├── OutOfMemory                ... because the kernel killed it for lack of memory
    │   │   └── MemoryLimitExceeded    ... because the evaluation had more than using(memory=...) allows
    │   └── TooManyNodesLost           ... with its node, and so with an earlier one
    ├── StreamBroken                   a stream was cut off after some of its pieces had been read
    ├── TimeLimitExceeded              the evaluation ran longer than its time_limit and was killed
    ├── LauncherError                  a node launcher could not be started or spoke nonsense
    ├── NodeLost                       a node went away, and nothing is left to run the evaluation on
    ├── AllocationEnding               the allocation ends soon: the evaluation was not run, or not to its end
    ├── CommandFailed                  an external program ended with a status that was not accepted
    ├── OutputFailed                   a file that a command was to make did not come home
    ├── ScratchFull                    a node's scratch directory has no room; another node is tried first
    ├── FileUnavailable                a File cannot be had where it is wanted; says why
    │   ├── FileMissing (FileNotFoundError)  ... there is no such file, or nothing that fits the pattern
    │   ├── FileChanged                ... it is not what it was when the program first used it; both states
    │   └── FileLost                   ... it was kept on a node that has gone
    ├── Deadlock                       acquiring a lock would have closed a cycle of waiters
    ├── DatabaseError                  the results database cannot be used, or holds something unreadable
    ├── JobFailed                      a job of a Cluster ended without a result (its exceptions arrive as themselves)
    │   ├── JobCrashed                 ... its process ended without an answer
    │   ├── JobOutOfMemory             ... it needed more memory than it had asked for
    │   ├── JobTimeLimitExceeded       ... its allocation ended before it did
    │   ├── JobNodeFailed              ... its node failed, and Slurm did not start it again
    │   ├── JobCancelled               ... it was cancelled
    │   ├── JobRefused                 ... Slurm refused it, or can never start it
    │   └── JobResultUnreadable        ... its result is damaged, or cannot be unpickled here
    ├── RunInUse                       a run directory has a master already
    └── SlurmError                     Slurm's answer is missing or contradicts itself

The user's own exceptions are not in this tree: they arrive as themselves, with the remote traceback and one
line of context (the call with its arguments, worker, node, log file) as notes.

Why so strict about pickle: an exception is rebuilt as `cls(*args)`. If it handed a formatted message to
`super().__init__`, that would fail, far from its cause. So every class here hands on exactly its own arguments, and
formats its text in `__str__`: attrs hands the fields on.
"""

from __future__ import annotations

import signal
from contextlib import suppress

import attrs

from hyperflow import pages
from hyperflow.saying import as_written, rounded_up


def _place(service_id: str, node: str) -> str:
    """Return a worker and its node, which most names of workers contain already."""
    return service_id if service_id.endswith(f"@{node}") else f"{service_id} on {node}"


def _last_output(log_tail: str) -> str:
    """Return the end of a log as the last lines of an error."""
    return "\nlast output:\n" + "\n".join("  | " + line for line in log_tail.splitlines()) if log_tail else ""


class HyperflowError(Exception):
    """Base of every error that hyperflow itself raises. Its first note says where to read about it."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.__attrs_pre_init__()

    def __attrs_pre_init__(self) -> None:
        # attrs calls this in place of our __init__. What is unpickled gets its own notes afterwards, so none is double.
        with suppress(Exception):  # a user's class may be frozen, or have notes of its own
            BaseException.add_note(self, pages.about_error(type(self)))

    def _repr_html_(self) -> str:
        from hyperflow import displays  # noqa: PLC0415 (only a notebook asks)

        return displays.error("", self)


class MisuseError(HyperflowError, TypeError):
    """The call cannot mean what was intended; the message shows the corrected call."""


class NotInFlow(MisuseError):
    """A Flow was awaited where there is no environment, so nothing can run it."""


class FlowNeverAwaited(RuntimeWarning):
    """A running flow made another flow and nobody awaited it: most likely an `await` is missing."""


class FunctionChanged(RuntimeWarning):
    """A memoized function is not the one that gave its recorded results: its code, or a value that it refers to."""


class ConfigurationError(HyperflowError):
    """An option, a directory or an environment variable cannot be used as it is."""


class ImpossibleRequest(ConfigurationError):
    """An evaluation asks for more CPUs, GPUs, memory, time, nodes or tokens than there are; it does not wait."""


class NothingToReduce(HyperflowError, ValueError):
    """`tree_reduce` was given no values, and has no result."""


@attrs.define(slots=False, repr=False)
class EnvironmentClosed(HyperflowError):
    """Something was asked of an environment that had been closed: `what`, such as "evaluations"."""

    what: str

    def __str__(self) -> str:
        return f"this environment was closed; {self.what} belong inside its `async with`"


class SerializationError(HyperflowError):
    """A function, an argument or a result could not be sent; the message names the part that cannot travel."""


@attrs.define(slots=False, repr=False)
class RemoteError(HyperflowError):
    """A user's exception that could not travel back as itself: its class (`module.qualname`), text and traceback."""

    type_name: str
    text: str
    traceback: str = ""

    def __str__(self) -> str:
        name = self.type_name.removeprefix("builtins.")
        head = f"{name}: {self.text}" if self.text else name
        return f"the evaluation raised {head} (which could not be sent back as itself)"


class EvaluationExited(RemoteError):
    """The function called `sys.exit()` or raised KeyboardInterrupt, CancelledError or the like on the worker.

    It is raised in place of the original, which would end, interrupt or cancel the program that awaits it.
    """

    def __str__(self) -> str:
        head = f"{self.type_name.removeprefix('builtins.')}({self.text})"
        return f"the evaluation ended itself with {head}; on a worker, return a value or raise an Exception instead"


_LIMITS = {
    signal.SIGXCPU: ": it has used as much CPU time as a process may have here (ulimit -t)",
    signal.SIGXFSZ: ": it has written a file larger than one may be here (ulimit -f)",
}


def _signal(number: int) -> str:
    """Return the name of a signal that ended a process, and what it means where that is not plain."""
    try:
        known = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    return known.name + _LIMITS.get(known, "")


@attrs.define(slots=False, repr=False)
class WorkerDied(HyperflowError):
    """The worker process that ran the evaluation ended without an answer.

    Args:
        evaluation: What ran, such as `evaluation 7 of simulate(1.5)`.
        service_id: The worker.
        node: The node it ran on.
        status: Exit code, or minus the signal's number.
        log_file: Where its output is; `log_tail` is the end of it.
    """

    evaluation: str
    service_id: str
    node: str
    status: int
    log_file: str = ""
    log_tail: str = ""

    def _cause(self) -> str:
        if self.status >= 0:
            return f"exited with code {self.status} without an answer"
        return f"was killed by {_signal(-self.status)}"

    def __str__(self) -> str:
        where = _place(self.service_id, self.node)
        text = f"{where} {self._cause()} while it ran {self.evaluation}; log: {self.log_file}"
        return text + _last_output(self.log_tail)


class OutOfMemory(WorkerDied):
    """The kernel killed the worker because its memory limit was reached."""

    def _cause(self) -> str:
        return "was killed by the kernel because memory ran out (ask for fewer evaluations at a time: using(cpus=...))"


@attrs.define(slots=False, repr=False)
class MemoryLimitExceeded(OutOfMemory, MemoryError):
    """The evaluation, with the processes that it had started, had more memory than it may, and was killed.

    Also where the kernel was first to kill it, because the memory of its node or job ran out.

    Args:
        peak: The most bytes that were seen; it may have needed more.
        limit: What `using(memory=...)` allows.
        before: What its worker had before it began, if that was more than the limit already.
    """

    peak: int = 0
    limit: int = 0
    before: int = 0

    def _cause(self) -> str:
        limit = f"its limit of {as_written(self.limit)}"
        if self.before:
            return (
                f"was killed because a worker needs {as_written(self.before)} before it runs anything, which is more "
                f'than {limit}; write using(memory="{rounded_up(2 * self.before)}") or more, or preload fewer modules;'
            )
        seen = f"it had {as_written(self.peak)}" if self.peak > self.limit else "the kernel did so, as memory ran out"
        more = rounded_up(max(self.limit * 1.5, self.peak * 1.25))
        return f'was killed because of {limit} of memory: {seen} (write using(memory="{more}") if it needs that)'


@attrs.define(slots=False, repr=False)
class TooManyNodesLost(WorkerDied):
    """Each node that ran the evaluation was lost meanwhile, as often as `using(crash_limit=...)` allows.

    `status` is -9, because nothing is known about the end of the processes.

    Args:
        nodes: The nodes that were lost.
        logs: The logs of their launchers.
    """

    nodes: list[str] = attrs.field(factory=list[str])
    logs: list[str] = attrs.field(factory=list[str])

    def __str__(self) -> str:
        lost = "".join(f"\n  | {node}; log: {log}" for node, log in zip(self.nodes, self.logs, strict=False))
        return (
            f"{self.evaluation} ran on {len(self.nodes)} nodes when they were lost, most likely because of it (memory, "
            f"a driver); it is not started again. using(crash_limit={len(self.nodes) + 1}) allows one loss more. Its "
            f"last worker was {self.service_id}; log: {self.log_file}\nlost nodes:{lost}"
        )


@attrs.define(slots=False, repr=False)
class StreamBroken(HyperflowError):
    """A stream was cut off after some of its pieces had been read, so it was not started again: they would come twice.

    Attributes:
        title: The evaluation, with its call.
        by: The worker that has gone, or its node.
        delivered: How many pieces had been read.
    """

    title: str
    by: str
    delivered: int

    def __str__(self) -> str:
        return (
            f"{self.title}, a stream, was cut off with {self.by} after {self.delivered} of its pieces had been read; "
            "it was not started again, as these would come twice. To go on from there, let the generator begin at a "
            "given piece, and call it with that one"
        )


@attrs.define(slots=False, repr=False)
class TimeLimitExceeded(HyperflowError, TimeoutError):
    """The evaluation ran longer than its `time_limit` and was killed, with its process group."""

    evaluation: str
    service_id: str
    node: str
    seconds: float
    log_file: str = ""
    log_tail: str = ""

    def __str__(self) -> str:
        return (
            f"{self.evaluation} ran longer than its time_limit of {self.seconds:g} s on "
            f"{_place(self.service_id, self.node)} and was killed; log: {self.log_file}{_last_output(self.log_tail)}"
        )


class LauncherError(HyperflowError):
    """A node launcher could not be started, or it sent something that breaks the protocol."""


@attrs.define(slots=False, repr=False)
class NodeLost(HyperflowError):
    """A node went away, and no node is left that could run the evaluation; the log is its launcher's."""

    node: str
    cause: str
    log_file: str = ""

    def __str__(self) -> str:
        return f"node {self.node} was lost ({self.cause}) and no other node can take its work; log: {self.log_file}"


@attrs.define(slots=False, repr=False)
class AllocationEnding(HyperflowError):
    """The allocation ends soon: the evaluation was not started, or was ended early.

    Recorded results stay. A job that catches this error has some seconds to save its state: `seconds`, when hyperflow
    came to know. A job that does not ends with it; `run_job_slurm(job, requeue=True)` then queues its Slurm job again.

    A function on a worker raises it, without arguments, when it has saved its state because `ending()` says so: then
    the evaluation gives back its place and waits, to be started again on another node, or to end with the allocation.
    """

    why: str = "its function has given back its place"
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"the allocation ends ({self.why}; {self.seconds:.0f} s were left then), and nothing more is started. "
            "Results that were recorded stay; run the program again to go on from them"
        )


@attrs.define(slots=False, repr=False)
class CommandFailed(HyperflowError):
    """An external program ended with a status that was not accepted.

    Args:
        argv: The command, as a list of words.
        returncode: Its exit code, or minus the signal's number.
        stderr: Its error output, if that was captured; otherwise it is in `log_file`.
        cause: Which rank of a parallel program has ended how, where that is known.
    """

    argv: list[str]
    returncode: int
    stderr: str = ""
    log_file: str = ""
    cause: str = ""

    def __str__(self) -> str:
        how = f"was killed by {_signal(-self.returncode)}" if self.returncode < 0 else f"exited with {self.returncode}"
        text = f"command {self.argv!r} {how}" + (f": {self.cause}" if self.cause else "")
        if self.stderr:
            text += "\n" + "\n".join("  | " + line for line in self.stderr.splitlines()[-20:])
        return text + (f"\nits output is in {self.log_file}" if self.log_file else "")


@attrs.define(slots=False, repr=False)
class OutputFailed(HyperflowError):
    """A file that a command was to make did not come home; nothing of that command's outputs did.

    Args:
        argv: The command, as a list of words.
        output: The output, as it was asked for.
        why: What is wrong with it, what is there instead, and what to do.
        node: Where the command ran; "" if it is this machine that is to blame.
        log_file: Where what it has printed is.
    """

    argv: list[str]
    output: str
    why: str
    node: str = ""
    log_file: str = ""

    def __str__(self) -> str:
        where = f" on {self.node}" if self.node else ""
        text = f"output {self.output!r} of command {self.argv!r}{where}: {self.why}"
        return text + (f"\nwhat it has printed is in {self.log_file}" if self.log_file else "")


@attrs.define(slots=False, repr=False)
class ScratchFull(HyperflowError):
    """A node's scratch directory has no room for what an evaluation needs there.

    The evaluation is started again, uncharged, on each node where it was not yet; this is raised when none is left.

    Args:
        node: Which node.
        place: The directory.
        why: What did not fit.
        free: Bytes that were free then; -1 where nobody has looked.
    """

    node: str
    place: str
    why: str
    free: int = -1

    def __str__(self) -> str:
        room = "" if self.free < 0 else f" ({as_written(self.free)} free)"
        return (
            f"the scratch directory {self.place} of {self.node} is full{room}: {self.why}. Free space there, name a "
            'larger one (HYPERFLOW_SCRATCH=/large; scratch="/large" of run_job_slurm), or have fewer evaluations side '
            "by side on a node: using(cpus=...)"
        )


@attrs.define(slots=False, repr=False)
class Deadlock(HyperflowError):
    """Acquiring a lock would have closed a cycle in which each waits for the next.

    Args:
        wanted: Who wanted what.
        circle: Who holds what and waits for what, a line for each.
    """

    wanted: str
    circle: list[str]

    def __str__(self) -> str:
        lines = "".join(f"\n  {line}" for line in self.circle)
        return (
            f"{self.wanted}; that would deadlock:{lines}\n"
            "Take all locks that belong together at once: hyperflow.with_locks([...])"
        )


class FileUnavailable(HyperflowError):
    """A File cannot be had where it is wanted: it cannot be read, copied, or fetched."""


class FileMissing(FileUnavailable, FileNotFoundError):
    """There is no such file, or nothing that fits the pattern."""


class FileChanged(FileUnavailable):
    """A file is not what it was when the program first used it; the message tells both states."""


@attrs.define(slots=False, repr=False)
class FileLost(FileUnavailable):
    """A file that was kept on the node where it was made (`keep="node"`) is not there any more.

    Args:
        file: Which file.
        node: The node that had it.
        why: What has happened to it.
    """

    file: str
    node: str
    why: str

    def __str__(self) -> str:
        return (
            f"{self.file} was kept on {self.node}, and cannot be had from there any more: {self.why}. Make it again, "
            'or have it come home when it is made: hf.Output(..., keep="home")'
        )


class DatabaseError(HyperflowError):
    """The results database cannot be used, or holds something that cannot be read."""


class SlurmError(HyperflowError):
    """Slurm's answer lacks something or contradicts itself; the message names the variable or the command."""


@attrs.define(slots=False, repr=False)
class JobFailed(HyperflowError):
    """A job of a Cluster ended without a result. It is raised only where `on_error` says so; else the job is held.

    Args:
        job: Which one, such as `job 3, roots(n=2)`.
        slurm: What Slurm said about it.
        directory: Where its files are.
    """

    job: str
    cause: str
    slurm: str = ""
    directory: str = ""

    def __str__(self) -> str:
        slurm = f" (Slurm: {self.slurm})" if self.slurm else ""
        return f"{self.job}: {self.cause}{slurm}" + (f"; its files: {self.directory}" if self.directory else "")


class JobCrashed(JobFailed):
    """The job's process ended without an answer."""


class JobOutOfMemory(JobFailed):
    """The job needed more memory than it had asked for."""


class JobTimeLimitExceeded(JobFailed, TimeoutError):
    """The job's allocation ended before it did."""


class JobNodeFailed(JobFailed):
    """The job's node failed, or was given to another job, and Slurm did not start it again."""


class JobCancelled(JobFailed):
    """The job was cancelled: with scancel, or with `hyperflow cancel`."""


class JobRefused(JobFailed):
    """Slurm refused the job, or says that it can never start."""


class JobResultUnreadable(JobFailed):
    """The job's result is damaged, or cannot be unpickled here."""


@attrs.define(slots=False, repr=False)
class RunInUse(HyperflowError):
    """Another master runs on the run directory: this process on this host."""

    directory: str
    host: str
    pid: int
    advice: str

    def __str__(self) -> str:
        by = f"process {self.pid} on {self.host} runs it" if self.host else "it is locked"
        return f"the run {self.directory} has a master already ({by}); {self.advice}"
