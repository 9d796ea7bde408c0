"""The init of one host: sets up what the host sees, then reaps orphans until it is told to end.

Run as process 1 of new namespaces, with the paths and names in one JSON argument, by the system's or any other
Python: standard library only. When it ends, the kernel kills everything on the host.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys

MS_NOSUID, MS_NODEV, MS_BIND = 2, 4, 4096

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = MS_BIND) -> None:
    """Mount something, in this mount namespace only."""
    if _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"{source} on {target}")


def reap(*_: object) -> None:
    """Bury every child that has ended: orphans come to process 1."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    """Furnish the host, say that it is ready, and hold it until the lifeline ends."""
    host = json.loads(sys.argv[1])
    signal.signal(signal.SIGCHLD, reap)
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    socket.sethostname(host["name"])
    # What programs on one machine share by path, and programs on two machines do not.
    for place in ("/run", "/dev/shm"):
        mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV)
    os.mkdir("/run/sshd", 0o755)
    os.mkdir("/run/lock", 0o1777)
    for source, target in host["binds"]:
        mount(source, target)
    os.write(1, b"ready\n")
    os.dup2(2, 1)
    while not host["lifeline"]:
        signal.pause()
    while os.read(0, 1):
        pass


if __name__ == "__main__":
    main()
