"""Stored: the handle that `hyperflow.put` returns, which holds a pickled value.

In a call the handle stands for the value: it is pickled as a token, and the packer sees to it that the worker has the
value under that token before.
"""

from __future__ import annotations

import itertools
import os
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from hyperflow.wire.shared_memory import Block

_numbers = itertools.count(1)


def new_token() -> str:
    """Return a name for a value that no other of this program has."""
    return f"{os.getpid()}:{next(_numbers)}"


class Stored:
    """A handle to a value. Made by `hyperflow.put`."""

    def __init__(
        self, token: str, data: bytes, blocks: Sequence[Block], classes: Mapping[str, type], text: str
    ) -> None:
        self.token = token
        self.data = data
        """The pickled pair of token and value."""
        self.blocks = blocks
        """Contents of its large arrays."""
        self.classes = classes
        """Classes of the script that a worker has to know before it."""
        self._text = text

    @property
    def value(self) -> Any:
        """A copy of the value. Its large arrays are read-only, and share the stored memory."""
        return pickle.loads(self.data, buffers=[block.view().toreadonly() for block in self.blocks])[1]

    def __repr__(self) -> str:
        size = len(self.data) + sum(block.size for block in self.blocks)
        return f"<hyperflow.put({self._text}), {size:,} bytes>"

    def __del__(self) -> None:
        for block in getattr(self, "blocks", ()):
            block.close()

    def __copy__(self) -> Stored:
        return self

    def __deepcopy__(self, memo: object) -> Stored:
        return self

    def __reduce__(self) -> Any:
        """Travel as the value itself, to a Slurm job, for example."""
        return unstored, ("__main__", self.value)


def unstored(_: str, value: Any) -> Any:
    """Return a value that was pickled in place of its handle.

    The first argument, a text, makes the packer look closer at what plain pickle made of a call's arguments.
    """
    return value
