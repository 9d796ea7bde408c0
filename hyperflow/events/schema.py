"""The event log's format: what the lines of `events.jsonl`, and of the segments beside it (segments.py), say.

Each line is a JSON object with the time `t` (seconds since 1970), a `state`, and members that depend on the state, as
`{"t": 1763600000.123456, "state": "running", "tasks": [7, 8, 9], "worker": "worker-0@node1"}`:

    STATE                 OF WHAT         MEMBERS
    opened                the first line  version; flows: true where `flow` is told
    waiting               tasks           when submitted: function, cpus, and name where `using(name=...)` says
                                          one; flow (see below), begun, map (of a remote_map, which keeps three
                                          under way for each CPU); when they wait again: retracted, or
                                          returned_by (a worker or node that ended), or retry_after (an error) and
                                          call (the function with its arguments, shortened)
    queued                tasks           node: they are in the queue of its launcher, whose workers take them
    running               tasks           worker; age: so many seconds before this line they had begun there, where
                                          it has taken them from the queue of its node
    done                  tasks           worker, which had them one after the other (it may have taken them from the
                                          queue of its node); seconds (one for each); age: so many seconds before
                                          this line the last of them had ended, 0 where it is not said
    failed                tasks           error, call
    cancelled             tasks
    withheld              tasks           seconds: so long an exclusive task of a lost node does not run elsewhere
    copied                tasks           copy: the number of a task that does the same; the first result counts
    superseded            tasks           by: the number of the one that counts
    measured              a task          of (its number), cpu (seconds of CPU time, that of its programs included),
                                          memory (the most bytes that its worker had); where it took a while
    used                  functions       functions: of each name, where they have changed, the sums until now: short
                                          (seconds of CPU time of those that were not measured one by one, as far as
                                          it is known), read, written (bytes, of those that were measured)
    learned               a function      function (module and name, with the name of the group); cpus; memory and
                                          min_time: what "auto" gives the next one, 0 while too little is known;
                                          known: from how many; exceeded: how often one needed more; given, used:
                                          bytes times seconds
    started               a worker        worker, number, cpus; gpus, where it has any
    ended                 a worker        worker, number, status, started, reason, out_of_memory, tail, peak_memory,
                                          log_file
    up, not started, lost a node          node; cpus, pinned, memory, and gpus where it has any, with gpus_from (who
                                          says so); or cause
    aside, draining,      a node          node, cause: nothing more is started there, because it is to be given back, or
    resumed, left                         not; it is used again; it was given back
    ending                the allocation  cause, seconds
    closed                the last line   cpu: seconds of CPU time that the head has taken since its nodes were up
    segment               a later file    number: the first line of each file of the log but the first one
    several               tasks           what happened to many, as columns: see several.py. The reader gives the
                                          events that it stands for
    dropped               what is not     counts: how often each state was not kept since the last such line; the log
                          kept            has reached its limit; of evaluations, how many
    left out              a gap           bytes: in a shortened copy of a log, how much is missing here

Tasks that change together share a line: a line for each would cost a quarter of an evaluation's time. `tasks` are their
numbers.

`flow` says which run of a flow has submitted them: one number for all, or a list with one for each. What is awaited in
turn is one flow; what runs beside others (`map_concurrently`, `start()`) has its own number. Those that are new are in
`begun`: [the first number, how many, the number of the flow that has started them]. The job itself is 0, which is not
written. So the log says what waited for what: a flow submits after its own evaluations, and those of the flows that it
has started, have ended (`viewing/flows.py`).

A reader refuses a log of a newer version. Bump VERSION when a member changes its meaning, is removed or is renamed. A
new member or state needs no new version, because readers ignore what they do not know. Logs from before versions have
no `opened`; they say "retry after" and "returned by" with a space.
"""

from __future__ import annotations

from typing import TypedDict

VERSION = 3


class Event(TypedDict, total=False):
    """One line."""

    t: float
    state: str
    version: int
    tasks: list[int]
    task: int
    """Not in the log: the task that an event of `reader.each_task` is about."""
    function: str
    name: str
    cpus: int | list[int]
    flows: bool
    flow: int | list[int]
    begun: list[list[int]]
    map: bool
    retracted: bool
    returned_by: str
    retry_after: str
    call: str
    copy: int
    by: int
    worker: str
    number: int
    seconds: float | list[float]
    age: float
    error: str
    node: str
    cause: str
    pinned: bool
    gpus: list[str]
    gpus_from: str
    status: int
    started: int
    reason: str
    out_of_memory: bool
    tail: str
    peak_memory: int
    log_file: str
    of: int
    cpu: float
    memory: int
    bytes: int
    counts: dict[str, int]
    functions: dict[str, dict[str, float]]
    min_time: float
    known: int
    exceeded: int
    given: float
    used: float
