"""All that the head knows of one node, for `hyperflow node info`."""

from __future__ import annotations

import math
from typing import Any

from hyperflow import files
from hyperflow.head.link import Link
from hyperflow.scheduling.ledger import Account
from hyperflow.scheduling.placement import PARTS

TAIL = 10
"""Lines of the launcher's log that are told."""


def described(link: Link, account: Account | None, seconds_left: float) -> dict[str, Any]:
    """Return it as JSON has it; `account` is None before the node is used."""
    greeting = link.greeting
    about: dict[str, Any] = {
        "node": link.node,
        "host": greeting.host if greeting is not None else "",
        "launcher": greeting.pid if greeting is not None else None,
        "reached_by": link.way,
        "slurm_job": link.slurm_job,
        "pinned": link.cpus.pinned,
        "seconds_left": None if math.isinf(seconds_left) else round(seconds_left, 1),
        "log_file": str(link.log_file),
        "log_tail": files.tail(link.log_file, lines=TAIL).splitlines(),
    }
    if account is not None:
        about |= {
            "cpus": sorted(account.ids),
            "cpus_busy": sorted(account.ids - account.free),
            "gpus": list(account.capacity.gpus),
            "gpus_free": sum(account.gpus.values()) / PARTS,
            "memory": account.capacity.memory,
            "memory_free": account.spare // max(len(account.ids), 1),
        }
    return about
