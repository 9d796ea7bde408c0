"""Offers: what a program says that a machine has for evaluations, where that cannot be found out, or is to be less."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict, cast

import attrs

from hyperflow.config import check_cpus
from hyperflow.errors import ConfigurationError
from hyperflow.options import to_tokens
from hyperflow.sizes import to_bytes


def _cpus(value: int | None) -> int | None:
    check_cpus(value)
    return value


def _gpus(value: object) -> tuple[str, ...] | None:
    """Return ids of GPUs; raises ConfigurationError."""
    if value is None:
        return None
    if isinstance(value, (int, float)):
        some = ", ".join(f'"{number}"' for number in range(max(int(value), 1)))
        raise ConfigurationError(
            f"gpus={value!r}: here, the ids of GPUs are needed (`nvidia-smi -L` shows them): gpus=[{some}]. How many "
            f"an evaluation gets is said in it, or around it: using(gpus={value!r})"
        )
    if type(value) is str:
        raise ConfigurationError(f"gpus={value!r}: a list of ids is needed: gpus={value.split(',')!r}")
    ids: tuple[object, ...] = tuple(cast("Iterable[object]", value)) if isinstance(value, Iterable) else (value,)
    unfit = [each for each in ids if not (isinstance(each, str) and each.strip() and "," not in each)]
    if unfit:
        raise ConfigurationError(
            f"gpus={value!r}: {unfit[0]!r} is no id of a GPU; an id is a text, as CUDA_VISIBLE_DEVICES has it: "
            '"0", or a UUID; [] for none'
        )
    if len(set(ids)) < len(ids):
        raise ConfigurationError(f"gpus={value!r}: an id is there twice; evaluations share one with using(gpus=0.5)")
    return cast("tuple[str, ...]", ids)


def _memory(value: object) -> int | None:
    return None if value is None else to_bytes("memory", value)


def _tokens(value: object) -> tuple[tuple[str, int], ...]:
    return () if value is None else to_tokens(value)


@attrs.frozen
class Offers:
    """What a program says that each node has for evaluations. What is None is found out."""

    cpus: int | None = attrs.field(default=None, converter=_cpus)
    gpus: tuple[str, ...] | None = attrs.field(default=None, converter=_gpus)
    """Their ids; () for none."""
    memory: int | None = attrs.field(default=None, converter=_memory)
    """Bytes."""
    resources: tuple[tuple[str, int], ...] = attrs.field(default=(), converter=_tokens)
    """Tokens: of the program, not of a node."""


class Machine(TypedDict, total=False):
    """What a program may say of a machine, as the type of a dict."""

    gpus: Iterable[str] | None
    memory: int | str | None
    resources: Mapping[str, int] | None
