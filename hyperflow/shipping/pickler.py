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
import builtins
import dataclasses
import enum
import functools
import importlib
import io
import marshal
import operator
import pickle
import struct
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

from hyperflow.saying import short_str
from hyperflow.shipping import captures, forms, hints, rebuild
from hyperflow.shipping.arrivals import ABSENT
from hyperflow.shipping.importable import SCRIPT, importable
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


class Beside:
    """What goes beside a pickle, and how it was made."""

    __slots__ = ("all_by_name", "buffers", "classes", "classes_apart", "smallest", "stored")

    def __init__(self, smallest: int = 0, classes_apart: bool = True) -> None:
        self.smallest = smallest
        """Buffers of fewer bytes stay in the pickle."""
        self.classes_apart = classes_apart
        """Whether classes of the script stay out of the pickle."""
        self.buffers: list[pickle.PickleBuffer] = []
        """Contents of arrays; the receiver gives them to `loads`."""
        self.classes: dict[str, type] = {}
        """Classes of the script, by number: the receiver has to know them first, unless they are in the pickle."""
        self.stored: dict[str, Stored] = {}
        """Stored values, by token: the receiver has to have them first."""
        self.all_by_name = True
        """Whether plain pickle could have made it."""

    def take(self, buffer: pickle.PickleBuffer) -> bool:
        """Get the contents of an array; return whether they stay in the pickle."""
        if self.smallest and buffer.raw().nbytes < self.smallest:
            return True
        self.buffers.append(buffer)
        return False

    def clear(self) -> None:
        """Let go of what an attempt has left."""
        self.buffers.clear()
        self.classes.clear()
        self.stored.clear()


_PARTS_OF_FUNCTION = ["__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__",
                      "__annotations__", "__dict__"]  # fmt: skip
if sys.version_info >= (3, 12):
    _PARTS_OF_FUNCTION.append("__type_params__")
_PARTS_OF_MODULE = ("__package__", "__file__", "__path__")
_NOT_SENT_OF_MODULE = {*_PARTS_OF_MODULE, "__name__", "__builtins__", "__spec__", "__loader__", "__cached__"}
_SKIPPED_IN_CLASS = {"__dict__", "__weakref__", "_abc_impl"}
_HEAD_OF_CLASS = ("__module__", "__slots__", "__doc__", "__orig_bases__")
_ENUM_INNER = {
    "_member_names_", "_member_map_", "_value2member_map_", "_member_type_", "_value_repr_", "_unhashable_values_",
    "_flag_mask_", "_all_bits_", "_boundary_", "_singles_mask_", "_inverted_", "_hashable_values_",
    "_unhashable_values_map_", "__new__",
}  # fmt: skip
_STREAMS = ("stdout", "stderr", "stdin", "__stdout__", "__stderr__", "__stdin__")

_Contents: TypeAlias = list[tuple[Instead, dict[str, Any]]]
"""Modules and the names in them that something needs."""


_OUR_RECIPES = vars(rebuild)


_OF_WRAPPERS = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__"}
"""Attributes that `functools.wraps` sets."""


class Recipes:
    """Answers for what pickle cannot send by name: a mixin of the C pickler, and of dill's."""

    def begin(self, beside: Beside | None = None, going_home: bool = False, with_hints: bool = True) -> None:
        """Prepare for one pickle; see `by_value`."""
        self._modules: dict[int, Instead] = {}  # by the id of the globals in them
        self._inside: set[type] = set()  # classes that are by value in this pickle
        self._beside = beside
        self._going_home = going_home
        self._with_hints = with_hints
        self.all_by_name = True
        """Whether no recipe was needed so far."""
        self.has_hints = False
        """Whether there is something in it that only annotations or outer classes refer to."""

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is Instead:
            return NotImplemented
        if kind is types.FunctionType:
            if obj.__globals__ is _OUR_RECIPES or captures.found_by_name(obj, obj.__module__, obj.__qualname__):
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
        if kind is types.MethodType:
            self.all_by_name = False
            return self._method(obj)
        if isinstance(obj, types.ModuleType):
            self.all_by_name = False
            return self._module(obj)
        if isinstance(obj, enum.Enum) and type(obj).__members__.get(obj.name) is obj:
            return operator.getitem, (kind, obj.name)  # its value may be a function, which is another one over there
        for name in _STREAMS:
            if getattr(sys, name, None) is obj:
                return rebuild.fetch, ("sys", name)
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in forms.BACKPORTS:
            self.all_by_name = False
            return forms.BACKPORTS[name](obj)
        if name in _REFUSED:
            raise BelongsToProcess(f"{_REFUSED[name]} ({name}) belongs to this process and cannot be sent")
        return NotImplemented

    def _home(self, space: dict[str, Any]) -> Instead:
        """Return the module whose `__dict__` a function has as its globals."""
        found = self._modules.get(id(space))
        if found is None:
            name = str(space.get("__name__", "__main__"))
            about = {part: space[part] for part in _PARTS_OF_MODULE if space.get(part) is not None}
            if "__path__" in space:
                about["__path__"] = list(space["__path__"])  # that of a package without a file is not a list
            if (spec := getattr(space.get("__spec__"), "name", None)) is not None:
                about["__spec__"] = spec, "__path__" in space
            shared = not importable(name) and getattr(sys.modules.get(name), "__dict__", None) is space
            package = sys.modules.get(name.rpartition(".")[0]) if shared else None
            by_value = isinstance(package, types.ModuleType) and not captures.by_name(package)
            home = self._home(vars(package)) if by_value else None
            found = self._modules[id(space)] = Instead(rebuild.make_module, name, about, shared, home)
        return found

    def _module(self, module: types.ModuleType) -> Any:
        name = module.__name__
        if name in SCRIPT or captures.by_name(module):
            return importlib.import_module, (name,)
        home = self._home(vars(module))
        names = {name: value for name, value in vars(module).items() if name not in _NOT_SENT_OF_MODULE}
        return rebuild.same, (home,), [(home, names)], None, None, rebuild.fill_modules

    def _method(self, method: types.MethodType) -> Any:
        owner, fn = method.__self__, method.__func__
        name = getattr(fn, "__name__", "")
        try:
            found = getattr(owner, name)
            by_name = found.__func__ is fn and found.__self__ is owner
        except Exception:  # private, decorated, or put there by hand: whatever a user's __getattr__ says
            by_name = False
        # A class that is in the same pickle may be empty when the method is looked for.
        if by_name and (owner if isinstance(owner, type) else type(owner)) not in self._inside:
            return getattr, (owner, name)
        return types.MethodType, (fn, owner)

    def _function(self, fn: types.FunctionType) -> Any:
        space = fn.__globals__
        named = captures.referenced_globals(fn, missing=ABSENT)
        referenced = {name: value for name, value in named.items() if value is not ABSENT}
        values = [*referenced.values(), *(captures.contents(cell) for cell in fn.__closure__ or ())]
        contents = self._reached(fn, values)
        if space.get(fn.__qualname__) is fn:
            referenced[fn.__qualname__] = fn
        if self._with_hints and (hinted := hints.of_function(fn)):
            referenced = {**self._hinted(hinted), **referenced}
        referenced = {**named, **referenced}  # also the names that are absent: they may have been there before
        home = self._home(space)
        attributes = {name: getattr(fn, name) for name in _PARTS_OF_FUNCTION}
        state = (attributes, [(home, referenced), *contents], captures.submodules(fn, iter(values)))
        recipe = (rebuild.make_function, (marshal.dumps(fn.__code__), home, fn.__closure__ or ()))
        return (*recipe, state, None, None, rebuild.fill_function)

    def _reached(self, fn: types.FunctionType, values: list[Any]) -> _Contents:
        """Return what a function needs of modules that only this process has, where it reaches them as modules."""
        modules = captures.local_modules(fn, values)
        return [(self._home(vars(each)), captures.names_reached(fn, each)) for each in modules]

    def _hinted(self, names: dict[str, Any]) -> dict[str, Any]:
        """Return what only annotations refer to, as far as it can travel: a function works without it."""
        found: dict[str, Any] = {}
        for name, value in names.items():
            if isinstance(value, types.ModuleType):
                found[name] = Instead(rebuild.import_if_there, value.__name__)
            elif _travels(value):
                found[name] = value
        self.has_hints |= bool(found)
        return found

    def _class(self, cls: Any) -> Any:
        if cls in _PLAIN_TYPES:
            return type, (_PLAIN_TYPES[cls],)
        if captures.found_by_name(cls, cls.__module__, cls.__qualname__):
            return NotImplemented
        self.all_by_name = False
        if not cls.__flags__ & _HEAP_TYPE:  # written in C, as is the type of functions: there are no contents to send
            return (rebuild.fetch, ("types", _NAMELESS_TYPES[cls])) if cls in _NAMELESS_TYPES else NotImplemented
        number = rebuild.track(cls)
        if self._going_home:
            if not rebuild.is_ours(number):  # it came from there
                return rebuild.known, (number,)
        elif self._beside is not None:
            self._beside.classes[number] = cls
            if self._beside.classes_apart:
                return rebuild.known, (number,)
        self._inside.add(cls)
        return _class_by_value(cls, number, self._names_for(cls))

    def _names_for(self, cls: Any) -> _Contents:
        """Return the names that tools look for in the module of a class: its own, and those in its annotations."""
        name = cls.__module__
        module = sys.modules.get(name)
        if module is None or module is builtins:
            return []
        space = vars(module)
        names: dict[str, Any] = {}
        if self._with_hints:
            names = self._hinted(hints.referenced(vars(cls).get("__annotations__", {}).values(), space))
        if importable(name):
            return [(Instead(rebuild.import_if_there, name), {})] if names else []
        first, _, nested = cls.__qualname__.partition(".")
        if captures.attribute(module, cls.__qualname__) is cls and (self._with_hints or not nested):
            self.has_hints |= bool(nested)
            names[first] = space[first]
        return [(self._home(space), names)]


def _class_by_value(cls: Any, number: str, contents: _Contents) -> Any:
    body = dict(vars(cls))
    head = {"__qualname__": cls.__qualname__, **{name: body.pop(name) for name in _HEAD_OF_CLASS if name in body}}
    slots = head.get("__slots__", ())
    for name in (slots,) if isinstance(slots, str) else slots:
        private = f"_{cls.__name__.lstrip('_')}{name}" if name.startswith("__") else name
        body.pop(private, None)
    if type(cls) is not type:  # what its metaclass would not let us set must be there from the beginning
        head.update({name: body.pop(name) for name in _guarded(type(cls)) & body.keys()})
    registered = _registered(cls) if "_abc_impl" in body else []
    for name in _SKIPPED_IN_CLASS:
        body.pop(name, None)
    parts: tuple[Any, ...] = number, type(cls), cls.__name__, cls.__bases__
    made: tuple[Any, tuple[Any, ...]] = (rebuild.make_class, (*parts, head))
    own: dict[str, dict[str, Any]] = {}  # attributes that the __init__ of an enum gave its members
    if issubclass(cls, enum.Enum):
        members = {name: (_made_of(member), member.value) for name, member in cls.__members__.items()}  # aliases, too
        own = {
            name: {key: value for key, value in vars(member).items() if key not in rebuild.ENUM_INNER_OF_MEMBER}
            for name, member in cls.__members__.items()
        }
        for name in (*members, *_ENUM_INNER):
            body.pop(name, None)
        head.pop("__slots__", None)
        made = rebuild.make_enum, (*parts, members, getattr(cls, "_boundary_", None), head)
    return (*made, (body, registered, own, contents), None, None, rebuild.fill_class)


def _guarded(metaclass: type) -> set[str]:
    """Return the names of properties and the like of a metaclass, of Python's own aside."""
    kinds = [kind for kind in metaclass.__mro__ if kind.__module__ not in ("builtins", "abc", "enum", "typing")]
    return {name for kind in kinds for name, value in vars(kind).items() if hasattr(type(value), "__set__")}


def _made_of(member: Any) -> rebuild.MadeOf:
    """Return what the type that an enum is mixed with makes a member of; `__new__` of the enum is not asked again."""
    mixed = type(member)._member_type_
    kind: Any = rebuild.made_by(mixed)
    if kind is object:
        return (), [], []
    if "__getnewargs__" in vars(kind):
        return tuple(kind.__getnewargs__(member)), [], []
    filler = rebuild.filled_by(mixed)
    kind = kind if filler is object else filler
    reduce: Any = vars(kind).get("__reduce__") or (lambda made: kind.__reduce_ex__(made, 2))
    reduced: list[Any] = [*reduce(member), None, None, None]
    make, args, _, items, pairs = reduced[:5]
    return tuple(args[1:] if make.__name__ == "__newobj__" else args), list(items or ()), list(pairs or ())


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


def _view(view: memoryview) -> Any:
    base: Any = view.obj
    if base is not None:
        whole = memoryview(base)
        if (whole.format, whole.shape, whole.strides, whole.readonly) == (
            view.format, view.shape, view.strides, view.readonly,
        ):  # fmt: skip
            return rebuild.whole_view, (base, view.format, view.shape)
    form = view.format[-1]
    if len(view.format) > 2 or struct.calcsize(view.format) != struct.calcsize(form):
        raise pickle.PicklingError(f"a part of a memoryview of format {view.format!r}; pass bytes(view), or the array")
    return rebuild.make_view, (view.tobytes(), form, view.shape, not view.readonly)


def _cached(fn: Any) -> Any:
    if captures.found_by_name(fn, fn.__module__, fn.__qualname__):
        return fn.__qualname__
    own = {name: value for name, value in vars(fn).items() if name not in _OF_WRAPPERS}
    return (rebuild.make_lru_cache, (fn.cache_parameters(), fn.__wrapped__), *([own] if own else []))


_SENTINELS = {
    name: getattr(dataclasses, name)
    for name in ("MISSING", "KW_ONLY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR", "_HAS_DEFAULT_FACTORY")
}


def _dataclass_sentinel(sentinel: Any) -> Any:
    names = [name for name, known in _SENTINELS.items() if known is sentinel]
    return (rebuild.fetch, ("dataclasses", *names)) if names else NotImplemented


_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_NAMELESS_TYPES = {cls: name for name, cls in vars(types).items() if isinstance(cls, type)}
_PLAIN_TYPES: dict[Any, Any] = {type(None): None, type(NotImplemented): NotImplemented, type(...): ...}
_RECIPES: dict[Any, Callable[[Any], Any]] = {
    types.CellType: _cell,
    types.CodeType: lambda code: (marshal.loads, (marshal.dumps(code),)),
    types.MappingProxyType: lambda proxy: (types.MappingProxyType, (dict(proxy),)),
    property: lambda p: (property, (p.fget, p.fset, p.fdel, p.__doc__)),
    classmethod: lambda m: (classmethod, (m.__func__,)),
    staticmethod: lambda m: (staticmethod, (m.__func__,)),
    functools.cached_property: lambda p: (type(p), (p.func,), {"attrname": p.attrname, "__doc__": p.__doc__}),
    type(functools.lru_cache(int)): _cached,
    memoryview: _view,
    **forms.RECIPES,
    **{type(sentinel): _dataclass_sentinel for sentinel in _SENTINELS.values()},
}


class _Pickler(Recipes, pickle.Pickler):
    """The C pickler with recipes."""

    def __init__(self, beside: Beside | None) -> None:
        self.file = io.BytesIO()
        super().__init__(self.file, PROTOCOL, buffer_callback=None if beside is None else beside.take)


def _with_dill(obj: Any, reason: str, beside: Beside | None, going_home: bool) -> bytes:
    import dill  # noqa: PLC0415 (costs 40 ms, and few programs need it)

    class Fallback(Recipes, dill.Pickler):  # type: ignore[misc]
        pass

    file = io.BytesIO()
    pickler = Fallback(file, protocol=PROTOCOL)
    pickler.begin(beside, going_home, with_hints=False)
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
    try:
        try:
            pickler = _dumped(obj, beside, going_home, with_hints=True)
        except _Hinted:  # what only annotations name shall not keep a function from travelling
            pickler = _dumped(obj, beside, going_home, with_hints=False)
    except BelongsToProcess:
        raise
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        if beside is not None:
            beside.clear()  # dill has the buffers inside
            beside.all_by_name = False
        try:
            return _with_dill(obj, short_str(error, 200), beside, going_home)
        except BelongsToProcess:
            raise
        except Exception:
            raise error from None  # pickle's own words are the clearer ones
    if beside is not None:
        beside.all_by_name = pickler.all_by_name
    return pickler.file.getvalue()


class _Hinted(Exception):
    """A pickle failed that had something in it for annotations only."""


def _dumped(obj: Any, beside: Beside | None, going_home: bool, *, with_hints: bool) -> _Pickler:
    if beside is not None:
        beside.clear()
    pickler = _Pickler(beside)
    pickler.begin(beside, going_home, with_hints)
    try:
        pickler.dump(obj)
    except Exception:
        if pickler.has_hints and with_hints:
            raise _Hinted from None
        raise
    return pickler


_travelling: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def _travels(named: Any) -> bool:
    """Whether what an annotation names can be pickled, and read elsewhere; looked at once."""
    try:
        known = _travelling.get(named)
        if known is None:
            _travelling[named] = True  # while it is looked at: it may refer to itself
    except TypeError:  # a constant, or something of its own kind
        return True
    if known is not None:
        return known
    for with_hints in (True, False):
        try:
            data = _dumped(named, None, False, with_hints=with_hints).file.getvalue()
        except Exception:
            continue
        if _can_be_read_elsewhere(data):
            return True
    _travelling[named] = False
    return False


def _can_be_read_elsewhere(data: bytes) -> bool:
    """Whether a pickle has no names in modules that other processes cannot import: a `__reduce__` may return such."""
    import pickletools  # noqa: PLC0415 (few pickles are looked at)

    pushed: list[Any] = [None, None]
    memo: list[Any] = []
    arg: Any
    for op, arg, _ in pickletools.genops(data):
        if op.name == "MEMOIZE":
            memo.append(pushed[-1])
        if op.name in ("MEMOIZE", "FRAME"):  # these push nothing
            continue
        if op.name == "STACK_GLOBAL" and not importable(str(pushed[-2])) and pushed[-2] in sys.modules:
            return False
        pushed = [pushed[-1], memo[arg] if op.name in ("BINGET", "LONG_BINGET") else arg]
    return True


loads = pickle.loads
