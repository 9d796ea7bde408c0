"""Who opens a TCP connection and who takes it prove to each other that they know one secret, before they say anything.

    caller > called    MAGIC, 16 random bytes, and what it wants: at most 255 bytes
    called > caller    16 random bytes, and a proof (HMAC-SHA256) over all that was said and over who says it
    caller > called    its own proof

The secret has come by a way that is trusted already (a stream from the head). Guarantees: it is never sent; a proof is
good for one connection and one direction; nothing is read beyond these sizes before the other side has proved itself.

What follows on the connection is neither encrypted nor authenticated, as in the streams of srun: who can read or change
packets between the nodes can read or change it. What must not be changed is compared with a digest that came another
way.
"""

from __future__ import annotations

import os
import socket

MAGIC = b"hyperflow 1\n"
NONCE = 16
PROOF = 32
LONGEST_WISH = 255
HELLO_HEAD = len(MAGIC) + NONCE + 1
CHALLENGE = NONCE + PROOF

SECRET = 32
"""Bytes of a secret."""


class Unproven(ConnectionError):
    """The other side does not know the secret, or speaks of something else."""


def _proof(secret: bytes, who: bytes, nonces: bytes, wish: bytes) -> bytes:
    import hmac  # noqa: PLC0415 (5 ms with hashlib, which a launcher that needs none of this does not pay)

    return hmac.digest(secret, who + nonces + wish, "sha256")


def _same(a: bytes, b: bytes) -> bool:
    import hmac  # noqa: PLC0415 (see above)

    return hmac.compare_digest(a, b)


class Caller:
    """The end that has opened the connection."""

    def __init__(self, secret: bytes, wish: bytes) -> None:
        if len(wish) > LONGEST_WISH:
            raise ValueError(f"{len(wish)} bytes are too many")
        self._secret = secret
        self._wish = wish
        self._nonce = os.urandom(NONCE)

    @property
    def hello(self) -> bytes:
        """What to say first."""
        return MAGIC + self._nonce + bytes([len(self._wish)]) + self._wish

    def reply(self, challenge: bytes) -> bytes:
        """Return the answer to CHALLENGE bytes; raises Unproven if they do not come from who knows the secret."""
        nonces = self._nonce + challenge[:NONCE]
        if not _same(challenge[NONCE:], _proof(self._secret, b"called", nonces, self._wish)):
            raise Unproven("the other side does not know the secret")
        return _proof(self._secret, b"caller", nonces, self._wish)


class Called:
    """The end that has taken the connection. Give it all that comes; it says what to answer."""

    def __init__(self, secret: bytes) -> None:
        self.wish: bytes | None = None
        """What the other end wants, once that has proved itself."""
        self.rest = b""
        """What has come after its proof."""
        self._secret = secret
        self._data = b""
        self._hello: bytes | None = None
        self._nonce = os.urandom(NONCE)

    def feed(self, data: bytes) -> bytes:
        """Return what to send now; raises Unproven if the other end cannot be who it should be."""
        self._data += data
        if self._hello is None:
            return self._challenge()
        if len(self._data) < PROOF or self.wish is not None:
            return b""
        proof, self.rest = self._data[:PROOF], self._data[PROOF:]
        nonces, wish = self._hello[len(MAGIC) : len(MAGIC) + NONCE] + self._nonce, self._hello[HELLO_HEAD:]
        if not _same(proof, _proof(self._secret, b"caller", nonces, wish)):
            raise Unproven("somebody who does not know the secret has connected")
        self.wish = wish
        return b""

    def _challenge(self) -> bytes:
        if not MAGIC.startswith(self._data[: len(MAGIC)]):
            raise Unproven("somebody has connected who does not speak our protocol")
        if len(self._data) < HELLO_HEAD:
            return b""
        length = HELLO_HEAD + self._data[HELLO_HEAD - 1]
        if len(self._data) > length:
            raise Unproven("more was said than a greeting")
        if len(self._data) < length:
            return b""
        self._hello, self._data = self._data, b""
        nonces, wish = self._hello[len(MAGIC) : len(MAGIC) + NONCE] + self._nonce, self._hello[HELLO_HEAD:]
        return self._nonce + _proof(self._secret, b"called", nonces, wish)


def listener() -> socket.socket:
    """Return a socket that listens at a port of the kernel's choice, at all addresses of this machine."""
    try:
        return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    except (OSError, ValueError):  # no IPv6 here
        return socket.create_server(("0.0.0.0", 0), backlog=4096)
