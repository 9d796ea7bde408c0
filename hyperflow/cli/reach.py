"""The checks of one node: ssh, srun, the shared directory, the launcher and its greeting, CPUs.

A node is contacted by ssh twice: for a shell, which the first checks use, and for a launcher, as in a run. When a check
returns, what it started on the node has ended, or ends with its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import attrs

from hyperflow.cli import verdicts
from hyperflow.cli.check import Check, Status, bounded, in_thread, ok, skipped
from hyperflow.cli.probe import Probe, Refused, open_probe
from hyperflow.config import Settings
from hyperflow.database import place
from hyperflow.errors import HyperflowError, LauncherError
from hyperflow.head import capacity
from hyperflow.head.capacity import Supply
from hyperflow.head.link import Link
from hyperflow.slurm.allocation import Node
from hyperflow.transports.process import Local, Transport
from hyperflow.transports.srun import Srun
from hyperflow.transports.ssh import Ssh, known_hosts_files
from hyperflow.transports.ssh_advice import KnownKeys, files_that_know
from hyperflow.wire.messages import Greeting

OFFERED = ("CPUs", "GPUs", "memory")
"""What a launcher finds out about its node."""

ECHOES = 5
"""How many echoes to time; the median counts."""

SEEN_SECONDS = 5.0
"""Seconds until a file must be seen on the other side; some file systems cache for a while that it does not exist."""

FETCH_SECONDS = 5.0
"""Timeout for fetching a node's host key, in seconds."""

CLOSING_SECONDS = 30.0
"""Seconds that the check of a launcher has beyond its own limit, to end the launcher properly."""


@attrs.frozen
class Site:
    """What the checks of all nodes share.

    Args:
        directory: Made for the checks in the run directory; None if that cannot be used.
        scratch: A directory for logs on this machine.
        seconds: How long a check may take.
        granted: The CPUs of each node of the allocation; None outside of one, where srun does not work.
    """

    settings: Settings
    directory: Path | None
    scratch: Path
    seconds: float
    granted: Mapping[str, Node] | None


async def check_this_machine(node: str, site: Site) -> list[Check]:
    """Check this machine: the launcher and the CPUs."""
    return await _check_launcher(Local(node), "local", site)


async def check_node(node: str, site: Site) -> list[Check]:
    """Check another node."""
    async with AsyncExitStack() as stack:
        async with asyncio.TaskGroup() as group:
            by_ssh = group.create_task(_check_ssh(node, site, stack))
            by_srun = group.create_task(_check_srun(node, site, stack))
        ssh, srun = verdicts.by_transport(site.settings.transport, by_ssh.result(), by_srun.result())
        checks = [ssh, srun, await _check_sharing(node, site, ssh.found or srun.found)]
    how = verdicts.chosen_transport(site.settings.transport, ssh, srun)
    if how is None:
        return [*checks, *(skipped(name, "the node cannot be reached", node=node) for name in ("Python", *OFFERED))]
    transport = Ssh(node, site.settings) if how == "ssh" else Srun(node, site.settings.prologue)
    return checks + await _check_launcher(transport, how, site)


async def _check_ssh(node: str, site: Site, stack: AsyncExitStack) -> Check:
    """Check ssh; the `found` of the check is a shell there, which the stack closes."""
    # Without the prologue: if that fails, the check of the launcher reports it.
    settings = attrs.evolve(
        site.settings,
        prologue="",
        connect_attempts=min(site.settings.connect_attempts, 2),
        connect_timeout=min(site.settings.connect_timeout, site.seconds * 0.45),  # so that both attempts fit
    )

    async def check() -> Check:
        try:
            probe, latency = await _opened(Ssh(node, settings), site, stack)
        except LauncherError as error:
            if error.__cause__ is None or isinstance(error.__cause__, LauncherError):
                raise
            import asyncssh  # noqa: PLC0415 (costs 0.1 s, which a check without nodes need not pay)

            known = await known_keys(node, settings)
            refused = isinstance(error.__cause__, asyncssh.HostKeyNotVerifiable)
            shown = await _shown_key(node, settings) if refused else ""
            return verdicts.ssh_failure(node, error.__cause__, known, shown, node in (site.granted or ()))
        known = await known_keys(node, settings)
        vouches = ", ".join(known.places)
        words = f"key accepted, host key in {vouches or 'a file of known hosts'}, echo in {1000 * latency:.1f} ms"
        fine = ok("ssh", words, node, latency_seconds=latency, known_in=list(known.files))
        return attrs.evolve(fine, found=probe)

    late = f"See how far `ssh -v {node} true` gets, and `sinfo --nodes={node}` whether it is up"
    return await bounded(site.seconds, "ssh", node, check(), late)


async def _check_srun(node: str, site: Site, stack: AsyncExitStack) -> Check:
    """Check srun; the `found` of the check is a shell there, which the stack closes."""
    if site.granted is None:
        return skipped("srun", "only within an allocation", node=node)
    if node not in site.granted:
        return skipped("srun", "the node is not of our allocation", node=node)

    async def check() -> Check:
        probe, latency = await _opened(Srun(node), site, stack)
        fine = ok("srun", f"a step starts, echo in {1000 * latency:.1f} ms", node, latency_seconds=latency)
        return attrs.evolve(fine, found=probe)

    late = f"Try `srun --overlap --nodes=1 --ntasks=1 --nodelist={node} hostname`; other steps may hold the CPUs"
    return await bounded(site.seconds, "srun", node, check(), late)


async def _opened(transport: Transport, site: Site, stack: AsyncExitStack) -> tuple[Probe, float]:
    """Open a shell that the stack closes, and measure how long an echo takes."""
    log_file = site.scratch / f"{type(transport).__name__.lower()}-{transport.node}.log"
    probe = await stack.enter_async_context(open_probe(transport, log_file))
    times: list[float] = []
    for number in range(ECHOES):
        started = time.perf_counter()
        if await probe.ask("echo", text=f"echo {number}") != f"echo {number}":
            raise LauncherError(f"the shell on {transport.node} does not answer what it was asked")
        times.append(time.perf_counter() - started)
    return probe, statistics.median(times)


async def _check_sharing(node: str, site: Site, probe: Probe | None) -> Check:
    name, directory = "shared directory", site.directory
    if probe is None:
        return skipped(name, "the node cannot be reached", node=node)
    if directory is None:
        return skipped(name, "the run directory cannot be written", node=node)

    async def check() -> Check:
        here, there = directory / f"here-{node}", directory / f"there-{node}"
        await in_thread(lambda: here.write_text(f"to {node}\n"))
        read, seconds_there = await _within(SEEN_SECONDS, lambda: _read_there(probe, here, f"to {node}"))
        written, seconds_here = None, 0.0
        if read is None:
            written, seconds_here = await _within(SEEN_SECONDS, lambda: _write_there(probe, there, f"from {node}"))
        kind = await in_thread(lambda: place.file_system_type(directory))
        return verdicts.sharing(node, str(directory.parent), kind, read, written, (seconds_there, seconds_here))

    late = "The file system hangs on that node, or here: `df` on both sides shows it"
    return await bounded(site.seconds, name, node, check(), late)


async def _within(seconds: float, attempt: Callable[[], Awaitable[str | None]]) -> tuple[str | None, float]:
    """Retry until there is no complaint or the time is up; return the last complaint, and how long it took."""
    started = time.monotonic()
    pause = 0.02
    while True:
        try:
            complaint = await attempt()
        except Refused as error:
            complaint = str(error).rpartition(": ")[2]
        except OSError as error:
            complaint = error.strerror or str(error)
        took = time.monotonic() - started
        if complaint is None or took >= seconds:
            return complaint, round(took, 3)
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.5)


async def _read_there(probe: Probe, path: Path, text: str) -> str | None:
    found = await probe.ask("read", str(path))
    return None if found == text else f"it reads {found!r} there"


async def _write_there(probe: Probe, path: Path, text: str) -> str | None:
    await probe.ask("write", str(path), text)
    found = await in_thread(path.read_text)
    return None if found == f"{text}\n" else f"it reads {found!r} here"


async def _check_launcher(transport: Transport, how: str, site: Site) -> list[Check]:
    """Start a launcher as a run does, and end it; its greeting has its versions and CPUs."""
    link = Link(transport, site.settings, site.scratch, lambda *_: None, lambda *_: None)
    node = link.node
    limit = site.settings.connect_timeout + site.settings.start_timeout + 1.0

    async def check() -> Check:
        started = time.monotonic()
        try:
            async with asyncio.timeout(limit):  # the link has its own limit, and a better error
                await link.start("doctor", ())
        except (HyperflowError, TimeoutError) as error:
            late = f"no launcher was ready within {limit:g} s (connect_timeout and start_timeout)"
            words = " ".join((str(error) or late).replace(str(link.log_file), "").split())
            remote = {"ssh": f"ssh {node}", "srun": f"srun --overlap --nodelist={node}"}.get(how, "")
            prologue = site.settings.prologue if remote else ""
            failure = verdicts.launcher_failure(node, remote, words, shlex.quote(sys.executable), prologue)
            return attrs.evolve(failure, data={"greeting": link.greeting._asdict()} if link.greeting else {})
        seconds = time.monotonic() - started
        await link.close()
        said, way = link.greeting, "here" if how == "local" else f"by {how}"
        assert said is not None, node
        words = f"Python {said.python}, hyperflow {said.hyperflow}, dill {said.dill}"
        data = {"transport": how, "start_seconds": round(seconds, 3), "greeting": said._asdict()}
        return ok("Python", f"{words}; a launcher started {way} in {seconds:.1f} s", node, **data)

    late = "The launcher could not be ended; see `ps -u $USER` there"
    launcher = await bounded(limit + CLOSING_SECONDS, "Python", node, check(), late)
    if launcher.status is not Status.OK:
        return [launcher, *(skipped(name, "no launcher could be started", node=node) for name in OFFERED)]
    greeting, granted = Greeting(**launcher.data["greeting"]), (site.granted or {}).get(node)
    cpus = verdicts.cpus(node, granted.cpus if granted is not None else None, greeting.affinity, greeting.quota)
    found, remark = greeting.findings(), ""
    if granted is None and how == "local" and capacity.needs_smi(capacity.NOTHING, found):
        found, remark = await in_thread(lambda: capacity.asked_smi(found))
    grant = Supply(granted.gpus, granted.memory) if granted is not None else None
    choice = capacity.choose(capacity.NOTHING, grant, found, greeting.affinity)
    return [launcher, cpus, verdicts.gpus(node, choice, remark), verdicts.memory(node, choice)]


async def known_keys(node: str, settings: Settings) -> KnownKeys:
    """Look a node up in the known_hosts files, in the same way as the ssh transport does."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    name, host, port = node, node, settings.ssh_port or 22
    with contextlib.suppress(
        OSError, ValueError, RuntimeError, asyncssh.Error
    ):  # asyncssh may not read the user's configuration
        options = asyncssh.SSHClientConnectionOptions(host=node, port=settings.ssh_port or ())
        host, port = options.host or node, options.port or 22
        name = options.host_key_alias or host
    address = ""
    with contextlib.suppress(OSError):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        address = str(found[0][4][0])
    knowing = files_that_know(name, address, port, known_hosts_files(settings.known_hosts))
    return KnownKeys(name, port, tuple(knowing), settings.known_hosts)


async def _shown_key(node: str, settings: Settings) -> str:
    """Return the fingerprint of a node's host key, "" if it does not send one in time. This needs no login."""
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    try:
        async with asyncio.timeout(FETCH_SECONDS):
            key = await asyncssh.get_server_host_key(node, settings.ssh_port or ())
    except (OSError, asyncssh.Error, TimeoutError, ValueError, RuntimeError):
        return ""
    return f"{key.algorithm.decode()} {key.get_fingerprint()}" if key is not None else ""
