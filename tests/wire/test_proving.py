"""Proofs: two ends that know the same secret find out, and nobody else gets in."""

import os

import pytest

from hyperflow.wire import proving
from hyperflow.wire.proving import Called, Caller, Unproven

SECRET = os.urandom(proving.SECRET)


def meet(caller: Caller, called: Called, piece: int = 1000) -> Called:
    """Have two ends talk, in pieces of so many bytes."""

    def said(data: bytes) -> bytes:
        return b"".join(called.feed(data[at : at + piece]) for at in range(0, len(data), piece))

    assert not said(caller.reply(said(caller.hello)))
    return called


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("wish", [b"", b"node7", b"x" * 255])
def test_both_know_it(wish: bytes, piece: int) -> None:
    """Who knows the secret gets in with what it wants, however the bytes are cut."""
    assert meet(Caller(SECRET, wish), Called(SECRET), piece).wish == wish


def test_what_follows_is_kept() -> None:
    """What is sent right after the proof is not lost."""
    caller, called = Caller(SECRET, b"node7"), Called(SECRET)
    called.feed(caller.reply(called.feed(caller.hello)) + b"and more")
    assert (called.wish, called.rest) == (b"node7", b"and more")


def test_a_caller_with_another_secret() -> None:
    """It notices that the other end has another one, and says nothing that would help."""
    with pytest.raises(Unproven, match="does not know the secret"):
        meet(Caller(os.urandom(32), b""), Called(SECRET))


def test_a_caller_without_a_secret() -> None:
    """Whatever it answers, it does not get in; neither by a proof of an earlier connection, nor by the other's own."""
    earlier, called = Caller(SECRET, b""), Called(SECRET)
    replayed = earlier.reply(called.feed(earlier.hello))
    for answer in (bytes(proving.PROOF), replayed, None):
        called = Called(SECRET)
        challenge = called.feed(earlier.hello)
        with pytest.raises(Unproven, match="has connected"):
            called.feed(challenge[proving.NONCE :] if answer is None else answer)
        assert called.wish is None


def test_another_wish_than_was_proved() -> None:
    """What is wanted is part of the proof."""
    caller, called = Caller(SECRET, b"node7"), Called(SECRET)
    with pytest.raises(Unproven):
        caller.reply(called.feed(caller.hello.replace(b"node7", b"node8")))


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"h" * 100, proving.MAGIC + bytes(17) + b"more"])
def test_somebody_else(data: bytes) -> None:
    """Who speaks something else is told apart at once; nothing is kept of it."""
    with pytest.raises(Unproven):
        Called(SECRET).feed(data)


def test_a_listener_takes_callers() -> None:
    """It listens at a port of its own."""
    with proving.listener() as one, proving.listener() as other:
        assert one.getsockname()[1] != other.getsockname()[1] > 0
