"""Commands of Slurm from an event loop: one at a time, with pauses, counted, and killed when they take too long.

slurmctld serves a whole site. So a program has one `Commands`, which never runs two at once, and after each command
pauses for as long as it took: a slow controller is asked less often.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Mapping
from typing import IO

import attrs

from hyperflow.errors import SlurmError
from hyperflow.wire import processes

_KEPT = {"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"}
"""They say how Slurm is reached; where a site sets them, its commands need them."""
_REMOVED = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "PMI_", "PMI2_", "PMIX_", "PALS_")

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class SlurmAway(Exception):
    """Slurm has given no answer, or a meaningless one. It may have done what it was asked for."""


@attrs.frozen
class Answer:
    """What a command has said."""

    code: int
    output: str
    errors: str

    @property
    def said(self) -> str:
        return self.errors.strip() or self.output.strip()


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without variables that belong to an allocation or preset options.

    SBATCH_* override what is in a script. And sbatch passes all variables on to the job, where the SLURM_* of another
    allocation would bind it to the CPUs of that one.
    """
    return {name: value for name, value in environ.items() if name in _KEPT or not name.startswith(_REMOVED)}


class Commands:
    """Runs Slurm's commands, and counts them in `calls`."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.took = 0.0
        """Seconds that the last one took."""
        self._environ = clean(os.environ if environ is None else environ)
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    def has(self, name: str) -> bool:
        """Whether there is such a command."""
        return shutil.which(name, path=self._environ.get("PATH")) is not None

    async def run(self, *argv: str, timeout: float, text: str | None = None) -> Answer:
        """Run a command and return its answer, whatever that is; `text` is its input. Cancelling kills it.

        Raises:
            SlurmAway: It gave no answer in time, and was killed; or this machine could not start a process.
            SlurmError: There is no such command.
        """
        loop = asyncio.get_running_loop()
        async with self._turn:
            await asyncio.sleep(max(0.0, self._free_at - loop.time()))
            self.calls[argv[0]] += 1
            began = loop.time()
            try:
                async with asyncio.timeout(timeout):
                    return await _run(argv, self._environ, (text or "").encode())
            except TimeoutError:
                raise SlurmAway(f"{argv[0]} gave no answer within {timeout:g} s") from None
            except OSError as error:  # no more processes, open files or memory just now
                raise SlurmAway(f"{argv[0]} could not be started on this machine: {error.strerror or error}") from None
            finally:
                self.took = loop.time() - began
                self._free_at = loop.time() + min(max(_SHORTEST_PAUSE, self.took), _LONGEST_PAUSE)

    async def output(self, *argv: str, timeout: float) -> str:
        """Run a command that only asks, and return what it printed.

        Raises:
            SlurmError: It failed, gave no answer in time, or is not there.
        """
        command = " ".join(argv)
        try:
            answer = await self.run(*argv, timeout=timeout)
        except SlurmAway as away:
            raise SlurmError(f"`{command}`: {away}") from None
        if answer.code:
            raise SlurmError(f"`{command}` exited with {answer.code}: {answer.said[:1000]}")
        return answer.output


async def _run(argv: tuple[str, ...], environ: Mapping[str, str], given: bytes) -> Answer:
    # Files, not pipes: nobody has to read while it runs, and no process that inherits a pipe can hold it open. In
    # memory, because on a full disk squeue's list would be cut without an error.
    with _memory_file() as source, _memory_file() as output, _memory_file() as errors:
        source.write(given)
        source.seek(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=environ,
                stdin=source,
                stdout=output,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for the program; and what a wrapper starts is killed with it
                preexec_fn=processes.die_with_parent,  # one call of the kernel: no lock that another thread holds
            )
        except (FileNotFoundError, PermissionError):
            path = environ.get("PATH", "")
            raise SlurmError(
                f"there is no {argv[0]} in PATH; run this where Slurm's commands are, mostly on a login node, or do "
                f"without Slurm (--local). PATH is {path}"
            ) from None
        try:
            code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()  # returns at once: it has ended, or was killed
        return Answer(code, _read(output), _read(errors))


def _memory_file() -> IO[bytes]:
    return os.fdopen(os.memfd_create("answer"), "w+b")


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
