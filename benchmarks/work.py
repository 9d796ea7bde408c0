"""The functions that are evaluated, by everybody alike. They are imported over there, not shipped."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import numpy as np

WORKERS = 2


def identity(x: int) -> int:
    """Cost nothing, so that what is measured is everything else."""
    return x


def pid_after_a_nap(_: int) -> int:
    """Return the process that this runs in, having given the others time to take their share."""
    time.sleep(0.01)
    return os.getpid()


def small_numpy(x: int) -> float:
    """Use numpy a little."""
    import numpy as np

    return float(np.arange(1000).sum() + x)


def small_scipy(x: int) -> float:
    """Use scipy a little."""
    import numpy as np
    from scipy import linalg

    return float(linalg.norm(np.array([float(x)])))


def add_one(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Make another array of the same size."""
    return array + 1


def true(_: int) -> int:
    """Run an external program."""
    return subprocess.run(["true"], check=False).returncode


def apply_to_all(fn: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Be the chunk of those who have no chunked map."""
    return [fn(item) for item in items]


@attrs.frozen
class Box:
    """A chunk that nobody looks into."""

    items: Sequence[Any]


def apply_to_box(fn: Callable[[Any], Any], box: Box) -> Box:
    """Likewise, from box to box."""
    return Box(apply_to_all(fn, box.items))
