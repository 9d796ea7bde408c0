"""A map that runs, as far as its evaluations are alike: calls the user's function, packs, and submits batches.

A flow goes this way if it is a plain `remote_eval` of the same function and the same options as the flow before. So the
first one, and each that differs from the one before, goes by itself: `Engine.submit` makes all its checks, and defines
the function. (Rejected: to pickle the arguments of a batch together. It takes a third less, but two
calls with the same list would get one list.)
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

from hyperflow.environment import Environment, MapOwner, peek
from hyperflow.flow import Job
from hyperflow.head.bulk.bulk import Bulk
from hyperflow.head.bulk.calls import Calls
from hyperflow.remote import RemoteEval
from hyperflow.shipping.importable import plain_is_enough
from hyperflow.shipping.packer import PackedCall
from hyperflow.shipping.pickler import PROTOCOL

NAMES = 0x93
"""The code in a pickle that stands for what another process has under a name: what plain_is_enough looks for."""

MOST_PASSED = 63
"""Flows that go by themselves without a try, at most, after one that could not go this way: it was pickled twice."""

LARGE = 10_000
"""Bytes of arguments with which a call goes by itself: how much a worker is sent ahead is counted in bytes, too."""


class BulkMap:
    """What a map has of the engine; see `environment.BulkMap`."""

    def __init__(self, owner: MapOwner, bulk: Bulk) -> None:
        self._owner = owner
        self._bulk = bulk
        self._packer = bulk.head.packer
        self._found: list[pickle.PickleBuffer] = []  # in the arguments of a call
        self._fn: Callable[..., Any] | None = None  # what the flow before calls
        self._open: Calls | None = None  # calls that have no numbers yet
        self._passed = 0  # how many flows go by themselves after the last try
        self._left = 0  # of them, those that are still to come

    def start(
        self, xs: Iterator[Any], make: Callable[[Any], Any] | None, most: int
    ) -> tuple[int, tuple[Any, Any] | None]:
        env = peek()
        fn, calls, payloads, args, unchanged = self._begin(env)
        found, on_buffer, dumps = self._found, self._found.append, pickle.dumps
        count = 0
        try:
            for x in xs:
                try:
                    one = x if make is None else make(x)
                except Exception as error:
                    self.submit()
                    if not self._owner.refused(x, error):
                        raise
                    count += 1
                    if count == most:
                        break
                    continue
                step = one.step if type(one) is Job else None
                if type(step) is not RemoteEval:
                    self._fn = None
                    return count, (x, one)
                if step.fn is fn and not step.kwargs and self._open is calls and peek() is env and unchanged():
                    try:
                        data = dumps(step.args, PROTOCOL, buffer_callback=on_buffer)
                    except KeyboardInterrupt:
                        raise
                    except BaseException:  # noqa: BLE001 (whatever a user's __reduce__ raises; the other way says more)
                        return count, (x, one)
                    if not found and len(data) < LARGE and (NAMES not in data or plain_is_enough(data)):
                        one.made_at = None  # it is used
                        self._passed = 0
                        payloads.append(data)
                        args.append(step.args)
                        count += 1
                        if count == most:
                            break
                        continue
                    found.clear()
                    self._passed = self._left = min(2 * self._passed + 1, MOST_PASSED)
                self._fn = step.fn
                return count, (x, one)
        finally:
            found.clear()
            self.submit()
        return count, None

    def _begin(self, env: Environment | None) -> _Opened:
        """Open calls of the function of the flow before, if that may go this way now."""
        self.submit()
        fn = self._fn
        if self._left:
            self._left -= 1
            return _NONE
        if fn is None or env is None or not self._bulk.may_go(env.evaluator, fn, env.options):
            return _NONE
        known = self._packer.plain(fn)
        if known is None:
            return _NONE
        definition, unchanged = known
        args: list[Any] = []
        payloads: list[bytes] = []
        function = PackedCall(definition, b"", (), (), self._packer.epoch)
        self._open = calls = Calls(self._owner, fn, function, env.options, args, payloads)
        self._bulk.submit_open = self.submit
        return fn, calls, payloads, args, unchanged

    def submit(self) -> None:
        """Submit what was packed."""
        calls, self._open = self._open, None
        if calls is not None:
            self._bulk.submit_open = None
            calls.left = len(calls.payloads)
            if calls.left:
                calls.place = self._owner.begun(calls.left)
                self._bulk.submit(calls)

    def cancel(self, apart: bool = False) -> None:
        self._bulk.withdraw(self._owner, apart)


_Opened = tuple[Callable[..., Any] | None, Calls | None, list[bytes], list[Any], Callable[[], bool]]
_NONE: _Opened = (None, None, [], [], lambda: False)
