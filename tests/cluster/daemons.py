"""The daemons of a host: how each is started, whether it runs, how it is ended."""

import contextlib
import shutil
import signal
from pathlib import Path

from tests.cluster import packages
from tests.cluster.home import host_key
from tests.cluster.host import CommandError, Host, Process
from tests.cluster.network import LOGIN
from tests.helpers import block_until


def names(host: str) -> tuple[str, ...]:
    """Return the daemons of a host, in the order in which they are started."""
    # One munged is enough for all: its socket is a file, and the file system is shared.
    return ("munged", "slurmctld", "sshd") if host == LOGIN else ("slurmd", "sshd")


def argv(name: str, host: Host) -> list[str]:
    """Return the command that starts a daemon."""
    directory = host.directory
    program = shutil.which(name, path=packages.PATH) or name  # sshd wants to be called by its whole path
    match name:
        case "munged":
            munge = directory / "munge"
            files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
            return [program, "--force", *(f"--{option}={munge / file}" for option, file in files.items())]
        case "sshd":
            settings = {
                "ListenAddress": host.address,
                "PidFile": f"{_pid_file(name, host)}",
                "UsePAM": "no",
                "PasswordAuthentication": "no",
                "KbdInteractiveAuthentication": "no",
                "StrictModes": "no",  # the home directory is below /tmp
                "LogLevel": "VERBOSE",
                "AcceptEnv": "LANG LC_*",
                "Subsystem": "sftp internal-sftp",
            }
            options = [word for setting, value in settings.items() for word in ("-o", f"{setting}={value}")]
            key, log = host_key(directory, host.name), sshd_log(host)
            return [program, "-f", "/dev/null", "-h", f"{key}", "-E", f"{log}", *options]
        case _:
            return [program]


def sshd_log(host: Host) -> Path:
    """Return the path of the log of a host's sshd."""
    return host.directory / "log" / f"sshd.{host.name}.log"


def _pid_file(name: str, host: Host) -> Path:
    if name == "munged":
        return host.directory / "munge" / "pid"
    if name == "slurmctld":
        return host.directory / "slurm" / "slurmctld.pid"
    return host.directory / "slurm" / f"{name}.{host.name}.pid"


def find(name: str, host: Host) -> Process | None:
    """Return the process of a daemon, if it runs."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int(_pid_file(name, host).read_text())
        for process in host.processes():
            if process.inner_pid == pid and process.name == name:
                return process
    return None


def start(name: str, host: Host) -> None:
    """Start a daemon, unless it runs, and wait until it does."""
    if find(name, host) is None:
        _pid_file(name, host).unlink(missing_ok=True)
        try:
            host.daemon(argv(name, host))
            block_until(lambda: find(name, host), 10, f"{name} on {host.name} runs")
        except (TimeoutError, CommandError) as error:
            raise CommandError(f"{error}\n{_last_words(host)}") from None


def stop(name: str, host: Host, number: int = signal.SIGTERM) -> None:
    """End a daemon with a signal, and wait until it has gone. Jobs and sessions go on."""
    process = find(name, host)
    if process is not None:
        process.kill(number)
        block_until(lambda: find(name, host) is None, 10, f"{name} on {host.name} ends")


def _last_words(host: Host) -> str:
    return "\n".join(
        f"{path.name}: {path.read_text(errors='replace')[-500:]}" for path in sorted((host.directory / "log").iterdir())
    )
