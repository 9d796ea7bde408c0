"""Functions and values to bytes and back.

Guarantees:
- What an importable module holds travels by name. What only this process has travels by value: functions and
  classes of the script or notebook (`__main__`), lambdas, closures, local and mutually recursive functions.
- A class that travels by value keeps its identity: a worker makes it once, and an instance that comes back is an
  instance of the very class that it went out as.
- Functions in the same pickle that share a global, a closure cell or a namespace still share it when they arrive.
- Locks, sockets, open files, running generators and the like are refused, and the error names the variable that
  holds them.
- What needs dill is read only by the same version of dill; with another one, only the call that has it fails.

How: the C pickler asks `reducer_override` about functions, classes and instances only, which returns recipes for those
that cannot go by name. A recipe makes an empty object first and fills it afterwards. So recursion works: pickle
remembers the object before it looks into its contents (cloudpickle's technique).

What was rejected (docs/design.md has the figures): dill for functions and classes, which cannot do mutual recursion,
enums and type variables of `__main__`; cloudpickle, which loses the identity of many classes on the way back and sends
classes with every call; to run the script again in the worker, as multiprocessing does, which forces an
`if __name__ == "__main__"` on everybody. dill is the last resort where pickle has no answer (dictionary views, weak
references and so on).
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import importlib
import io
import itertools
import marshal
import pickle
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from hyperflow.saying import short_str
from hyperflow.shipping import captures, rebuild
from hyperflow.shipping.rebuild import Instead
from hyperflow.shipping.stored import Stored

PROTOCOL = 5

_REFUSED: dict[str, str] = {
    "_thread.lock": "a lock",
    "_thread.RLock": "a lock",
    "_io.TextIOWrapper": "an open file",
    "_io.BufferedReader": "an open file",
    "_io.BufferedWriter": "an open file",
    "_io.BufferedRandom": "an open file",
    "_io.FileIO": "an open file",
    "socket.socket": "a socket",
    "builtins.generator": "a running generator",
    "builtins.coroutine": "a coroutine",
    "builtins.async_generator": "a running async generator",
    "select.epoll": "an epoll object",
    "_asyncio.Task": "an asyncio task",
    "_asyncio.Future": "an asyncio future",
}
"""Types whose meaning is tied to this process. dill would make a new lock or open the file once more; that is not
what the function meant."""


class BelongsToProcess(pickle.PicklingError):
    """An object has no meaning in another process; no other pickler is asked."""


@dataclasses.dataclass(slots=True, eq=False)
class Beside:
    """What goes beside a pickle, and how it was made."""

    smallest: int = 0
    """Buffers of fewer bytes stay in the pickle."""
    classes_apart: bool = True
    """Whether classes of the script stay out of the pickle."""
    buffers: list[pickle.PickleBuffer] = dataclasses.field(default_factory=list)
    """Contents of arrays; the receiver gives them to `loads`."""
    classes: dict[str, type] = dataclasses.field(default_factory=dict)
    """Classes of the script, by number: the receiver has to know them first, unless they are in the pickle."""
    stored: dict[str, Stored] = dataclasses.field(default_factory=dict)
    """Stored values, by token: the receiver has to have them first."""
    all_by_name: bool = True
    """Whether plain pickle could have made it."""

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Get the contents of an array; return whether they stay in the pickle."""
        if self.smallest and buffer.raw().nbytes < self.smallest:
            return True
        self.buffers.append(buffer)
        return False


_PARTS_OF_FUNCTION = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__",
                      "__annotations__", "__dict__")  # fmt: skip
_SKIPPED_IN_CLASS = {"__dict__", "__weakref__", "_abc_impl", "__subclasshook__"}
_HEAD_OF_CLASS = ("__module__", "__qualname__", "__slots__", "__doc__", "__orig_bases__")
_ENUM_INNER = {
    "_member_names_", "_member_map_", "_value2member_map_", "_member_type_", "_value_repr_", "_unhashable_values_",
    "_flag_mask_", "_all_bits_", "_boundary_", "_singles_mask_", "_inverted_", "_use_args_", "_hashable_values_",
    "_unhashable_values_map_", "__new__", "_new_member_", "_generate_next_value_", "__new_member__",
}  # fmt: skip


class Recipes:
    """Answers for what pickle cannot send by name: a mixin of the C pickler, and of dill's."""

    def begin(self, beside: Beside | None = None, going_home: bool = False) -> None:
        """Prepare for one pickle; see `by_value`."""
        self._namespaces: dict[int, Instead] = {}  # by the id of the globals they share
        self._beside = beside
        self._going_home = going_home
        self.all_by_name = True
        """Whether no recipe was needed so far."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is types.FunctionType:
            if captures.found_by_name(obj, obj.__module__, obj.__qualname__):
                return NotImplemented
            self.all_by_name = False
            return self._function(obj)
        if isinstance(obj, type):
            return self._class(obj)
        if kind is Stored and self._beside is not None:
            self.all_by_name = False
            self._beside.stored[obj.token] = obj
            return rebuild.stored, (obj.token,)
        recipe = _RECIPES.get(kind)
        if recipe is not None:
            self.all_by_name = False
            return recipe(obj)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _REFUSED:
            raise BelongsToProcess(f"{_REFUSED[name]} ({name}) belongs to this process and cannot be sent")
        return NotImplemented

    def _function(self, fn: types.FunctionType) -> Any:
        base = fn.__globals__
        namespace = self._namespaces.get(id(base))
        if namespace is None:
            name = str(base.get("__name__", "__main__"))
            namespace = self._namespaces[id(base)] = Instead(rebuild.make_namespace, name)
        cells = fn.__closure__ or ()
        referenced = captures.referenced_globals(fn)
        inside = (captures.contents(cell) for cell in cells)
        attributes = {name: getattr(fn, name) for name in _PARTS_OF_FUNCTION}
        state = (attributes, referenced, captures.submodules(fn, itertools.chain(referenced.values(), inside)))
        recipe = (rebuild.make_function, (marshal.dumps(fn.__code__), namespace, cells))
        return (*recipe, state, None, None, rebuild.fill_function)

    def _class(self, cls: Any) -> Any:
        if cls in _PLAIN_TYPES:
            return type, (_PLAIN_TYPES[cls],)
        if captures.found_by_name(cls, cls.__module__, cls.__qualname__):
            return NotImplemented
        self.all_by_name = False
        if not cls.__flags__ & _HEAP_TYPE:  # written in C, as is the type of functions: there are no contents to send
            return (rebuild.fetch, ("types", _NAMELESS_TYPES[cls])) if cls in _NAMELESS_TYPES else NotImplemented
        if type(cls) is type(_SomeTypedDict):
            return _made_once(cls, typing.TypedDict, cls.__name__, cls.__annotations__, total=cls.__total__)
        number = rebuild.track(cls)
        if self._going_home:
            if not rebuild.is_ours(number):  # it came from there
                return rebuild.known, (number,)
        elif self._beside is not None:
            self._beside.classes[number] = cls
            if self._beside.classes_apart:
                return rebuild.known, (number,)
        return _class_by_value(cls, number)


def _class_by_value(cls: Any, number: str) -> Any:
    body = dict(vars(cls))
    head = {name: body.pop(name) for name in _HEAD_OF_CLASS if name in body}
    slots = head.get("__slots__", ())
    for name in (slots,) if isinstance(slots, str) else slots:
        private = f"_{cls.__name__.lstrip('_')}{name}" if name.startswith("__") else name
        body.pop(private, None)
    registered = _registered(cls) if "_abc_impl" in body else []
    for name in _SKIPPED_IN_CLASS:
        body.pop(name, None)
    made: tuple[Any, tuple[Any, ...]] = (rebuild.make_class, (number, type(cls), cls.__name__, cls.__bases__, head))
    own: dict[str, dict[str, Any]] = {}  # attributes that the __init__ of an enum gave its members
    if issubclass(cls, enum.Enum):
        members = {name: member.value for name, member in cls.__members__.items()}  # aliases, too
        own = {
            name: {key: value for key, value in vars(member).items() if key not in rebuild.ENUM_INNER_OF_MEMBER}
            for name, member in cls.__members__.items()
        }
        for name in (*members, *_ENUM_INNER):
            body.pop(name, None)
        head.pop("__slots__", None)
        made = rebuild.make_enum, (number, cls.__name__, cls.__bases__, members, head)
    return (*made, (body, registered, own), None, None, rebuild.fill_class)


def _registered(cls: Any) -> list[Any]:
    """Return the virtual subclasses of an abstract class."""
    get = getattr(abc, "_get_dump", None)  # CPython's own
    return [found for ref in get(cls)[0] if (found := ref()) is not None] if get else []


def _cell(cell: types.CellType) -> Any:
    try:
        contents = (cell.cell_contents,)
    except ValueError:
        return rebuild.make_cell, ()
    return rebuild.make_cell, (), contents, None, None, rebuild.fill_cell


def _type_variable(variable: typing.TypeVar) -> Any:
    if captures.found_by_name(variable, variable.__module__, variable.__name__):
        return variable.__name__
    names = (variable.__name__, *variable.__constraints__)
    variance = {"covariant": variable.__covariant__, "contravariant": variable.__contravariant__}
    return _made_once(variable, typing.TypeVar, *names, bound=variable.__bound__, **variance)


def _made_once(thing: Any, make: Any, *args: Any, **kwargs: Any) -> Any:
    return rebuild.once, (rebuild.track(thing), functools.partial(make, *args, **kwargs))


def _module(module: types.ModuleType) -> Any:
    name = module.__name__
    if name != "__main__" and sys.modules.get(name) is not module:
        raise pickle.PicklingError(f"module {name!r} cannot be imported elsewhere; import it inside the function")
    return importlib.import_module, (name,)


def _cached(fn: Any) -> Any:
    if captures.found_by_name(fn, fn.__module__, fn.__qualname__):
        return fn.__qualname__
    return rebuild.make_lru_cache, (fn.cache_parameters(), fn.__wrapped__)


_SENTINELS = {
    name: getattr(dataclasses, name)
    for name in ("MISSING", "KW_ONLY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR", "_HAS_DEFAULT_FACTORY")
}


def _dataclass_sentinel(sentinel: Any) -> Any:
    names = [name for name, known in _SENTINELS.items() if known is sentinel]
    return (rebuild.fetch, ("dataclasses", *names)) if names else NotImplemented


class _SomeTypedDict(typing.TypedDict):
    """Shows what typed dictionaries are made by; typing keeps that to itself."""


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_NAMELESS_TYPES = {cls: name for name, cls in vars(types).items() if isinstance(cls, type)}
_PLAIN_TYPES: dict[Any, Any] = {type(None): None, type(NotImplemented): NotImplemented, type(...): ...}
_RECIPES: dict[Any, Callable[[Any], Any]] = {
    types.CellType: _cell,
    types.ModuleType: _module,
    types.CodeType: lambda code: (marshal.loads, (marshal.dumps(code),)),
    types.MappingProxyType: lambda proxy: (types.MappingProxyType, (dict(proxy),)),
    property: lambda p: (property, (p.fget, p.fset, p.fdel, p.__doc__)),
    classmethod: lambda m: (classmethod, (m.__func__,)),
    staticmethod: lambda m: (staticmethod, (m.__func__,)),
    functools.cached_property: lambda p: (type(p), (p.func,), {"attrname": p.attrname, "__doc__": p.__doc__}),
    type(functools.lru_cache(int)): _cached,
    typing.TypeVar: _type_variable,
    **{type(sentinel): _dataclass_sentinel for sentinel in _SENTINELS.values()},
}


class _Pickler(Recipes, pickle.Pickler):
    """The C pickler with recipes."""


def _with_dill(obj: Any, reason: str, beside: Beside | None, going_home: bool) -> bytes:
    import dill  # noqa: PLC0415 (costs 40 ms, and few programs need it)

    class Fallback(Recipes, dill.Pickler):  # type: ignore[misc]
        pass

    file = io.BytesIO()
    pickler = Fallback(file, protocol=PROTOCOL)
    pickler.begin(beside, going_home)
    pickler.dump(obj)
    return pickle.dumps(Instead(rebuild.load_dill, dill.__version__, reason, file.getvalue()), PROTOCOL)


def by_value(obj: Any, beside: Beside | None = None, going_home: bool = False) -> bytes:
    """Pickle obj with functions and classes by value where they have no name elsewhere.

    Args:
        beside: Gets the contents of arrays, and the classes and stored values that the receiver has to know first;
            if it is None, they are inside.
        going_home: On a worker, for the head: classes that came from there go by their number alone, others inside.
            (The head cannot do so: a class that one worker made is unknown to the others.)

    Raises whatever pickle raises; `diagnose.explain` makes an error for the user of it.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, PROTOCOL, buffer_callback=None if beside is None else beside.take)
    pickler.begin(beside, going_home)
    try:
        pickler.dump(obj)
    except BelongsToProcess:
        raise
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        if beside is not None:
            beside.buffers.clear()  # dill has them inside
            beside.stored.clear()
            beside.all_by_name = False
        try:
            return _with_dill(obj, short_str(error, 200), beside, going_home)
        except BelongsToProcess:
            raise
        except Exception:
            raise error from None  # pickle's own words are the clearer ones
    if beside is not None:
        beside.all_by_name = pickler.all_by_name
    return file.getvalue()


loads = pickle.loads
