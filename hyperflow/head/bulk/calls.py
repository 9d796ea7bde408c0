"""Calls: what the evaluations of one batch are called with, until each has its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from hyperflow.environment import MapOwner
from hyperflow.options import Options
from hyperflow.scheduling.state import Batch, Team
from hyperflow.shipping.definitions import Definition
from hyperflow.shipping.packer import PackedCall
from hyperflow.wire.numbers import TaskNumber


@attrs.frozen
class Alike:
    """What all evaluations of a team have in common, beside the function's number."""

    epoch: int
    name: str | None
    function: Definition = attrs.field(eq=False)

    @property
    def group(self) -> str:
        """What they are counted under."""
        return self.name or self.function.name


class Calls:
    """Of consecutive numbers from `first` on; their results belong to consecutive places of a map from `place` on."""

    __slots__ = ("alike", "args", "first", "fn", "function", "left", "options", "owner", "payloads", "place")

    def __init__(
        self,
        owner: MapOwner,
        fn: Callable[..., Any],
        function: PackedCall,
        options: Options,
        args: list[tuple[Any, ...] | None],
        payloads: list[bytes],
    ) -> None:
        self.owner = owner
        self.fn = fn
        self.function = function
        """What all need; it has no payload."""
        self.options = options
        self.alike = Alike(function.epoch, options.name, function.function)
        self.args = args
        self.payloads = payloads
        self.left = len(payloads)
        self.first = TaskNumber(0)
        self.place = 0

    @property
    def group(self) -> str:
        """What they are counted under."""
        return self.alike.group

    def at(self, number: int) -> int:
        """Return the place in the map."""
        return self.place + number - self.first

    def payloads_of(self, batch: Batch) -> Sequence[bytes]:
        """Return what is to be sent for a part of them."""
        at = batch.number - self.first
        return self.payloads[at : at + batch.count]

    def packed(self, number: TaskNumber) -> PackedCall:
        """Return one call, as if it had been packed by itself."""
        all_of_them = self.function
        return PackedCall(all_of_them.function, self.payloads[number - self.first], (), (), all_of_them.epoch)

    def let_go(self, number: int, count: int) -> None:
        """So many from this one on are not needed any more."""
        at = number - self.first
        nothing = (None,) * count
        self.args[at : at + count] = nothing
        self.payloads[at : at + count] = (b"",) * count
        self.left -= count


def calls_of(batch: Batch) -> Calls:
    """Return the calls that a batch is a part of."""
    assert isinstance(batch.calls, Calls)
    return batch.calls


def alike_of(team: Team) -> Alike:
    """Return what the evaluations of a team have in common."""
    assert isinstance(team.alike, Alike)
    return team.alike
