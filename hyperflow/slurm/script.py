"""Batch scripts: what is asked of Slurm, and the text that asks for it.

The text is a pure function of its arguments, so it can be read before it is submitted, kept beside the logs, and
compared in tests. All options are `#SBATCH` lines of the script, so that it can be submitted by hand.

The token finds a job again when sbatch's answer was lost. It is in the job's name and in its comment: some sites
overwrite comments, and accounting keeps them only if configured so, but it always keeps names.

`--requeue` is the default. Slurm then restarts a job whose node has failed or that was preempted, under the same
number, with the priority that it has gathered, even when nobody is there to submit it again. What the job had recorded
is not computed again. The price: Slurm restarts a job that crashes its nodes (5 times, if the site has not changed
MaxBatchRequeue) before it holds it.
"""

from __future__ import annotations

import datetime
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import attrs

from hyperflow.errors import ConfigurationError

NOT_SEEN = 72
"""The exit code of a script whose node does not see the directory it is to run in."""

SIGNAL_SECONDS = 60
"""How long before the end SIGUSR1 comes. Slurm may send it a minute early, so a job with a very short time limit gets
none."""

# What batch_script() sets, and what would make a job one that cannot be followed.
_OURS = {
    "job-name": "the job's name is how it is found again",
    "comment": "the comment is how the job is found again",
    "output": "the output goes to the log",
    "error": "errors go to the log",
    "open-mode": "the log is appended to",
    "chdir": "the job runs in the program's directory",
    "array": "one job is one allocation; ask for several of them",
    "clusters": "jobs are looked for on this cluster only",
    "parsable": "it is for sbatch's answer, which is not seen",
    "quiet": "what sbatch says is needed when it refuses",
    "test-only": "the job would not run",
    "wait": "sbatch has to return at once",
    "wrap": "the script is ours",
    "requeue": "write requeue=True",
    "no-requeue": "write requeue=False",
}
_TIME = re.compile(r"(?:(\d{1,9})-)?(\d{1,9})(?::(\d{1,9}))?(?::(\d{1,9}))?")
_MEMORY = re.compile(r"(\d+[KMGT]?)B?", re.IGNORECASE)
_GPUS = re.compile(r"(?:^|,)(?:gres:)?gpu(?::[A-Za-z][^:,]*)?(?::(\d+))?(?=,|$)")
_GPU_COUNT = re.compile(r"(?:^|,)(?:[A-Za-z][^:,]*:)?(\d+)(?=,|$)")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,64}")


# Converters pass on what they do not understand, because only the validators below know the field's name.
def _to_count(value: int | str) -> int:
    return int(value) if isinstance(value, str) and value.isdecimal() else cast(int, value)


def _to_time(value: str | int | datetime.timedelta | None) -> str | None:
    if isinstance(value, datetime.timedelta):
        minutes, seconds = divmod(math.ceil(value.total_seconds()), 60)
        return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    if isinstance(value, str) and value.lower() in {"unlimited", "infinite"}:
        return "UNLIMITED"
    return f"{value}" if isinstance(value, int) else value


def _to_memory(value: str | int | None) -> str | None:
    text = f"{value}" if isinstance(value, int) else value
    match = _MEMORY.fullmatch(text) if isinstance(text, str) else None
    return match[1].upper() if match else text


def _to_extra(value: Mapping[str, str | int | None]) -> Mapping[str, str | None]:
    if not isinstance(cast(object, value), Mapping):
        return cast(Mapping[str, str | None], value)
    return {name: f"{text}" if isinstance(text, int) else text for name, text in value.items()}


_Field: TypeAlias = "attrs.Attribute[Any]"


def _error(field: _Field, value: object, text: str) -> ConfigurationError:
    return ConfigurationError(f"SbatchOptions({field.name}={value!r}): {text}")


def _needs(what: str, is_right: Callable[[Any], object]) -> Callable[[Any, _Field, Any], None]:
    """Return a validator; None is right where it is the default."""

    def validate(_: object, field: _Field, value: Any) -> None:
        if not ((value is None and field.default is None) or is_right(value)):
            raise _error(field, value, what)

    return validate


_is_count = _needs("a whole number of at least 1 is needed", lambda it: type(it) is int and it >= 1)
_is_flag = _needs("True or False is needed", lambda it: isinstance(it, bool))
_is_text = attrs.validators.and_(
    _needs("a text is needed, or None", lambda it: isinstance(it, str) and it.strip()),
    _needs("a line of a batch script takes no line break or control character", lambda it: it.isprintable()),
)
_is_time = _needs(
    'a time is needed, such as "2:00:00" (hours), "1-12:00:00" (days), 90 (minutes) or a timedelta',
    lambda it: it == "UNLIMITED" or (isinstance(it, str) and seconds_of(it)),
)
_is_memory = _needs(
    'a whole number with a unit is needed, such as "8G"; without one it is megabytes',
    lambda it: isinstance(it, str) and _MEMORY.fullmatch(it),
)
_is_preamble = attrs.validators.and_(
    _needs(
        "lines of shell are needed (without \\0 and \\r, which sbatch refuses)",
        lambda it: isinstance(it, str) and "\0" not in it and "\r" not in it,
    ),
    _needs(
        "sbatch does not read #SBATCH lines here; use a field, or extra={...}",
        lambda it: not re.search(r"^\s*#SBATCH\b", it, re.MULTILINE),
    ),
)


def _check_extra(_: object, field: _Field, value: object) -> None:
    if not isinstance(value, Mapping):
        raise _error(field, value, 'a dictionary is needed, such as {"nice": "100", "contiguous": None}')
    fields = {name.replace("_", "-"): name for name in FIELDS}
    for name, text in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise _error(field, value, f"{name!r} is not the long name of an option of sbatch, without the dashes")
        if name in _OURS:
            raise _error(field, value, f"--{name} is not yours to set: {_OURS[name]}")
        if name in fields:
            raise _error(field, value, f"write {fields[name]}=... instead")
        if text is not None:
            _is_text(None, field, text)


def seconds_of(time: str) -> float | None:
    """Return the seconds of a time as Slurm writes it; None if it is none."""
    match = _TIME.fullmatch(time)
    if match is None:
        return None
    days, *clock = match.groups()
    parts = [int(part) for part in clock if part is not None]
    if days is None and len(parts) < 3:  # minutes, or minutes:seconds
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return 86400.0 * int(days or 0) + 3600 * hours + 60 * minutes + seconds


def _bytes(memory: str) -> int:
    """Return the bytes of a size as Slurm writes it; without a unit it is megabytes."""
    number, unit = (memory[:-1], memory[-1]) if memory[-1].isalpha() else (memory, "M")
    return int(number) << {"K": 10, "M": 20, "G": 30, "T": 40}[unit]


@attrs.frozen
class SbatchOptions:
    """What to ask of Slurm for one allocation: `SbatchOptions(nodes=2, ntasks_per_node=4, time="2:00:00", mem="8G")`.

    None leaves an option to the site. Raises ConfigurationError at once for a value that makes no sense.

    Args:
        nodes: How many nodes.
        ntasks_per_node: How many CPU tasks each node has room for.
        cpus_per_task: CPUs of each of these.
        time: The limit: "2:00:00", "1-12:00:00", minutes as a number, or a timedelta.
        mem: Memory of each node: "8G", or megabytes as a number.
        mem_per_cpu: Memory of each CPU, in place of `mem`.
        partition, account, qos, constraint, gres: As sbatch has them.
        exclusive: Whether nobody else may use the nodes.
        requeue: Whether Slurm may start the job again after a node has failed, or after preemption.
        mail_type, mail_user: As sbatch has them.
        extra: Any other option of sbatch by its long name; None for one without a value.
        preamble: Lines of shell before the program, such as "module load mpi".
    """

    nodes: int = attrs.field(default=1, converter=_to_count, validator=_is_count)
    ntasks_per_node: int = attrs.field(default=1, converter=_to_count, validator=_is_count)
    cpus_per_task: int | None = attrs.field(
        default=None, converter=attrs.converters.optional(_to_count), validator=_is_count
    )
    time: str | None = attrs.field(default=None, converter=_to_time, validator=_is_time)
    mem: str | None = attrs.field(default=None, converter=_to_memory, validator=_is_memory)
    mem_per_cpu: str | None = attrs.field(default=None, converter=_to_memory, validator=_is_memory)
    partition: str | None = attrs.field(default=None, validator=_is_text)
    account: str | None = attrs.field(default=None, validator=_is_text)
    qos: str | None = attrs.field(default=None, validator=_is_text)
    constraint: str | None = attrs.field(default=None, validator=_is_text)
    gres: str | None = attrs.field(default=None, validator=_is_text)
    exclusive: bool = attrs.field(default=False, validator=_is_flag)
    requeue: bool = attrs.field(default=True, validator=_is_flag)
    mail_type: str | None = attrs.field(default=None, validator=_is_text)
    mail_user: str | None = attrs.field(default=None, validator=_is_text)
    # Not part of the hash, because a dictionary has none.
    extra: Mapping[str, str | None] = attrs.field(
        factory=dict[str, str | None], converter=_to_extra, validator=_check_extra, hash=False
    )
    preamble: str = attrs.field(default="", validator=_is_preamble)

    def __attrs_post_init__(self) -> None:
        if self.mem is not None and self.mem_per_cpu is not None:
            raise ConfigurationError(
                f"SbatchOptions(mem={self.mem!r}, mem_per_cpu={self.mem_per_cpu!r}): Slurm takes one of the two"
            )

    def changed(self, **changes: Any) -> SbatchOptions:
        """Return these options with some of them changed: `options.changed(time="2:00:00", mem="8G")`.

        Raises:
            ConfigurationError: There is no such option, or its value makes no sense.
        """
        for name in changes:
            if name not in FIELDS:
                raise ConfigurationError(f"SbatchOptions has no {name}; it has {', '.join(FIELDS)}")
        # Slurm takes only one of the two; the newer one counts.
        for one, other in (("mem", "mem_per_cpu"), ("mem_per_cpu", "mem")):
            if changes.get(one) is not None:
                changes.setdefault(other, None)
        return attrs.evolve(self, **changes)

    def over(self, others: SbatchOptions) -> SbatchOptions:
        """Return these options, with those of others wherever these have the default."""
        plain = SbatchOptions()
        mine = {name: getattr(self, name) for name in FIELDS if getattr(self, name) != getattr(plain, name)}
        return others.changed(**mine)

    @property
    def gpus(self) -> int:
        """How many GPUs it asks for on each node: `gres="gpu:2"`, or extra={"gpus-per-node": "2"} and the like."""
        if count := sum(int(count or 1) for count in _GPUS.findall(self.gres or "")):
            return count
        of_node, of_task, of_job = (
            sum(map(int, _GPU_COUNT.findall(self.extra.get(name) or "")))
            for name in ("gpus-per-node", "gpus-per-task", "gpus")
        )
        return of_node or of_task * self.ntasks_per_node or -(-of_job // self.nodes)

    @property
    def cpus(self) -> int:
        """How many CPUs it asks for on each node."""
        return self.ntasks_per_node * (self.cpus_per_task or 1)

    @property
    def memory(self) -> int:
        """How many bytes it asks for on each node; 0 where the site decides."""
        if self.mem is not None:
            return _bytes(self.mem)
        return 0 if self.mem_per_cpu is None else _bytes(self.mem_per_cpu) * self.cpus

    @property
    def time_limit(self) -> float | None:
        """The limit in seconds; None if the site decides, or there is none."""
        return None if self.time is None else seconds_of(self.time)


FIELDS = tuple(field.name for field in attrs.fields(SbatchOptions))


def batch_script(
    options: SbatchOptions,
    *,
    name: str,
    token: str,
    command: Sequence[str],
    log_file: Path,
    directory: Path,
) -> str:
    """Return the text of a batch script. The program takes the shell's place, so that it gets the signals itself.

    Args:
        name: What the job is called in lists; need not be unique.
        token: By which this submission is found: 8 to 64 letters, digits, `_` and `-`.
        log_file: Where the output goes. It is appended to, so that a second start keeps the output of the first one.
        directory: Where the program runs; a node that does not see it ends the job with exit code 72.

    Raises:
        ConfigurationError: The token or a path cannot be used in a script.
    """
    if not _TOKEN.fullmatch(token):
        raise ConfigurationError(f"the token {token!r} is not 8 to 64 letters, digits, `_` and `-`")
    lines = [f"#SBATCH {line}" for line in _lines(options, name, token, log_file, directory)]
    refusal = shlex.quote(
        f" does not see {directory}: the base directory has to be on a file system that all nodes share"
    )
    body = [
        f'cd -- {shlex.quote(str(directory))} || {{ echo "hyperflow: $HOSTNAME"{refusal} >&2; exit {NOT_SEEN}; }}',
        *([options.preamble.rstrip("\n")] if options.preamble.strip() else []),
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(["#!/bin/bash", *lines, "", *body, ""])


def _lines(options: SbatchOptions, name: str, token: str, log_file: Path, directory: Path) -> list[str]:
    given: dict[str, str | int | bool | None] = {
        # Blanks and commas separate fields in lists of jobs.
        "job-name": f"{re.sub(r'[^A-Za-z0-9_.:+=-]+', '_', name)[:60]}.{token}",
        "comment": f"hyperflow {token}",
        "output": _path(log_file).replace("%", "%%"),  # else sbatch would put the job's number in place of %j
        "open-mode": "append",
        "chdir": _path(directory),
    }
    given |= {field.replace("_", "-"): getattr(options, field) for field in FIELDS if field not in _NOT_OPTIONS}
    given["requeue" if options.requeue else "no-requeue"] = True
    limit = options.time_limit
    if "signal" not in options.extra and (limit is None or limit >= 2 * (SIGNAL_SECONDS + 60)):
        given["signal"] = f"B:USR1@{SIGNAL_SECONDS}"
    lines = [_line(option, value) for option, value in given.items() if value is not None and value is not False]
    return lines + [_line(option, True if value is None else value) for option, value in options.extra.items()]


_NOT_OPTIONS = {"requeue", "extra", "preamble"}


def _path(path: Path) -> str:
    text = str(path)
    if not path.is_absolute() or not text.isprintable() or "\\" in text:
        raise ConfigurationError(
            f"{text!r} cannot be used in a batch script: it has to be absolute, without line breaks, control "
            "characters and backslashes, which mean something to Slurm; choose another base directory"
        )
    return text


def _line(option: str, value: str | int | bool) -> str:
    if value is True:
        return f"--{option}"
    text = str(value)
    if not re.fullmatch(r"[A-Za-z0-9_./:,=+@%-]+", text):
        # Quoted for sbatch, not for the shell: between its quotes only these two characters are special.
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"--{option}={text}"
