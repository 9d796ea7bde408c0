"""Concurrent calculations on a Slurm cluster, written as ordinary async Python.

`__init__.pyi` lists the public names; each one's docstring says more. Start with `job`, `remote_eval` and
`run_job_local`.

The module of a name is imported when the name is first used: the launcher, which starts on every node, and programs
that need only a part do not wait for the rest. (Scientific Python's SPEC 1; not by its library lazy_loader, because the
launcher starts with the standard library only.)
"""

from importlib import import_module as _import_module

with open(f"{__file__.rpartition('.')[0]}.pyi", encoding="utf-8") as _stub:  # from MODULE import NAME as NAME
    _MODULE_OF = {words[-1]: words[1] for words in map(str.split, _stub) if words[:1] == ["from"]}
__all__ = tuple(sorted(_MODULE_OF))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        value = globals()[name] = getattr(_import_module(_MODULE_OF[name]), name)
        return value
    if not name.startswith("_"):  # `hyperflow.database`, say
        try:
            return _import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> tuple[str, ...]:
    return __all__
