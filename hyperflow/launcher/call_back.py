"""A stream to the head that the launcher opens itself, where one srun has started the launchers of many nodes.

srun gives all of them the same stdin, and mixes what they say. So what comes there is one line: a secret, the head's
port and its names. With these the launcher connects to the head, from where slurmstepd has connected to srun, too; both
prove that they know the secret (wire/proving.py). Its stdin and stdout are not used any more.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from typing import NoReturn

from hyperflow.wire import proving
from hyperflow.wire.frames import CANNOT_CALL

ASKED = "HYPERFLOW_CALL_BACK"
"""The environment variable that asks for it. The secret is not in it: others could read it."""

PATIENCE = 60.0
"""Seconds until the line must have come. srun hands it out when it has reached all nodes."""

CONNECT_PATIENCE = 10.0
"""Seconds until the head must have answered at an address."""

LONGEST_LINE = 4096


def stream(in_fd: int) -> int:
    """Return the descriptor of a connection to the head. Where there can be none, say why, and end this process."""
    try:
        secret, port, *hosts = _line(in_fd).split()
        near = os.environ.get("SLURM_LAUNCH_NODE_IPADDR")  # of srun's host, as slurmstepd has it
        return _connected(bytes.fromhex(secret), int(port), [near, *hosts] if near else hosts)
    except (OSError, ValueError) as error:
        _give_up(str(error))


def _line(fd: int) -> str:
    line, until = b"", time.monotonic() + PATIENCE
    while not line.strip() or not line.endswith(b"\n"):
        if not select.select([fd], [], [], max(until - time.monotonic(), 0.0))[0]:
            raise TimeoutError(f"srun has handed nothing on within {PATIENCE:g} s")
        data = os.read(fd, LONGEST_LINE)
        line += data
        if not data or len(line) > LONGEST_LINE:
            raise ConnectionError("srun has handed on what is no line of the head's")
    return line.decode()


def _connected(secret: bytes, port: int, hosts: list[str]) -> int:
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    reasons: list[str] = []
    for host in hosts:
        try:
            with socket.create_connection((host, port), CONNECT_PATIENCE) as made:
                caller = proving.Caller(secret, name.encode())
                made.sendall(caller.hello)
                made.sendall(caller.reply(_exactly(made, proving.CHALLENGE)))
                made.settimeout(None)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return made.detach()
        except OSError as error:
            reasons.append(f"{host} port {port}: {error}")
    raise ConnectionError("; ".join(reasons))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the other side has ended the connection")
        data += more
    return data


def _give_up(why: str) -> NoReturn:
    print(f"{CANNOT_CALL} {' '.join(why.split())}", file=sys.stderr, flush=True)
    os._exit(1)
