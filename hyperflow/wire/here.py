"""What a program of an evaluation has on its node: as variables, and as a line of sh that sets them.

The latter is for ranks. What starts them may give them the variables of another node.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from hyperflow.wire import gpus

VARIABLE = "HYPERFLOW_HERE"
"""Holds that line, or lines that choose it."""


def variables(cpus: Sequence[int], pinned: bool, gpu_ids: Sequence[str]) -> dict[str, str]:
    """Return the variables by which ranks find their CPUs, and see their GPUs."""
    bound = {"HYPERFLOW_CPUS": ",".join(map(str, cpus)), "HYPERFLOW_BIND": "1" if pinned else ""}
    return bound | gpus.environment(gpu_ids)


def exported(variables: Mapping[str, str]) -> str:
    """Return a line of sh."""
    return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
