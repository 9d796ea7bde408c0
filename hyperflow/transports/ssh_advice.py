"""What a failure of ssh means, and what to type: one table, for the errors of a run and for `hyperflow doctor`.

asyncssh is imported where it is needed: every command of `hyperflow` would wait for it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import asyncssh

CONFIGURATION = "~/.config/hyperflow/config.toml"

BY_SRUN = f'set transport = "srun" in {CONFIGURATION}'


@attrs.frozen
class Failure:
    """Why a node cannot be reached: `cause` for programs, `what` for people, `fix` says what they can do."""

    cause: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}. {self.fix}"


def explain(error: BaseException, node: str) -> Failure:
    """Say what an error of asyncssh or of the operating system means. Of host keys see `host_key_failure`."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    verbose = f"`ssh -v {node} true`"
    alive = f"See `sinfo --nodes={node}` whether it is up, and {verbose} how far one gets; or {BY_SRUN}"
    match error:
        case asyncssh.PermissionDenied():
            fix = (
                f"Try `ssh -o BatchMode=yes {node} true`. Without a key: `ssh-keygen -t ed25519 && cat "
                f"~/.ssh/id_ed25519.pub >> ~/.ssh/authorized_keys`. A key with a passphrase needs an agent: `ssh-add`. "
                f"If this site allows no ssh: {BY_SRUN}"
            )
            return Failure("permission denied", f"it does not accept our keys ({error})", fix)
        case asyncssh.KeyExchangeFailed():
            fix = "Perhaps the known host key is of a kind that it does not have any more"
            return Failure("no common ground", f"we have no algorithm in common ({error})", fix)
        case ConnectionRefusedError():
            fix = f"Ask the administrators to start sshd on {node}, leave {node} out (`--exclude={node}`), or {BY_SRUN}"
            return Failure("refused", "no sshd answers there (connection refused)", fix)
        case socket.gaierror():
            fix = "`sinfo --Node` shows the nodes, `getent hosts NODE` who knows one; ~/.ssh/config may give a HostName"
            return Failure("unknown name", f"nobody knows this name ({error.strerror})", fix)
        case FileNotFoundError():
            what = f"there is no {error.filename}, which the configuration names"
            return Failure("configuration", what, "Look for an IdentityFile in ~/.ssh/config")
        case ValueError():
            what = f"a key or a line of the configuration in ~/.ssh is not understood ({error})"
            return Failure("configuration", what, f"{verbose} shows what OpenSSH makes of it")
        case RecursionError():
            what = "the way there goes round in a circle: the host of a ProxyJump is itself reached through it"
            return Failure(
                "configuration", what, f"Write `ProxyJump none` for that host in ~/.ssh/config, or {BY_SRUN}"
            )
        case RuntimeError():
            what = f"the connection, or the ProxyCommand that is to make it, has ended ({error})"
            return Failure("no answer", what, alive)
        case TimeoutError():
            return Failure("no answer", "it did not answer in time (connect_timeout)", alive)
        case asyncssh.ConnectionLost() | ConnectionResetError():
            return Failure("no answer", f"it hangs up ({error})", alive)
        case _ if str(error):
            return Failure("other", f"{type(error).__name__}: {error}", f"Try {verbose}, or {BY_SRUN}")
        case _:
            return Failure("no answer", f"it does not answer ({type(error).__name__})", alive)


@attrs.frozen
class KnownKeys:
    """What is known about a node's host key.

    Args:
        host: The name under which it is looked up: the user's ssh configuration may give a node another one.
        port: The port; names of others than 22 are written `[host]:port`.
        files: The files of known hosts that have a key of it, or of who vouches for it.
        pinned: The one file whose keys count, if the configuration names one.
    """

    host: str
    port: int
    files: tuple[str, ...]
    pinned: str = ""

    @property
    def entry(self) -> str:
        """The node's name as it is written in such a file."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    @property
    def places(self) -> list[str]:
        """The files as one types them."""
        return [typed(path) for path in self.files]


def host_key_failure(node: str, known: KnownKeys, shown: str) -> Failure:
    """Say why a node's host key is refused: no key of the node is known, or another one.

    `shown` is the fingerprint of the key that the node shows, "" if that could not be found out.
    """
    key = f" ({shown})" if shown else ""
    port = "" if known.port == 22 else f"-p {known.port} "
    scan = f"`ssh-keyscan {port}{known.host} >> {typed(known.pinned) if known.pinned else '~/.ssh/known_hosts'}`"
    if not known.files:
        fix = f"After comparing the key with what the administrators say: {scan}"
        if not known.pinned:
            fix += f'; or, to trust each node at first sight: host_keys = "accept-new" in {CONFIGURATION}'
        where = f"not in {os.path.expanduser(known.pinned)}" if known.pinned else "in no file of known hosts"
        return Failure("host key unknown", f"its host key{key} is unknown: {known.host} is {where}", fix)
    forget = [
        f"ask the administrators to correct {path}"
        if path.startswith("/etc/")
        else f"`ssh-keygen -R {shlex.quote(known.entry)} -f {path}`"
        for path in known.places
    ]
    fix = f"It may be another machine that poses as {node}. If {node} was installed anew: {', '.join(forget)}, {scan}"
    what = f"its host key{key} is not the known one: another one is in {', '.join(known.places)}"
    return Failure("host key changed", what, fix)


def typed(path: str) -> str:
    """Return a path as one types it into a shell: with ~ for the home directory."""
    for home in ("~/", os.path.expanduser("~/")):
        if path.startswith(home):
            return "~/" + shlex.quote(path.removeprefix(home))
    return shlex.quote(path)


def files_that_know(host: str, address: str, port: int, files: Sequence[str]) -> list[str]:
    """Return those of the files that have a key for a host, or of who vouches for it."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    knowing: list[str] = []
    for path in files:
        with contextlib.suppress(OSError):  # what cannot be read vouches for nobody
            if any(asyncssh.match_known_hosts(read_keys(path), host, address, port)[:2]):
                knowing.append(path)
    return knowing


def read_keys(*files: str) -> asyncssh.SSHKnownHosts:
    """Return the host keys of files."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    known = asyncssh.import_known_hosts("")
    for path in files:
        for line in Path(path).read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a damaged line vouches for nobody
                known.load(line)
    return known
