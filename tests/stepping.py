"""All interleavings of parties that share some words of memory: deterministic, without threads.

Each party is ordinary code that reads and writes `words[name]`, and calls `words.settle()` where it lets time pass. It
is run again from its beginning, with what it has read so far, up to its next access; so all that it does has to follow
from what it reads. `explore` takes every access of every party in every order.

As on real processors, a write reaches the memory later: each party has a store buffer, which is emptied in order, one
word at any moment. A party reads its own writes at once. `settle` waits until all writes made before are in the memory.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

Word = Any
Log = list[Any]
Party = Callable[["Words", Log], None]
"""Gets the shared words and a list, to which it appends what it has done."""


class _Pause(BaseException):
    """The party has come to an access that has not been made yet."""


@attrs.frozen
class _Access:
    kind: str  # "read", "write", "settle", "end"
    word: Word = None
    value: int = 0


class Words:
    """What a party sees."""

    def __init__(self, made: tuple[int, ...]) -> None:
        self._made = made
        self._at = 0
        self.next = _Access("end")

    def _access(self, access: _Access) -> int:
        if self._at == len(self._made):
            self.next = access
            raise _Pause
        self._at += 1
        return self._made[self._at - 1]

    def __getitem__(self, word: Word) -> int:
        return self._access(_Access("read", word))

    def __setitem__(self, word: Word, value: int) -> None:
        self._access(_Access("write", word, value))

    def settle(self) -> None:
        """Let all writes that were made before reach the memory."""
        self._access(_Access("settle"))


@attrs.frozen
class _State:
    memory: tuple[tuple[Word, int], ...]
    made: tuple[tuple[int, ...], ...]
    """What each party's accesses so far have returned."""
    buffers: tuple[tuple[tuple[Word, int], ...], ...]
    """Writes of each party that are not in the memory yet."""


def explore(parties: list[Party], *, blocked: Callable[[Word, int], bool] | None = None) -> Iterator[list[Log]]:
    """Yield what the parties have done, once for each way in which it can end.

    Args:
        blocked: Whether a party that is about to read this word, with this value in it, has to wait.
    """
    first = _State((), ((),) * len(parties), ((),) * len(parties))
    seen, waiting = {first}, [first]
    replay = functools.cache(_replay)  # most parties are where they were in another state
    while waiting:
        state = waiting.pop()
        nexts, logs = zip(*(replay(party, made) for party, made in zip(parties, state.made, strict=True)), strict=True)
        if all(access.kind == "end" for access in nexts):
            yield [list(log) for log in logs]
            continue
        following = [_drained(state, index) for index, buffer in enumerate(state.buffers) if buffer]
        for index, access in enumerate(nexts):
            if access.kind != "end":
                after = _stepped(state, index, access, blocked)
                following += [after] if after is not None else []
        assert following, f"nobody can go on: {nexts} in {state}"
        for after in following:
            if after not in seen:
                seen.add(after)
                waiting.append(after)


def _replay(party: Party, made: tuple[int, ...]) -> tuple[_Access, Log]:
    words, log = Words(made), []
    with contextlib.suppress(_Pause):
        party(words, log)
    return words.next, log


def _put(items: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*items[:index], value, *items[index + 1 :])


def _written(memory: tuple[tuple[Word, int], ...], writes: tuple[tuple[Word, int], ...]) -> tuple[Any, ...]:
    return tuple(sorted({**dict(memory), **dict(writes)}.items(), key=repr))


def _drained(state: _State, index: int) -> _State:
    """One write of a party reaches the memory."""
    first, *rest = state.buffers[index]
    memory = _written(state.memory, (first,))
    return attrs.evolve(state, memory=memory, buffers=_put(state.buffers, index, tuple(rest)))


def _stepped(state: _State, index: int, access: _Access, blocked: Callable[[Word, int], bool] | None) -> _State | None:
    """A party makes its next access; None if it has to wait."""
    memory, buffers, result = state.memory, state.buffers, 0
    if access.kind == "write":
        buffers = _put(buffers, index, (*buffers[index], (access.word, access.value)))
    elif access.kind == "settle":
        for buffer in buffers:
            memory = _written(memory, buffer)
        buffers = ((),) * len(buffers)
    else:
        known: Mapping[Word, int] = {**dict(memory), **dict(buffers[index])}
        result = known.get(access.word, 0)
        if blocked is not None and blocked(access.word, result):
            return None
    return _State(memory, _put(state.made, index, (*state.made[index], result)), buffers)
