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
import dis
import functools
import itertools
import sys
import types
import warnings
from collections.abc import Callable, Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Self, TypeAlias, TypeVar, Unpack, overload

from hyperflow import environment, failures, pages
from hyperflow.environment import Activity, changed, peek
from hyperflow.errors import ConfigurationError, FlowNeverAwaited, MisuseError
from hyperflow.nesting import is_deep, on_new_stack
from hyperflow.options import JobOptions, OptionChanges, Options
from hyperflow.saying import short_repr

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")
U = TypeVar("U")
E = TypeVar("E", bound=environment.Environment)

current_activity, begin, end = environment.activity.get, environment.activity.set, environment.activity.reset
"""Bound once: each flow that runs beside others begins one."""

Caught: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]

STEPS_BETWEEN_PAUSES = 256
"""A chain of pure steps lets the event loop run once in so many steps, so that it can be cancelled."""

ARGUMENTS_SHOWN = 6
"""How many arguments of a call an error shows, and as many keyword arguments."""

LINKS_SHOWN = 3
"""How many links at the end of a long chain an error shows."""


class Step:
    """One way to run. Subclasses have slots, so that a flow pickles with its arguments."""

    __slots__ = ()

    is_evaluation: ClassVar[bool] = False
    """Whether it is one evaluation and nothing else, which the engine may start together with others."""

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        """Run once: a new coroutine at each call."""
        raise NotImplementedError

    def __await__(self) -> Generator[Any, None, Any]:
        """Run inside the task that awaits, or in one of its own where the stack is deep."""
        if is_deep():
            return on_new_stack(self.coroutine).__await__()
        return self.coroutine().__await__()

    def start(self) -> asyncio.Future[Any]:
        """Run beside the caller; cancelling the future cancels the run."""
        token = begin(Activity(current_activity()))
        try:
            return asyncio.get_running_loop().create_task(self.coroutine())
        finally:
            end(token)

    def way(self) -> object:
        """Return what is the same for steps that a map can start together, in its own way; None for the engine's."""
        return None

    def open_map(self, owner: environment.MapOwner) -> environment.BulkMap | None:
        """Return what starts together those steps of a map that go this way; asked where a map goes together at all."""
        return environment.open_map(owner)

    def call(self) -> str:
        """Return the call that it makes, for errors: the user's function with its arguments; "" if it makes none."""
        return ""


class Flow(Generic[T_co]):
    """A computation that needs an environment and returns a T; `await` it inside a running flow.

    Functions under `@job`, `remote_eval`, `pure`, `concurrently` and the like make flows; users do not construct them.
    """

    __slots__ = ("__weakref__", "made_at", "step")

    def __init__(self, step: Step) -> None:
        self.step: Step = step
        """How it runs; internal to hyperflow."""
        # Only a flow made while one runs is likely to be a forgotten await. (A guard object for each flow was rejected:
        # every evaluation would pay for making it.)
        if peek() is None:
            self.made_at: tuple[types.CodeType, int] | None = None
        else:  # where the user's function made it; the line is looked up if nobody awaits it
            frame = _frame(2)
            self.made_at = frame.f_code, frame.f_lasti

    def __await__(self) -> Generator[Any, None, T_co]:
        self.made_at = None
        if peek() is None:
            return _InStarted(environment.current(repr(self)), self.step).__await__()
        return self.step.__await__()

    def start(self) -> asyncio.Future[T_co]:
        """Run beside the caller, and return the future of the result: what `asyncio.create_task` is for a coroutine.

            first = simulate(1).start()     # runs from now on
            ...
            print(await first)

        `await flow` runs it and waits; `concurrently` and `map_concurrently` start many and wait for all. Use this
        where a future is needed: for `asyncio.wait`, or to go on and ask later. As with `create_task`, keep the future;
        the program's end cancels what still runs, and an error that nobody asks for is only logged. Each call is one
        more run. `asyncio.gather`, `wait_for` and `shield` take flows themselves. In a TaskGroup, write
        `group.create_task(env.run(flow))`.

        Cancelling the future cancels the run, as cancelling `await flow` does. The options of the scope where it is
        started count. From another thread: `asyncio.run_coroutine_threadsafe(env.run(flow), loop)`.

        Cost: that of the flow; a remote evaluation needs no task.

        Raises:
            NotInFlow: There is no environment here.
            SerializationError, ImpossibleRequest: At once, for a remote evaluation that cannot be sent or run anywhere.
        """
        self.made_at = None
        if peek() is None:
            with environment.entered(environment.current(repr(self))):
                return self.step.start()
        return self.step.start()

    def used(self) -> Self:
        """Mark the flow as used, so that no "never awaited" warning comes; return it."""
        self.made_at = None
        return self

    def map(self, fn: Callable[[T_co], U]) -> Flow[U]:
        """Apply a plain function to the result: `flow.map(f)` returns `f(x)` where `flow` returns x."""
        return type(self)(Bound(self.used(), function(fn, "map"), joins=False))  # type: ignore[return-value]

    def then(self, fn: Callable[[T_co], Flow[U]]) -> Flow[U]:
        """Continue with the flow that `fn` returns for the result (the monad's bind)."""
        return type(self)(Bound(self.used(), function(fn, "then"), joins=True))  # type: ignore[return-value]

    def using(self, **options: Unpack[OptionChanges]) -> Self:
        """Run with changed options: `flow.using(cpus=4)`; `hyperflow.using` says which there are."""
        source = self.used()
        changed(Options(), JobOptions(), options)  # a bad option is refused here, not when it runs
        return type(self)(Using(source, options))

    def retry(self, times: int, *, on: Caught = Exception, pause: float = 0.0) -> Self:
        """Run again after an error of class `on`, up to `times` times more, `pause` seconds after each failure.

        Raises the last error unchanged. A cancelled flow is not retried. If the flow is a single evaluation, it runs on
        another node each time, while there is one. `using(retries=...)` repeats single evaluations; its documentation
        (`help(hyperflow.using)`) says which of the two to take.
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

    def __repr__(self) -> str:
        # asyncio refuses what is no coroutine, and its error shows only this.
        frame = _frame(1)
        asked_by = frame.f_globals.get("__name__")
        if (isinstance(asked_by, str) and asked_by.startswith("asyncio.")) or _makes_task(frame):
            use = f"hyperflow.run_job_local({self.step})" if asked_by == "asyncio.runners" else f"{self.step}.start()"
            return f"the flow {self.used().step}; write: {use}"
        return f"<{type(self).__name__} {self.step}>"

    def _repr_html_(self) -> str:
        from hyperflow import displays  # noqa: PLC0415 (only a notebook asks)

        remark = f"is a flow ({type(self).__name__}), which runs when it is awaited:"
        return displays.code(f"{self.step}", remark, f"await {self.step}")

    def __reduce__(self) -> tuple[Any, ...]:
        if peek() is None and environment.on_worker():
            remedy = environment.not_on_workers("returns it")
            raise MisuseError(f"the flow {self.used()!r} was returned by a function that ran on a worker, {remedy}")
        return type(self.used()), (self.step,)

    def __del__(self) -> None:
        if self.made_at is not None:
            code, instruction = self.made_at
            line = _line(code, instruction)
            text = (
                f"{self!r} was made but never awaited; write: await {self.step} "
                f"(it was made in {code.co_name}, {code.co_filename}, line {line}); "
                f"{pages.about_error(FlowNeverAwaited)}"
            )
            # By itself, the warning would name the line that runs now, which may be anywhere.
            warnings.warn_explicit(text, FlowNeverAwaited, code.co_filename, line, registry=_warned)

    if not TYPE_CHECKING:  # type checkers refuse these by themselves

        def _not_a_value(self, *_: object) -> NoReturn:
            raise MisuseError(f"{self.used()!r} is a flow, not its result{_remedy(f'(await {self.step})')}")

        __bool__ = __iter__ = __len__ = __getitem__ = __contains__ = _not_a_value
        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _not_a_value
        __floordiv__ = __mod__ = __pow__ = __rpow__ = __neg__ = __abs__ = __float__ = __int__ = _not_a_value
        __index__ = __lt__ = __le__ = __gt__ = __ge__ = __matmul__ = __enter__ = __exit__ = _not_a_value

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("__"):  # pickle, copy and the like ask, and expect this answer
                raise AttributeError(name)
            if name in _OF_FUTURES:
                raise AttributeError(
                    f"{type(self).__name__} has no attribute {name!r}: {self.used()!r} is a flow, and no future before "
                    f"it is started; write: {self.step}.start()"
                )
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}: {self!r} is a flow, not its result"
                f"{_remedy(f'(await {self.step}).{name}')}"
            )


_OF_FUTURES = frozenset(
    {"add_done_callback", "remove_done_callback", "get_loop", "done", "cancel", "cancelled", "exception", "result"}
)


class _InStarted(asyncio.Future[Any]):
    """The run of a step in the environment that was started on this loop, as a cell of a notebook awaits it.

    A future, and not a generator: a traceback in the cell would always show the generator's frame.
    """

    def __init__(self, env: environment.Environment, step: Step) -> None:
        super().__init__()
        self._running = asyncio.get_running_loop().create_task(self._run(env, step))

    async def _run(self, env: environment.Environment, step: Step) -> None:
        """Run the step; whatever it raises, SystemExit too, is raised where this is awaited, and not by the loop."""
        try:
            with environment.entered(env):
                result = await step
        except asyncio.CancelledError:
            super().cancel()
        except BaseException as error:  # noqa: BLE001 (see above)
            if not self.done():
                failures.shorten(error)
                if error.__traceback__ is not None:
                    error.__traceback__ = error.__traceback__.tb_next  # without the frame of this coroutine
                self.set_exception(error)
        else:
            if not self.done():
                self.set_result(result)

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the run; this ends when that has ended."""
        return self._running.cancel(msg)


_frame = sys._getframe  # pyright: ignore[reportPrivateUsage] (bound once: every flow asks)

_new: Any = object.__new__

_warned: dict[Any, Any] = {}
"""Where `warnings` keeps account of what it has said."""


def _remedy(corrected: str) -> str:
    """Return what to write in place of a use of a flow as its result."""
    if peek() is None and environment.on_worker():
        return f", {environment.not_on_workers('uses it')}"
    return f"; write: {corrected}"


def _line(code: types.CodeType, instruction: int) -> int:
    """Return the line that an instruction of a function belongs to."""
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno


def _makes_task(frame: types.FrameType) -> bool:
    """Whether a call of `create_task` or `Task` is under way; uvloop's, and the class itself, have no frame."""
    code = frame.f_code
    if not _MAKE_TASKS.intersection(code.co_names):
        return False
    places = list(code.co_positions())
    first, last = places[frame.f_lasti // 2][:2]
    if first is None or last is None:
        return False
    return any(
        one.argval in _MAKE_TASKS and (line := places[one.offset // 2][0]) is not None and first <= line <= last
        for one in dis.get_instructions(code)
        if isinstance(one.argval, str)
    )


_MAKE_TASKS = frozenset({"create_task", "Task"})


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


class ShowsItself:
    """A callable of ours that stands for calls of the user's function."""

    __slots__ = ()

    def shown(self, args: tuple[Any, ...]) -> str:
        """Return a call of it, as errors show it."""
        raise NotImplementedError


def show_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return a call as the user would write it, with long arguments cut."""
    called: object = fn
    if isinstance(called, ShowsItself):
        return called.shown(args)
    while isinstance(fn, functools.partial):
        args, kwargs, fn = (*fn.args, *args), {**fn.keywords, **kwargs}, fn.func
    words = [_shown(a) for a in args[:ARGUMENTS_SHOWN]] + ["..."] * (len(args) > ARGUMENTS_SHOWN)
    words += [f"{name:.40}={_shown(value)}" for name, value in itertools.islice(kwargs.items(), ARGUMENTS_SHOWN)]
    words += ["..."] * (len(kwargs) > ARGUMENTS_SHOWN)
    return f"{function_name(fn)}({', '.join(words)})"


def function_name(fn: object) -> str:
    """Return the name of a function, or of what stands for one, as the user wrote it."""
    try:
        name: object = getattr(fn, "__name__", None)
    except BaseException:  # noqa: BLE001 (whatever a user's __getattr__ raises)
        name = None
    return str.__str__(name)[:100] if isinstance(name, str) else short_repr(fn, 40)


def _shown(argument: object) -> str:
    """Return an argument in a few characters; a function by its name."""
    return argument.__name__[:40] if isinstance(argument, types.FunctionType) else short_repr(argument, 40)


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
        raise MisuseError(f"{where} takes a function, not the flow {fn.used()!r}; write: await {fn.step}")
    if not callable(fn):
        raise MisuseError(
            f"{where} takes a function, not {short_repr(fn, 60)}; if that is what a function has returned, leave the "
            f"call to hyperflow and give function and arguments apart: {where}(f, ...) in place of {where}(f(...))"
        )
    return fn


def plain_function(fn: object, where: str, instead: str) -> Any:
    """Return fn if a worker can call it; raise MisuseError as `function` does, and if it makes flows itself.

    `instead` is what to write for one that does, with `{name}` for its name.
    """
    inner = fn
    while isinstance(inner, (types.MethodType, functools.partial)):
        inner = inner.__func__ if isinstance(inner, types.MethodType) else inner.func
    if isinstance(inner, MakesFlows):
        name = getattr(inner, "__name__", None) or short_repr(inner, 40)
        raise MisuseError(
            f"{where} takes a function that a worker can call, and {name} is one that makes flows: it runs here, and "
            f"sends its own evaluations to workers; write: {instead.format(name=name)}"
        )
    return function(fn, where)


def check_made(value: object, where: str, fn: object) -> None:
    """Raise MisuseError, with what was probably meant, if `fn`, which `where` called for each item, made no flow."""
    if isinstance(value, Flow):
        return
    name = getattr(fn, "__name__", None) or short_repr(fn, 40)
    shown = "f" if name == "<lambda>" else name
    each = f"lambda x: hyperflow.remote_eval({shown}, x)"
    if asyncio.iscoroutine(value):
        made = _closed(value)
        raise MisuseError(
            f"{where} runs flows, and its function {name} returned a coroutine. To run it here, put @hyperflow.job "
            f"above `async def {made}`; to run it on workers, write: {where}({each}, ...)"
        )
    whole = "" if where == "as_completed" else f"hyperflow.remote_map({shown}, ...), or "
    raise MisuseError(
        f"{where} runs flows, and its function {name} returned {short_repr(value, 60)}, which is none"
        f"{' (is a `return` missing?)' if value is None else ''}. To evaluate a plain function on workers, write: "
        f"{whole}{where}({each}, ...)"
    )


def check(value: object, where: str) -> None:
    """Raise MisuseError, with what was probably meant, if value is no flow."""
    if isinstance(value, Flow):
        return
    if isinstance(value, (list, tuple, set, types.GeneratorType)):
        for each in value if not isinstance(value, types.GeneratorType) else ():
            if isinstance(each, Flow):
                _ = each.used()  # one error is enough
        raise MisuseError(f"{where} takes flows one by one, not {short_repr(value, 60)}; write: {where}(*flows)")
    if asyncio.iscoroutine(value):
        name = _closed(value)
        raise MisuseError(
            f"{where} takes a flow, not a coroutine: put @hyperflow.job above `async def {name}`, then {name}(...) "
            "is a flow"
        )
    if callable(value):
        name = getattr(value, "__name__", None) or short_repr(value, 40)
        if isinstance(value, MakesFlows):
            raise MisuseError(f"{where} takes a flow, not the function {name}: call it, as in {where}({name}(...))")
        raise MisuseError(
            f"{where} takes a flow, not the function {name}: call it, as in {where}({name}(...)), if it returns one; "
            f"to evaluate it on a worker, write: {where}(hyperflow.remote_eval({name}, ...))"
        )
    raise MisuseError(
        f"{where} takes a flow, not {short_repr(value, 60)}; a plain value becomes one with hyperflow.pure(...)"
    )


class MakesFlows:
    """A function under one of hyperflow's decorators: calling it returns a flow, and runs nothing."""


class CallStep(Step):
    """A call of a decorated function, which pickles by name."""

    __slots__ = ("args", "fn", "kwargs")

    def __init__(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs

    def call(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return show_call(self.fn, self.args, self.kwargs)


class Call(CallStep):
    """A call of a function under `@job` or `@cluster`; `fn` makes the coroutine."""

    __slots__ = ()

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


class Native(Step):
    """A call of one of hyperflow's own async functions, shown by its public name."""

    __slots__ = ("args", "fn", "name")

    def __init__(self, name: str, fn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.fn = fn
        self.args = args

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        return self.fn(*self.args)

    def __repr__(self) -> str:
        return f"{self.name}({'...' if self.args else ''})"


class Bound(Step):
    """`source`, then `fn`, which returns the next flow (`then`) or the result (`map`)."""

    __slots__ = ("fn", "joins", "source")

    def __init__(self, source: Flow[Any], fn: Callable[[Any], Any], joins: bool) -> None:
        self.source = source
        self.fn = fn
        self.joins = joins

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


class Pure(Step):
    """A value."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    async def coroutine(self) -> Any:
        return self.value

    def __repr__(self) -> str:
        return show_call(pure, (self.value,), {})


class Using(Step):
    """`source` with changed options."""

    __slots__ = ("options", "source")

    def __init__(self, source: Flow[Any], options: OptionChanges) -> None:
        self.source = source
        self.options = options

    async def coroutine(self) -> Any:
        with environment.using(**self.options):
            return await self.source

    def start(self) -> asyncio.Future[Any]:
        with environment.using(**self.options):
            return self.source.start()

    def call(self) -> str:
        return self.source.step.call()

    def __repr__(self) -> str:
        return f"{self.source.step}.{show_call(self.source.using, (), {**self.options})}"


class Changed(Step):
    """`source`, run by one of hyperflow's own functions; shown as the method that was called."""

    __slots__ = ("args", "fn", "method", "source")

    def __init__(
        self, source: Flow[Any], method: str, fn: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]
    ) -> None:
        self.source = source
        self.method = method
        self.fn = fn
        self.args = args

    def coroutine(self) -> Coroutine[Any, Any, Any]:
        return self.fn(self.source, *self.args)

    def call(self) -> str:
        return self.source.step.call()

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
        try:
            return await source
        except on as error:
            failures.note_tries(error, times + 1)
            raise


async def _timeout(source: Flow[T], seconds: float) -> T:
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await source
    except TimeoutError:
        if not scope.expired():
            raise
    finally:
        del scope  # it knows the task, whose exception knows this frame: memory would wait for the cycle collector
    # Not within the handler: asyncio's TimeoutError, and the cancellation behind it, would teach nobody anything.
    raise TimeoutError(f"{source!r} took longer than {seconds:g} s and was cancelled")


def pure(value: T) -> Job[T]:
    """Return a flow whose result is `value` (the monad's return)."""
    # As Job(Pure(value)) does it, in half the time.
    flow: Job[T] = _new(Job)
    flow.step = Pure(value)
    if peek() is None:
        flow.made_at = None
    else:
        frame = _frame(1)
        flow.made_at = frame.f_code, frame.f_lasti
    return flow


@overload
def ask() -> Job[environment.Environment]: ...
@overload
def ask(kind: type[E]) -> Job[E]: ...
def ask(kind: type[environment.Environment] = environment.Environment) -> Job[Any]:
    """Return a flow whose result is the current environment.

    Args:
        kind: Which one it has to be, for type checkers: `await hf.ask(hf.ClusterEnv)` in a Cluster computation. If it
            is another one, awaiting the flow raises MisuseError.
    """
    return Job(Native("ask", _environment, () if kind is environment.Environment else (kind,)))


async def _environment(kind: type[environment.Environment] = environment.Environment) -> environment.Environment:
    found = environment.current()
    if not isinstance(found, kind):
        raise MisuseError(f"ask({kind.__name__}): the environment here is a {type(found).__name__}")
    return found
