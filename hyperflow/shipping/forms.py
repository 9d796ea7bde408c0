"""Recipes for type variables, NewType and `type X = ...`, which plain pickle finds by name only.

typing_extensions gives them to older versions of Python: with its constructors, because those of typing do not take all
that belongs to them.
"""

from __future__ import annotations

import functools
import sys
import typing
from collections.abc import Callable
from typing import Any

from hyperflow.shipping import captures, rebuild


def _once(form: Any, make: Any, *args: Any, **keywords: Any) -> Any:
    """Return the recipe of something that a process makes once."""
    about = {"__module__": form.__module__}
    return rebuild.once, (rebuild.track(form), functools.partial(rebuild.make_form, make, args, keywords, about))


def _made_by(form: Any, name: str) -> Any:
    """Return the constructor that made a type variable."""
    is_backport = sys.version_info < (3, 13) and hasattr(form, "has_default")
    return getattr(sys.modules["typing_extensions"] if is_backport else typing, name)


def _default(form: Any) -> dict[str, Any]:
    has_default = getattr(form, "has_default", None)  # from Python 3.13 on, and with typing_extensions
    return {"default": form.__default__} if has_default is not None and has_default() else {}


def _variance(form: Any) -> dict[str, Any]:
    if getattr(form, "__infer_variance__", False):  # from Python 3.12 on
        return {"infer_variance": True}
    return {"covariant": form.__covariant__, "contravariant": form.__contravariant__}


def _type_variable(form: Any) -> Any:
    args = (form.__name__, *form.__constraints__)
    make = _made_by(form, "TypeVar")
    return _once(form, make, *args, bound=form.__bound__, **_variance(form), **_default(form))


def _parameters(form: Any) -> Any:
    make = _made_by(form, "ParamSpec")
    return _once(form, make, form.__name__, bound=form.__bound__, **_variance(form), **_default(form))


def _several(form: Any) -> Any:
    return _once(form, _made_by(form, "TypeVarTuple"), form.__name__, **_default(form))


def _new_type(form: Any) -> Any:
    number = rebuild.track(form)
    about = {"__module__": form.__module__, "__qualname__": form.__qualname__, "__doc__": form.__doc__}
    args = (form.__name__, form.__supertype__)
    return rebuild.once, (number, functools.partial(rebuild.make_form, typing.NewType, args, {}, about))


def _alias(form: Any) -> Any:
    module = form.__module__ or "__main__"
    if form.__type_params__:
        return rebuild.make_generic_alias, (module, form.__name__, form.__value__, form.__type_params__)
    contents: list[Any] = []  # filled when the alias is there
    return (
        rebuild.make_alias,
        (module, form.__name__, contents),
        (contents, form.__value__),
        None,
        None,
        rebuild.fill_alias,
    )


def _backported_alias(form: Any) -> Any:
    return _once(form, type(form), form.__name__, form.__value__, type_params=form.__type_params__)


def _sentinel(form: Any) -> Any:
    name = form._name
    if captures.found_by_name(form, form.__module__, name):
        return name
    return _once(form, type(form), name, repr=form._repr)


def _by_name_or(recipe: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def by_name_or(form: Any) -> Any:
        if captures.found_by_name(form, form.__module__, form.__name__):
            return form.__name__
        return recipe(form)

    return by_name_or


RECIPES: dict[Any, Callable[[Any], Any]] = {
    typing.TypeVar: _by_name_or(_type_variable),
    typing.ParamSpec: _by_name_or(_parameters),
    typing.TypeVarTuple: _by_name_or(_several),
    typing.NewType: _by_name_or(_new_type),
    typing.ParamSpecArgs: lambda form: (typing.ParamSpecArgs, (form.__origin__,)),
    typing.ParamSpecKwargs: lambda form: (typing.ParamSpecKwargs, (form.__origin__,)),
}
if (_alias_type := getattr(typing, "TypeAliasType", None)) is not None:  # from Python 3.12 on
    RECIPES[_alias_type] = _by_name_or(_alias)

BACKPORTS: dict[str, Callable[[Any], Any]] = {
    "typing_extensions.TypeAliasType": _by_name_or(_backported_alias),
    "typing_extensions.Sentinel": _sentinel,
    "typing_extensions.sentinel": _sentinel,
}
"""The same for types of typing_extensions, by name: it need not be there, and takes time to import."""
