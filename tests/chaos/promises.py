"""What is promised. A case names the promises that it tries; the oracle names those that are broken."""

import enum


class Promise(enum.Enum):
    """A promise; its value is the sentence that stands in the documentation."""

    DURABLE = "A memoized result that was awaited survives, and is never computed again."
    RIGHT = "Each result is what the function returns for these arguments."
    ONCE = "No key is computed twice at the same time, nor twice without a fault."
    LOCKS = "A lock has one holder at a time."
    CANCELLED = "What was cancelled does not start again."
    CPUS = "Evaluations that run side by side never hold more CPUs than there are."
    SETTLED = "Every await ends, in a result or in an error; so does the program."
    WHOLE = "A fault that is nobody's fault is charged to nobody: the run has all its results."
    TOLD = "What cannot be mended is told, with its cause."
    PROCESSES = "No process outlives its run by more than 10 s."
    CLEAN = "Descriptors, temporary files and shared memory are given back."
    DAMAGE = "Damage of a file is reported before an answer depends on it."
    NEWEST = "Only the newest attempt and start of a job counts."
    PRIVATE = "Nothing that another user can write is unpickled."
