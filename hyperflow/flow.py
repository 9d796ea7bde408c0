"""Flow: an immutable description of a computation that needs an environment.

Guarantees:
- Making a flow runs nothing. `await flow` inside a running flow runs it there, in the current environment. Each
  `await` runs it again.
- `pure` and `then` obey the monad laws, and chains of them, however long or deep, use no Python stack.
- A flow pickles together with its arguments.
- A flow that is used like its result is an error, and one that nobody awaits a warning; both show the corrected code.

Why a class and not just coroutines: a coroutine runs once and cannot be pickled. A step is one way to run; a Flow is
what the user holds: a step and its type.

Why `start` beside `await`: 20,000 evaluations side by side need 20,000 futures, but not 20,000 tasks. A remote
evaluation has a future already: its step returns that one and needs no task.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeAlias, TypeVar, Unpack

import attrs

from hyperflow import environment
from hyperflow.environment import JobOptions, OptionChanges, Options, changed, peek
from hyperflow.errors import ConfigurationError, FlowNeverAwaited, MisuseError
from hyperflow.saying import short_repr

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
U = TypeVar("U")

Caught: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

STEPS_BETWEEN_PAUSES = 256
"""A chain of pure steps lets the event loop run once in so many steps, so that it can be cancelled."""

LINKS_SHOWN = 3
"""How many links at the end of a long chain an error shows."""


class Step:
    """One way to run. Subclasses are frozen records, so that a flow pickles with its arguments."""

    __slots__ = ()

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        """Run once: a new coroutine at each call."""
        raise NotImplementedError

    def __await__(self) -> Generator[Any, None, Any]:
        """Run inside the task that awaits."""
        return self.coroutine().__await__()

    def start(self) -> asyncio.Future[Any]:
        """Run beside the caller; cancelling the future cancels the run."""
        return asyncio.get_running_loop().create_task(self.coroutine())


class Flow(Generic[T_co]):
    """A computation that needs an environment and returns a T; `await` it inside a running flow.

    Functions under `@job`, `remote_eval`, `pure`, `concurrently` and the like make flows; users do not construct them.
    """

    __slots__ = ("__weakref__", "_unawaited", "step")

    def __init__(self, step: Step) -> None:
        self.step: Step = step
        """How it runs; internal to hyperflow."""
        # Only a flow made while one runs is likely to be a forgotten await. (A guard object for each flow was rejected:
        # every evaluation would pay for making it.)
        self._unawaited: bool = peek() is not None

    def __await__(self) -> Generator[Any, None, T_co]:
        self._unawaited = False
        if peek() is None:
            raise environment.not_in_flow(repr(self))
        return self.step.__await__()

    def start(self) -> asyncio.Future[T_co]:
        """Run beside the caller and return the future of the result; the combinators are built on this."""
        self._unawaited = False
        if peek() is None:
            raise environment.not_in_flow(repr(self))
        return self.step.start()

    def used(self) -> Self:
        """Mark the flow as used, so that no "never awaited" warning comes; return it."""
        self._unawaited = False
        return self

    def map(self, fn: Callable[[T_co], U]) -> Flow[U]:
        """Apply a plain function to the result: `flow.map(f)` returns `f(x)` where `flow` returns x."""
        return self._next(Bound(self.used(), function(fn, "map"), joins=False))

    def then(self, fn: Callable[[T_co], Flow[U]]) -> Flow[U]:
        """Continue with the flow that `fn` returns for the result (the monad's bind)."""
        return self._next(Bound(self.used(), function(fn, "then"), joins=True))

    def using(self, **options: Unpack[OptionChanges]) -> Self:
        """Run with changed options: `flow.using(cpus=4)`; `hyperflow.using` says which there are."""
        source = self.used()
        changed(Options(), JobOptions(), options)  # a bad option is refused here, not when it runs
        return type(self)(Using(source, options))

    def retry(self, times: int, *, on: Caught = Exception, pause: float = 0.0) -> Self:
        """Run again after an error of class `on`, up to `times` times more, `pause` seconds after each failure.

        Raises the last error unchanged. A cancelled flow is not retried. If the flow is a single evaluation, it runs on
        another node each time, while there is one.
        """
        source = self.used()
        if times < 0:
            raise ConfigurationError(f"retry({times}): a whole number of at least 0 is needed")
        return type(self)(Changed(source, f"retry({times})", _retry, (times, on, pause)))

    def timeout(self, seconds: float) -> Self:
        """Cancel the flow and raise TimeoutError when it has not ended after `seconds`."""
        source = self.used()
        if not seconds >= 0:
            raise ConfigurationError(f"timeout({seconds}): a number of seconds is needed")
        return type(self)(Changed(source, f"timeout({seconds:g})", _timeout, (seconds,)))

    def _next(self, step: Step) -> Flow[Any]:
        return type(self)(step)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.step}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self.used()), (self.step,)

    def __del__(self) -> None:
        if self._unawaited:
            warnings.warn(
                f"{self!r} was made but never awaited; write: await {self.step}", FlowNeverAwaited, stacklevel=2
            )

    if not TYPE_CHECKING:  # type checkers refuse these by themselves

        def _not_a_value(self, *_: object) -> NoReturn:
            raise MisuseError(f"{self.used()!r} is a flow, not its result; write: (await {self.step})")

        __bool__ = __iter__ = __len__ = __getitem__ = __contains__ = _not_a_value
        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _not_a_value
        __floordiv__ = __mod__ = __pow__ = __rpow__ = __neg__ = __abs__ = __float__ = __int__ = _not_a_value
        __index__ = __lt__ = __le__ = __gt__ = __ge__ = __matmul__ = __enter__ = __exit__ = _not_a_value

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("__"):  # pickle, copy and the like ask, and expect this answer
                raise AttributeError(name)
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}: {self!r} is a flow, not its result; "
                f"write: (await {self.step}).{name}"
            )


class Job(Flow[T_co]):
    """A flow that runs on the head node of one allocation, or on this machine, and owns its CPUs."""

    __slots__ = ()

    if TYPE_CHECKING:  # the same methods; only their types say more

        def map(self, fn: Callable[[T_co], U]) -> Job[U]: ...
        def then(self, fn: Callable[[T_co], Flow[U]]) -> Job[U]: ...


class Cluster(Flow[T_co]):
    """A flow that runs on the login node and asks Slurm for allocations, one for each `remote_eval_job`."""

    __slots__ = ()

    if TYPE_CHECKING:  # the same methods; only their types say more

        def map(self, fn: Callable[[T_co], U]) -> Cluster[U]: ...
        def then(self, fn: Callable[[T_co], Flow[U]]) -> Cluster[U]: ...


def show_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a call as the user would write it, with long arguments cut."""
    words = [short_repr(a, 40) for a in args[:6]] + ["..."] * (len(args) > 6)
    words += [f"{name}={short_repr(value, 40)}" for name, value in kwargs.items()]
    return f"{getattr(fn, '__name__', None) or short_repr(fn, 40)}({', '.join(words)})"


def _closed(coroutine: Coroutine[Any, Any, Any]) -> str:
    """Close a coroutine, so that Python does not warn as well, and return its function's name."""
    coroutine.close()
    return str(getattr(coroutine, "__name__", "the function"))


def function(fn: object, where: str) -> Any:
    """Return fn if it can be called; otherwise raise MisuseError with what was probably meant."""
    if asyncio.iscoroutine(fn):
        name = _closed(fn)
        raise MisuseError(
            f"{where} takes a function, not a coroutine: leave the call to hyperflow and write "
            f"{where}({name}, ...) in place of {where}({name}(...))"
        )
    if isinstance(fn, Flow):
        raise MisuseError(f"{where} takes a function, not the flow {fn!r}; write: await {fn.step}")
    if not callable(fn):
        raise MisuseError(f"{where} takes a function, not {fn!r}")
    return fn


def check(value: object, where: str) -> None:
    """Raise MisuseError, with what was probably meant, if value is no flow."""
    if isinstance(value, Flow):
        return
    if asyncio.iscoroutine(value):
        name = _closed(value)
        raise MisuseError(
            f"{where} takes a flow, not a coroutine: put @hyperflow.job above `async def {name}`, then {name}(...) "
            "is a flow"
        )
    if callable(value):
        name = getattr(value, "__name__", repr(value))
        raise MisuseError(f"{where} takes a flow, not the function {name}: call it, as in {where}({name}(...))")
    raise MisuseError(f"{where} takes a flow, not {value!r}; a plain value becomes one with hyperflow.pure(...)")


@attrs.frozen(repr=False)
class CallStep(Step):
    """A call of a decorated function, which pickles by name."""

    fn: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __repr__(self) -> str:
        return show_call(self.fn, self.args, self.kwargs)


@attrs.frozen(repr=False)
class Call(CallStep):
    """A call of a function under `@job` or `@cluster`; `fn` makes the coroutine."""

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        env = environment.peek()
        if env is not None and env.level != self.fn.level:
            raise MisuseError(_WRONG_LEVEL[env.level].format(call=self))
        made: Coroutine[Any, Any, Any] = self.fn.__wrapped__(*self.args, **self.kwargs)
        return made


_WRONG_LEVEL = {
    "cluster": "{call} is a job, which runs in an allocation, and this is a Cluster computation, which has none; "
    "write: await hyperflow.remote_eval_job({call})",
    "job": "{call} is a Cluster computation, which asks Slurm for allocations, and this is a job, which runs inside "
    "one; run it with hyperflow.main or hyperflow.open_cluster, and let it call the jobs",
}


@attrs.frozen(repr=False)
class Native(Step):
    """A call of one of hyperflow's own async functions, shown by its public name."""

    name: str
    fn: Callable[..., Coroutine[Any, Any, Any]]
    args: tuple[Any, ...] = ()

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        return self.fn(*self.args)

    def __repr__(self) -> str:
        return f"{self.name}({'...' if self.args else ''})"


@attrs.frozen(repr=False)
class Bound(Step):
    """`source`, then `fn`, which returns the next flow (`then`) or the result (`map`)."""

    source: Flow[Any]
    fn: Callable[[Any], Any]
    joins: bool

    async def coroutine(self) -> Any:
        pending: list[Bound] = []
        step: Step = self
        count = 0
        while True:
            while isinstance(step, Bound):  # down the left spine, without recursion
                pending.append(step)
                step = step.source.step
            value = await step
            while pending and not pending[-1].joins:
                value = pending.pop().fn(value)
            if not pending:
                return value
            following = pending.pop().fn(value)
            if not isinstance(following, Flow):
                raise MisuseError(
                    f"then(fn): fn has to return a flow, but returned {following!r}; for a plain value use "
                    "map(fn), or return hyperflow.pure(value)"
                )
            step = following.used().step
            count += 1
            if count % STEPS_BETWEEN_PAUSES == 0:
                await asyncio.sleep(0)

    def __repr__(self) -> str:
        words: list[str] = []
        step: Step = self
        while isinstance(step, Bound) and len(words) < LINKS_SHOWN:
            words.append(f".{'then' if step.joins else 'map'}({getattr(step.fn, '__name__', '...')})")
            step = step.source.step
        return ("..." if isinstance(step, Bound) else repr(step)) + "".join(reversed(words))


@attrs.frozen(repr=False)
class Pure(Step):
    """A value."""

    value: Any

    async def coroutine(self) -> Any:
        return self.value

    def __repr__(self) -> str:
        return show_call(pure, (self.value,), {})


@attrs.frozen(repr=False)
class Using(Step):
    """`source` with changed options."""

    source: Flow[Any]
    options: OptionChanges

    async def coroutine(self) -> Any:
        with environment.using(**self.options):
            return await self.source

    def start(self) -> asyncio.Future[Any]:
        with environment.using(**self.options):
            return self.source.start()

    def __repr__(self) -> str:
        return f"{self.source.step}.{show_call(self.source.using, (), {**self.options})}"


@attrs.frozen(repr=False)
class Changed(Step):
    """`source`, run by one of hyperflow's own functions; shown as the method that was called."""

    source: Flow[Any]
    method: str
    fn: Callable[..., Coroutine[Any, Any, Any]]
    args: tuple[Any, ...]

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        return self.fn(self.source, *self.args)

    def __repr__(self) -> str:
        return f"{self.source.step}.{self.method}"


async def _retry(source: Flow[T], times: int, on: Caught, pause: float) -> T:
    run = environment.Try()
    for _ in range(times):
        try:
            with environment.trying(run):
                return await source
        except asyncio.CancelledError:
            raise
        except on:
            await asyncio.sleep(pause)
        run = run.next()
    with environment.trying(run):
        return await source


async def _timeout(source: Flow[T], seconds: float) -> T:
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await source
    except TimeoutError as error:
        if scope.expired():
            raise TimeoutError(f"{source!r} took longer than {seconds:g} s and was cancelled") from error
        raise


def pure(value: T) -> Job[T]:
    """Return a flow whose result is `value` (the monad's return)."""
    return Job(Pure(value))


def ask() -> Job[environment.Environment]:
    """Return a flow whose result is the current environment; in a Cluster computation, a `ClusterEnv`."""
    return Job(Native("ask", _environment))


async def _environment() -> environment.Environment:
    return environment.current()
