"""Small classes with fields, for modules that every program imports: as attrs makes them, but without waiting for it.

    @frozen
    class Notice:
        why: str
        seconds: float | None = None

attrs writes and compiles the methods of a class when its module is imported, 0.5 ms each, and takes 20 ms itself: a
third of the time to the first result was that. Here the decorator only notes the fields. `__init__` is written and
compiled when the first object is made, which for most classes is never; the other methods look at the fields.

What attrs says of such classes is true here, too: a frozen one refuses changes, fields are compared, hashed and shown,
`field(init=False)`, factories and validators do the same, and an exception hands its fields on. There are no slots.
attrs' own `evolve`, `asdict`, `fields` and `has` take these classes; those of this module do without it.

Classes that few programs import are attrs classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, TypeVar, dataclass_transform, overload

T = TypeVar("T")
C = TypeVar("C", bound=type)

NOTHING: Any = type("NOTHING", (), {"__repr__": lambda _: "NOTHING", "__bool__": lambda _: False})()
"""Stands for a default that is not there."""

Validator = Callable[[Any, "Field", Any], object]
"""Is called with the object, the field and the value, and raises if that makes no sense."""


class Field:
    """What is known of a field; its members are those of `attrs.Attribute` that readers need."""

    __slots__ = ("alias", "default", "eq", "factory", "init", "kw_only", "name", "shown", "type", "validator")

    repr = True
    hash = None
    metadata: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        default: Any = NOTHING,
        factory: Callable[[], Any] | None = None,
        init: bool = True,
        kw_only: bool = False,
        shown: bool = True,
        eq: bool = True,
        validator: Validator | None = None,
    ) -> None:
        self.name = self.alias = ""
        self.type: Any = None
        self.default = default
        self.factory = factory
        self.init = init
        self.kw_only = kw_only
        self.shown = shown
        self.eq = eq
        self.validator = validator

    @property
    def has_default(self) -> bool:
        """Whether a value need not be given."""
        return self.default is not NOTHING or self.factory is not None


def field(
    *,
    default: Any = NOTHING,
    factory: Callable[[], Any] | None = None,
    init: bool = True,
    kw_only: bool = False,
    shown: bool = True,
    eq: bool = True,
    validator: Validator | None = None,
) -> Any:
    """Say more of a field than its type and default.

    Args:
        default: The value of an object that is made without it.
        factory: Makes the default.
        init: Whether it is an argument. Others have their default, or get their value in `__post_init__`.
        kw_only: Whether it has to be named.
        shown: Whether it is shown.
        eq: Whether it is compared and hashed.
        validator: Is called with the object, this, and the value.
    """
    return Field(default, factory, init, kw_only, shown, eq, validator)


@overload
def frozen(cls: C) -> C: ...
@overload
def frozen(*, eq: bool = True, shown: bool = True) -> Callable[[C], C]: ...
@dataclass_transform(field_specifiers=(field,), frozen_default=True)
def frozen(cls: Any = None, *, eq: bool = True, shown: bool = True) -> Any:
    """Make a class of which objects do not change.

    Args:
        cls: The class.
        eq: Whether objects with the same fields are the same.
        shown: Whether they show their fields.
    """
    return _made(cls, eq, shown, True) if cls is not None else lambda it: _made(it, eq, shown, True)


@overload
def define(cls: C) -> C: ...
@overload
def define(*, eq: bool = True, shown: bool = True) -> Callable[[C], C]: ...
@dataclass_transform(field_specifiers=(field,))
def define(cls: Any = None, *, eq: bool = True, shown: bool = True) -> Any:
    """Make a class of which objects may change; see `frozen`."""
    return _made(cls, eq, shown, False) if cls is not None else lambda it: _made(it, eq, shown, False)


def asdict(it: object) -> dict[str, Any]:
    """Return the fields of an object by name; what is in them is not looked at."""
    return {each.name: getattr(it, each.name) for each in fields(type(it))}


def only_changed(it: object) -> dict[str, Any]:
    """Return the fields that do not have their defaults."""
    return {each.name: value for each in fields(type(it)) if (value := getattr(it, each.name)) != each.default}


def evolve(it: T, **changes: Any) -> T:
    """Return an object with some fields replaced."""
    given = {each.name: getattr(it, each.name) for each in fields(type(it)) if each.init}
    return type(it)(**{**given, **changes})


def fields(cls: type) -> tuple[Field, ...]:
    """Return the fields of a class."""
    found: tuple[Field, ...] = cls.__dict__.get("__attrs_attrs__") or getattr(cls, "__attrs_attrs__")  # noqa: B009
    return found


def _made(cls: Any, eq: bool, shown: bool, is_frozen: bool) -> Any:
    """Note the fields of a class, and give it its methods."""
    found = {each.name: each for each in getattr(cls, "__attrs_attrs__", ())}
    own = cls.__dict__
    for name, kind in own.get("__annotations__", {}).items():
        if str(kind).startswith(("ClassVar", "typing.ClassVar")):
            continue
        said = own.get(name, NOTHING)
        one = said if isinstance(said, Field) else Field(said)
        if one is said:
            delattr(cls, name)
        one.name = one.alias = name
        one.type = kind
        found[name] = one
    cls.__attrs_attrs__ = tuple(found.values())
    is_error = issubclass(cls, BaseException)

    if "__init__" not in own:
        cls.__init__ = _Unwritten(cls, is_frozen, is_error)
    if is_frozen:
        cls.__setattr__, cls.__delattr__ = (_refuse_in_error,) * 2 if is_error else (_refuse, _refuse)
    if eq and not is_error:
        cls.__eq__ = _equal
        cls.__hash__ = _hash if is_frozen else None
    if shown:
        cls.__repr__ = _show
    return cls


class _Unwritten:
    """Stands in a class for its `__init__` until somebody looks at that."""

    def __init__(self, *about: Any) -> None:
        self._about = about

    def __get__(self, it: Any, kind: Any = None) -> Any:
        cls, is_frozen, is_error = self._about
        init: Any = _init(cls, is_frozen, is_error)
        cls.__init__ = init
        return init.__get__(it, kind)


def _init(cls: Any, is_frozen: bool, is_error: bool) -> Callable[..., None]:
    """Write and compile the method that makes an object of its fields."""
    found = sorted(fields(cls), key=lambda each: each.kw_only)
    arguments: list[str] = ["self"]
    lines: list[str] = ["    its = self.__dict__"] if is_frozen else []
    known: dict[str, Any] = {"__name__": cls.__module__, "NOTHING": NOTHING, "fields": found}
    for number, each in enumerate(found):
        name = each.name
        value = f"default{number}"
        known[value], known[f"make{number}"] = each.default, each.factory
        if each.factory is not None:
            value = f"make{number}()" + (f" if {name} is NOTHING else {name}" if each.init else "")
        elif each.init:
            value = name
        elif not each.has_default:
            continue
        if each.init:
            if each.kw_only and "*" not in arguments:
                arguments.append("*")
            default = "NOTHING" if each.factory is not None else f"default{number}"
            arguments.append(f"{name}={default}" if each.has_default else name)
        lines.append(f"    its[{name!r}] = {value}" if is_frozen else f"    self.{name} = {value}")
    for number, each in enumerate(found):
        if each.validator is not None:
            known[f"check{number}"] = each.validator
            lines.append(f"    check{number}(self, fields[{number}], self.{each.name})")
    if is_error:
        known["hand_on"] = BaseException.__init__
        lines.append(f"    hand_on(self, {', '.join(f'self.{each.name}' for each in found if each.init)})")
    if hasattr(cls, "__post_init__"):
        lines.append("    self.__post_init__()")
    text = f"def __init__({', '.join(arguments)}):\n" + "\n".join(lines or ["    pass"])
    exec(compile(text, f"<hyperflow fields of {cls.__qualname__}>", "exec"), known)
    init: Any = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {each.name: each.type for each in found if each.init}
    made: Callable[..., None] = init
    return made


def _values(it: Any) -> tuple[Any, ...]:
    return tuple([getattr(it, each.name) for each in it.__attrs_attrs__ if each.eq])


def _equal(self: Any, other: object) -> bool:
    if other.__class__ is not self.__class__:
        return NotImplemented  # type: ignore[no-any-return]
    same: bool = _values(self) == _values(other)
    return same


def _hash(self: Any) -> int:
    return hash((type(self), _values(self)))


def _show(self: Any) -> str:
    fields = [each.name for each in self.__attrs_attrs__ if each.shown]
    shown = ", ".join(f"{name}={getattr(self, name, NOTHING)!r}" for name in fields)
    return f"{type(self).__qualname__.rpartition('>.')[2]}({shown})"


def _refuse(self: Any, name: str, *_: object) -> NoReturn:
    raise AttributeError(f"a {type(self).__name__} does not change: {name!r} cannot be set")


def _refuse_in_error(self: Any, name: str, *value: object) -> None:
    """Python itself sets the context of an exception."""
    if not name.startswith("__"):
        _refuse(self, name)
    if value:
        BaseException.__setattr__(self, name, *value)
    else:
        BaseException.__delattr__(self, name)
