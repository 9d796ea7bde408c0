"""Options: what each evaluation and each Slurm job asks for. `using` sets them; its docstring says what each means.

Guarantees: a value that makes no sense is refused where it is written, with what to write instead. Sizes and durations
are numbers from there on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast

import attrs

from hyperflow.errors import ConfigurationError
from hyperflow.request import Request
from hyperflow.saying import unfit_name
from hyperflow.sizes import to_bytes, to_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperflow.guesses import Guess
    from hyperflow.slurm.script import SbatchOptions


LONGEST_NAME = 200
"""Characters of the name of a group of evaluations."""


def _whole(least: int) -> Callable[[object, attrs.Attribute[Any], object], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigurationError(f"{attribute.name}={value!r}: a whole number of at least {least} is needed")

    return check


def _integer(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigurationError(f"{attribute.name}={value!r}: a whole number is needed; larger ones come sooner")


def _seconds(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, (int, float)) or not value > 0):
        raise ConfigurationError(
            f'{attribute.name}={value!r}: a positive number of seconds is needed, a text such as "10m", or None'
        )


def _factor(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (
        not isinstance(value, (int, float)) or isinstance(value, bool) or not 1 <= value < math.inf
    ):
        raise ConfigurationError(f"{attribute.name}={value!r}: a number of at least 1 is needed, such as 3.0, or None")


def _name(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_NAME:
        raise ConfigurationError(
            f"{attribute.name}={value!r:.200}: a text of at most {LONGEST_NAME} characters is needed, or None"
        )
    if reason := unfit_name(value):
        raise ConfigurationError(f"{attribute.name}={value!r}: {reason}")


@attrs.frozen
class Resubmit:
    """A policy for failures: submit the job again, up to `times` times; then hold it.

    Args:
        times: How often.
        then: What to do when it still fails: "hold" or "raise".
    """

    times: int = attrs.field(default=1, validator=_whole(1))
    then: Literal["hold", "raise"] = attrs.field(default="hold", validator=attrs.validators.in_(("hold", "raise")))


Answer: TypeAlias = Literal["hold", "raise"] | Resubmit
FailurePolicy: TypeAlias = Answer | Mapping[type[Exception], Answer]
"""What to do about a job that fails; or, by class of error, the first that fits."""


def _gpus(value: object) -> float:
    """Return a number of GPUs: whole, or a fraction of one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and (0 <= value <= 1 or value % 1 == 0 < value):
        return value
    raise ConfigurationError(f"gpus={value!r}: a whole number is needed, or a fraction of one GPU, such as 0.5")


def _memory(value: object) -> int | Literal["auto"] | None:
    return None if value is None else "auto" if value == "auto" else to_bytes("memory", value)


def _min_time(value: object) -> float | Literal["auto"] | None:
    return None if value is None else "auto" if value == "auto" else to_seconds("min_time", value)


def _time_limit(value: object) -> Any:
    return to_seconds("time_limit", value) if isinstance(value, str) else value


def to_tokens(value: object) -> tuple[tuple[str, int], ...]:
    """Return a count for each name, sorted, from a dictionary; raises ConfigurationError."""
    pairs = cast("Mapping[object, object]", value).items() if isinstance(value, Mapping) else value
    tokens: list[tuple[str, int]] = []
    try:
        for name, count in cast("Any", pairs):
            if not isinstance(name, str) or not name.strip() or unfit_name(name):
                raise ConfigurationError(f"resources={value!r}: {name!r} is not a name")
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ConfigurationError(f"resources={value!r}: of {name!r}, a whole number of at least 1 is needed")
            tokens.append((name, count))
    except (TypeError, ValueError):
        raise ConfigurationError(
            f'resources={value!r}: a dictionary is needed, such as resources={{"licence": 1}}'
        ) from None
    return tuple(sorted(tokens))


def _on_error(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    answers = cast("Mapping[object, object]", value) if isinstance(value, Mapping) else {Exception: value}
    for kind, answer in answers.items():
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise ConfigurationError(f"{attribute.name}={value!r}: {kind!r} is not a class of errors")
        if answer not in ("hold", "raise") and not isinstance(answer, Resubmit):
            raise ConfigurationError(
                f'{attribute.name}={value!r}: "hold", "raise" or hyperflow.Resubmit(times) is needed, or a dictionary '
                "of these by class of error"
            )


def _sbatch(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None:
        from hyperflow.slurm.script import SbatchOptions  # noqa: PLC0415 (only programs that have one need its module)

        if not isinstance(value, SbatchOptions):
            raise ConfigurationError(
                f"{attribute.name}={value!r}: write using({attribute.name}=hyperflow.SbatchOptions(nodes=2, ...))"
            )


@attrs.frozen
class Options:
    """What each evaluation asks for; `using` sets it, and says what each option means."""

    cpus: int = attrs.field(default=1, validator=_whole(1))
    fresh_process: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    retries: int = attrs.field(default=0, validator=_whole(0))
    time_limit: float | None = attrs.field(default=None, converter=_time_limit, validator=_seconds)
    exclusive: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    seed: int = attrs.field(default=0, validator=_whole(0))
    crash_limit: int = attrs.field(default=2, validator=_whole(1))
    straggler_factor: float | None = attrs.field(default=None, validator=_factor)
    name: str | None = attrs.field(default=None, validator=_name)
    post_mortem: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    gpus: float = attrs.field(default=0, converter=_gpus)
    memory: int | Literal["auto"] | None = attrs.field(default=None, converter=_memory)
    resources: tuple[tuple[str, int], ...] = attrs.field(default=(), converter=to_tokens)
    min_time: float | Literal["auto"] | None = attrs.field(default=None, converter=_min_time)
    priority: int = attrs.field(default=0, validator=_integer)
    nodes: int = attrs.field(default=1, validator=_whole(1))
    request: Request | None = attrs.field(init=False, eq=False, repr=False, default=None)
    """What the scheduler is asked for; None if that is `cpus` and nothing else. What is "auto" is not in it."""
    alone: bool = attrs.field(init=False, eq=False, repr=False, default=False)
    """Whether nothing may be prefetched of it or behind it: something is noted of each evaluation."""
    learns: bool = attrs.field(init=False, eq=False, repr=False, default=False)
    """Whether something is "auto"."""
    guess: Guess | None = attrs.field(init=False, eq=False, repr=False, default=None)
    """The guess that this is part of."""

    def __attrs_post_init__(self) -> None:
        request = Request(
            cpus=self.cpus,
            gpus=self.gpus,
            memory=self.memory if isinstance(self.memory, int) else None,
            resources=self.resources,
            min_time=self.min_time if isinstance(self.min_time, (int, float)) else 0.0,
            nodes=self.nodes,
            priority=self.priority,
        )
        if request != Request(cpus=self.cpus):
            object.__setattr__(self, "request", request)
        limited = self.time_limit is not None or self.memory is not None
        object.__setattr__(self, "learns", self.memory == "auto" or self.min_time == "auto")
        object.__setattr__(
            self, "alone", limited or self.learns or self.straggler_factor is not None or self.post_mortem
        )
        if self.exclusive and self.straggler_factor is not None:
            raise ConfigurationError(
                f"using(exclusive=True, straggler_factor={self.straggler_factor:g}): an exclusive evaluation must not "
                "run twice at a time, and a straggler gets a copy; write straggler_factor=None where exclusive=True is"
            )

    def guessed(self, guess: Guess) -> Options:
        """Return the same as part of a guess, for which only what is idle is taken as long as nobody wants it."""
        made = attrs.evolve(self)
        object.__setattr__(made, "guess", guess)
        if not guess.is_wanted:
            request = self.request or Request(cpus=self.cpus)
            object.__setattr__(made, "request", request._replace(speculative=True))
        return made


@attrs.frozen
class JobOptions:
    """What each Slurm job of a Cluster computation asks for; `using` sets it, and says what each option means."""

    sbatch: SbatchOptions | None = attrs.field(default=None, validator=_sbatch)
    on_error: FailurePolicy = attrs.field(default="hold", validator=_on_error)


class OptionChanges(TypedDict, total=False):
    """The arguments of `using`, as the type of a dict: `few: OptionChanges = {"cpus": 2}`, then `using(**few)`."""

    cpus: int
    fresh_process: bool
    retries: int
    time_limit: float | str | None
    exclusive: bool
    crash_limit: int
    straggler_factor: float | None
    name: str | None
    post_mortem: bool
    seed: int
    gpus: float
    memory: int | str | None
    resources: Mapping[str, int]
    min_time: float | str | None
    priority: int
    nodes: int
    sbatch: SbatchOptions | None
    on_error: FailurePolicy
