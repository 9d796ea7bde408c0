"""What a pickle is rebuilt from: functions, cells and classes are made empty, and filled afterwards.

A pickle names these functions, and they run where it arrives. Because an object is there before it is filled, what is
in it may refer to it.

Guarantees: a class that travels by value has a number, and a process makes it once for that number. In the process
where it comes from, the number stands for the original. So an instance that comes back is an instance of the very
class that it went out as.
"""

from __future__ import annotations

import abc
import copy
import enum
import functools
import importlib
import itertools
import marshal
import os
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from hyperflow.errors import SerializationError
from hyperflow.shipping import arrivals
from hyperflow.shipping.arrivals import ABSENT, Arrivals

_origin = os.urandom(6).hex()
_numbers = itertools.count()
_id_of: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_by_id: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


def _forget_origin_after_fork() -> None:
    # A class of this worker must not get the number of a class of its launcher or of another worker.
    global _origin  # noqa: PLW0603 (that is what has to change)
    _origin = os.urandom(6).hex()


os.register_at_fork(after_in_child=_forget_origin_after_fork)


Contents: TypeAlias = Sequence[tuple[types.ModuleType | None, Mapping[str, Any]]]
"""Modules, and the names in them that something needs; None for a module that this node does not have."""

ENUM_INNER_OF_MEMBER = frozenset({"_name_", "__objclass__", "_sort_order_"})
"""Attributes of an enum's member that Python gives it."""


class Instead:
    """Pickles as a call, whose result is there after unpickling."""

    def __init__(self, fn: Callable[..., Any], *args: Any) -> None:
        self._call = fn, args

    def __reduce__(self) -> Any:
        return self._call


def track(thing: Any) -> str:
    """Return the number of a class or type variable; give it one if it has none."""
    number = _id_of.get(thing)
    if number is None:
        number = _id_of[thing] = f"{_origin}:{next(_numbers)}"
        _by_id[number] = thing
    return number


def is_ours(number: str) -> bool:
    """Whether this process gave out the number."""
    return number.startswith(_origin + ":")


def known(number: str) -> Any:
    """Return the class that went out under this number."""
    return _by_id[number]


_values: dict[str, Any] = {}


def keep(pair: tuple[str, Any]) -> str:
    """Keep a stored value under its token, and return that."""
    token, value = pair
    _values[token] = value
    return token


def drop(token: str) -> None:
    """Let go of a stored value."""
    _values.pop(token, None)


def stored(token: str) -> Any:
    """Return the value that is stored under this token."""
    return _values[token]


# What pickles call: `make_` makes a thing empty, `fill_` gives it its contents.


def make_module(
    name: str, about: Mapping[str, Any], shared: bool, package: types.ModuleType | None
) -> types.ModuleType:
    """Make the module in whose `__dict__` functions of one pickle find their globals.

    On a worker, a shared one is the module that all share which come from the same one; elsewhere it is their own.
    Its package is there if this process could not import that, either: pickle asks for it, too.
    """
    made = arrived.module(name, about) if shared and arrived is not None else arrivals.make(name, about)
    if package is not None:
        vars(package).setdefault(name.rpartition(".")[2], made)
    return made


arrived: Arrivals | None = None
"""What has arrived in this process, if it takes in the modules of another one."""


def receive() -> Arrivals:
    """From now on, let this process's `__main__` be the script's, as far as it arrives."""
    global arrived  # noqa: PLW0603 (there is one __main__ in a process)
    arrived = Arrivals()
    arrived.module("__main__", {})
    return arrived


def receive_one(data: bytes) -> Any:
    """Load one pickle so that this process's `__main__` is the script's; what comes later has modules of its own."""
    global arrived  # noqa: PLW0603 (there is one __main__ in a process)
    receive()
    try:
        return pickle.loads(data)
    finally:
        arrived = None


def bind(module: types.ModuleType, names: Mapping[str, Any]) -> None:
    """Give a module names that functions and classes need there."""
    if arrived is not None and arrived.has(module):
        arrived.bind(module.__name__, names)
    else:
        vars(module).update({name: value for name, value in names.items() if value is not ABSENT})


def fill_modules(_first: Any, contents: Contents) -> None:
    """Give modules the names in them that a pickle needs; `_first` is what stands for it in the pickle."""
    for module, names in contents:
        if module is not None:
            bind(module, names)


def same(thing: Any) -> Any:
    """Return what is there."""
    return thing


def import_if_there(name: str) -> Any:
    """Import a module that only an annotation names; None if this node does not have it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def make_function(code: bytes, module: types.ModuleType, cells: tuple[types.CellType, ...]) -> Any:
    """Make a function that has its code, and nothing else yet."""
    return types.FunctionType(marshal.loads(code), vars(module), closure=cells or None)


def fill_function(fn: Any, state: tuple[dict[str, Any], Contents, list[str]]) -> None:
    """Give a function what it refers to, in its own module and in others."""
    attributes, contents, submodules = state
    for name in submodules:
        importlib.import_module(name)
    fill_modules(fn, contents)
    own = attributes.pop("__dict__")
    for name, value in attributes.items():
        setattr(fn, name, value)
    fn.__dict__.update(own)


def make_cell() -> types.CellType:
    """Make an empty closure cell."""
    return types.CellType()


def fill_cell(cell: types.CellType, state: tuple[Any]) -> None:
    """Fill a closure cell."""
    cell.cell_contents = state[0]


def once(number: str, make: Callable[[], Any]) -> Any:
    """Return what the number stands for; the first time, make it."""
    found = _by_id.get(number)
    if found is None:
        found = make()
        _id_of[found] = number
        _by_id[number] = found
    return found


def make_class(number: str, metaclass: Any, name: str, bases: tuple[Any, ...], head: dict[str, Any]) -> Any:
    """Make a class without its contents, once for its number.

    Nothing of the user's is called, for that has been done where the class was defined: neither the methods of its
    metaclass, which may want keywords, nor `__init_subclass__`, which may want attributes that come later.
    """

    def make() -> Any:
        with _without_init_subclass(bases):
            return _maker(metaclass)(metaclass, name, bases, dict(head))

    made = once(number, make)
    if _refill and not is_ours(number):  # it is here already, and may have become something else at home
        if made.__bases__ != bases:
            type.__setattr__(made, "__bases__", bases)
        if type(made) is not metaclass:
            made.__class__ = metaclass
    return made


def _maker(metaclass: Any) -> Any:
    """Return the `__new__` that really makes classes: of `type`, ABCMeta, or a metaclass written in C."""
    for kind in metaclass.__mro__:
        new = vars(kind).get("__new__")
        if new is not None and (kind is abc.ABCMeta or not isinstance(new, staticmethod)):
            return kind.__new__
    return type.__new__


_making = threading.RLock()


@contextmanager
def _without_init_subclass(bases: Sequence[type]) -> Iterator[None]:
    """Keep Python from calling `__init_subclass__` of these bases in this thread."""
    all_bases = (kind for base in bases for kind in base.__mro__ if kind is not object)
    owner = next((kind for kind in all_bases if "__init_subclass__" in vars(kind)), None)  # the one that Python asks
    if owner is None:
        yield
        return
    here = threading.get_ident()
    with _making:
        theirs = vars(owner)["__init_subclass__"]

        def quiet(cls: type, /, **keywords: Any) -> None:
            if threading.get_ident() != here:
                theirs.__get__(None, cls)(**keywords)

        with suppress(TypeError):  # a class of C, whose method wants nothing of the user's
            type.__setattr__(owner, "__init_subclass__", classmethod(quiet))
        try:
            yield
        finally:
            with suppress(TypeError):
                type.__setattr__(owner, "__init_subclass__", theirs)


def make_enum(
    number: str,
    metaclass: Any,
    name: str,
    bases: tuple[Any, ...],
    members: dict[str, tuple[MadeOf, Any]],
    boundary: Any,
    head: dict[str, Any],
) -> Any:
    """Make an enum with its members, once for its number. Of each there is what its type is made of, and its value."""
    parts = list(members.values())

    def new_member(cls: Any, index: Any) -> Any:
        made_of, value = parts[index[0] if cls._member_type_ is tuple else index]
        member = made_by(cls._member_type_).__new__(cls, *made_of[0])
        fill_member(member, *made_of)
        member._value_ = value
        return member

    def make() -> Any:
        body: Any = enum.EnumType.__prepare__.__func__(metaclass, name, bases)  # type: ignore[attr-defined]
        own = {"__new__": new_member, "__init__": lambda self, *args: None}
        for key, value in {**head, **own, **{key: index for index, key in enumerate(members)}}.items():
            body[key] = value
        with _without_init_subclass(bases):
            made: Any = enum.EnumType.__new__(
                metaclass, name, bases, body, **({"boundary": boundary} if boundary else {})
            )
        for key in ("__init__", "__new_member__"):  # theirs come with the contents
            if key in vars(made):
                type.__delattr__(made, key)
        return made

    return once(number, make)


def made_by(kind: type) -> type:
    """Return the type, among the bases, that makes the objects of a type: the first that is written in C."""
    return next(base for base in kind.__mro__ if type(vars(base).get("__new__")) is types.BuiltinFunctionType)


MadeOf: TypeAlias = tuple[tuple[Any, ...], list[Any], list[tuple[Any, Any]]]
"""What the type makes an object of that an enum is mixed with: arguments, and what a list or a dictionary holds."""


def filled_by(kind: type) -> Any:
    """Return the type, among the bases, that gives the objects of a type their contents: the first written in C."""
    return next(base for base in kind.__mro__ if type(vars(base).get("__init__")) is types.WrapperDescriptorType)


def fill_member(member: Any, args: tuple[Any, ...], items: list[Any], pairs: list[tuple[Any, Any]]) -> None:
    """Give a member of an enum what it holds, where its type is one like `list`, whose `__new__` makes it empty."""
    kind = filled_by(type(member)._member_type_)
    if kind is object:
        return
    kind.__init__(member, *args)
    if items:
        kind.extend(member, items)
    for key, value in pairs:
        kind.__setitem__(member, key, value)


_filled: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()
"""Which classes are filled, with which attributes."""


def define_class(data: bytes | memoryview, buffers: list[memoryview]) -> Any:
    """On a worker: make the class that a definition holds, or fill the one that is there with what it has become."""
    global _refill  # noqa: PLW0603 (pickle passes nothing on to `fill_class`)
    _refill = True
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        _refill = False


_refill = False


def fill_class(cls: Any, state: tuple[dict[str, Any], list[Any], dict[str, dict[str, Any]], Contents]) -> None:
    """Give a class its contents: once, unless a definition says what they are now."""
    attributes, registered, members, contents = state
    if is_ours(_id_of[cls]):
        return  # it came home
    fill_modules(cls, contents)
    if cls in _filled and not _refill:
        return  # made by an earlier pickle
    for name in _filled.get(cls, frozenset()) - attributes.keys():
        with suppress(AttributeError):
            type.__delattr__(cls, name)
    _filled[cls] = frozenset(attributes)
    for name, value in attributes.items():
        type.__setattr__(cls, name, value)
    for subclass in registered:
        cls.register(subclass)
    for name, own in members.items():
        inside = vars(cls[name])
        for old in inside.keys() - own.keys() - ENUM_INNER_OF_MEMBER:
            del inside[old]
        inside.update(own)


def make_form(make: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any], about: dict[str, Any]) -> Any:
    """Make a type variable or the like, which says that it comes from where it was defined."""
    made = make(*args, **keywords)
    for name, value in about.items():
        object.__setattr__(made, name, value)  # some are read-only
    return made


def make_alias(module: str, name: str, contents: list[Any]) -> Any:
    """Make what `type NAME = ...` makes, without its value, which may refer to the alias."""
    return _alias_at_home(module, name) or _run(f"type {name} = contents[0]", name, __name__=module, contents=contents)


def fill_alias(_alias: Any, state: tuple[list[Any], Any]) -> None:
    """Give an alias its value."""
    contents, value = state
    contents.append(value)


def make_generic_alias(module: str, name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    """Make what `type NAME[T] = ...` makes."""
    source = "from typing import TypeAliasType as Alias; made = Alias(*args, type_params=parameters)"
    return _alias_at_home(module, name) or _run(
        source, "made", __name__=module, args=(name, value), parameters=parameters
    )


def _alias_at_home(module: str, name: str) -> Any:
    found = getattr(sys.modules.get(module), name, None)
    return found if arrived is None and type(found).__name__ == "TypeAliasType" else None


def _run(source: str, name: str, **names: Any) -> Any:
    """Run syntax that the oldest Python we support does not have; its globals say where it seems to stand."""
    exec(source, names)
    return names[name]


def make_view(data: Any, form: Any, shape: tuple[int, ...], writable: bool) -> memoryview:
    """Make a memoryview of its own bytes."""
    flat: memoryview = memoryview(bytearray(data) if writable else bytes(data))
    return flat.cast(form, shape) if form != "B" or len(shape) != 1 else flat


def whole_view(base: Any, form: str, shape: tuple[int, ...]) -> memoryview:
    """Make a memoryview of a whole array, in the format that it had: numpy says "=d" where the array is not aligned."""
    view = memoryview(base)
    if view.format == form:
        return view
    if view.c_contiguous and len(form.lstrip("@")) == 1:
        return pickle.PickleBuffer(base).raw().cast(form, shape)  # type: ignore[call-overload, no-any-return]
    return memoryview(copy.copy(base))  # a copy is aligned


def make_lru_cache(parameters: dict[str, Any], fn: Any) -> Any:
    """Make a function cached again; its cache starts empty."""
    return functools.lru_cache(**parameters)(fn)


def fetch(*path: str) -> Any:
    """Find something by its module and the names below."""
    found: Any = importlib.import_module(path[0])
    for part in path[1:]:
        found = getattr(found, part)
    return found


def load_dill(version: str, reason: str, data: bytes) -> Any:
    """Load what dill pickled; dill of another version may read it wrongly."""
    try:
        import dill  # noqa: PLC0415 (costs 40 ms, and few programs need it)

        here = dill.__version__
    except ImportError:
        here = "missing"
    if here != version:
        raise SerializationError(
            f"it could be pickled by dill only ({reason}), and dill is {version} where it was pickled and {here} where "
            f"it is read: type `pip install dill=={version}` there, or pass what it is made of in its place"
        )
    return pickle.loads(data)
