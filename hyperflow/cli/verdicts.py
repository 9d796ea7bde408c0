"""Turns findings into a status, words and advice. Pure: it examines nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from hyperflow.cli.check import Check, Status, failed, ok, warning
from hyperflow.head.capacity import Choice
from hyperflow.saying import as_written
from hyperflow.transports import ssh_advice
from hyperflow.transports.ssh_advice import CONFIGURATION, KnownKeys

OTHER_RUN_DIR = "`hyperflow doctor --run-dir DIR`, and ProgramInfo.new(DIR) in the program"

SLOW_SECONDS = 1.0
"""A file that takes longer to appear on another node, or a commit that takes longer, gets a warning."""


def ssh_failure(node: str, error: BaseException, known: KnownKeys, shown: str, in_allocation: bool) -> Check:
    """Report why ssh does not reach a node.

    Args:
        shown: The fingerprint of its host key, "" if it is unknown.
        in_allocation: Whether the node belongs to this allocation: others may refuse the login for that reason.
    """
    import asyncssh  # noqa: PLC0415 (costs 0.1 s)

    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        told = ssh_advice.host_key_failure(node, known, shown)
        where = {"known_in": list(known.files)} if known.files else {}
        return failed("ssh", told.what, told.fix, node, cause=told.cause, **where)
    told = ssh_advice.explain(error, node)
    fix = told.fix
    if isinstance(error, asyncssh.PermissionDenied) and not in_allocation:
        fix = f"Many sites let in only who has a job on the node: run the doctor in one (`salloc`). {fix}"
    return failed("ssh", told.what, fix, node, cause=told.cause)


def by_transport(transport: str, ssh: Check, srun: Check) -> tuple[Check, Check]:
    """Grade failures: that of a transport which hyperflow would not use here is only a warning."""
    if transport == "srun":
        ssh = _demoted(ssh, 'hyperflow does not use ssh here (transport = "srun")')
    if transport == "ssh":
        srun = _demoted(srun, 'hyperflow does not use srun here (transport = "ssh")')
    elif transport == "auto" and ssh.status is Status.OK:
        srun = _demoted(srun, "hyperflow does not need it here, because ssh works")
    elif transport == "auto" and srun.status is Status.OK and ssh.status is Status.FAILED:
        ssh = attrs.evolve(ssh, detail=f"{ssh.detail}; hyperflow will use srun")
    return ssh, srun


def _demoted(check: Check, why: str) -> Check:
    if check.status is not Status.FAILED:
        return check
    return attrs.evolve(check, status=Status.WARNING, detail=f"{check.detail}; {why}")


def chosen_transport(transport: str, ssh: Check, srun: Check) -> str | None:
    """Return the transport by which hyperflow would start the node's launcher, or None."""
    tried = {"ssh": (ssh,), "srun": (srun,)}.get(transport, (ssh, srun))
    return next((check.name for check in tried if check.status is Status.OK), None)


def sharing(
    node: str, place: str, kind: str, read: str | None, written: str | None, seconds: tuple[float, float]
) -> Check:
    """Report whether a node shares a directory.

    Args:
        read: Why the node could not read what was written here; None if it could.
        written: Why this machine could not read what the node wrote; None if it could.
        seconds: How long each took.
    """
    name = "shared directory"
    kind = kind or "unknown"
    where = f"{place} is on a file system of type {kind} here"
    fix = f"{where}. Choose a directory that all nodes see, such as your home: {OTHER_RUN_DIR}"
    data = {"seconds_there": seconds[0], "seconds_here": seconds[1], "file_system": kind}
    if read is not None:
        return failed(name, f"what is written here in {place} is not there ({read})", fix, node, **data)
    if written is not None:
        detail = f"it sees {place}, but what it writes there is not here ({written})"
        return failed(name, detail, fix, node, **data)
    if max(seconds) > SLOW_SECONDS:
        detail = f"shared, but it took {seconds[0]:.1f} s until it saw a file, and {seconds[1]:.1f} s back"
        slow = "Functions must not expect files of other nodes at once; ask for a directory with a shorter cache"
        return warning(name, detail, slow, node, **data)
    return ok(name, "files written here are there, and the other way round", node, **data)


def database(kind: str, local: bool, wal: bool, seconds: float) -> Check:
    """Report on the results database that was tried in the run directory."""
    where = f"on {kind or 'an unknown type of file system'}, " + ("local" if local else "which may be shared")
    journal = "write-ahead log" if wal else "rollback journal"
    data: dict[str, Any] = {"file_system": kind, "local": local, "commit_seconds": seconds}
    data["journal"] = "wal" if wal else "rollback"
    detail = f"{where}: {journal}; opened, written, read, closed; a commit took {1000 * seconds:.1f} ms"
    if seconds > SLOW_SECONDS:
        fix = "Put the database on a faster file system: ProgramInfo.new(DIR, database=FILE)"
        return warning("SQLite", detail, fix, **data)
    return ok("SQLite", detail, **data)


def cpus(node: str, granted: int | None, affinity: Sequence[int], quota: float | None) -> Check:
    """Compare the CPUs that a process may use on a node with those that Slurm grants; None outside of an allocation."""
    name, seen = "CPUs", len(affinity)
    data = {"granted": granted, "affinity": list(affinity), "quota": quota}
    limit = f", with {quota:g} CPUs' worth of time" if quota is not None else ""
    if granted is None:
        return ok(name, f"a process may use {count(seen)}{limit}; no allocation promises anything", node, **data)
    if seen < granted:
        fix = (
            'Evaluations will share them. Try the other transport ("ssh" or "srun"), ask Slurm for as many CPUs as '
            "there are, or look with `taskset -pc $$` on the node"
        )
        what = f"Slurm grants {count(granted)}, but a process may use only {seen}{limit}"
        return warning(name, what, fix, node, **data)
    if quota is not None and quota < granted:
        fix = "Evaluations will be throttled; ask for that many CPUs only, or ask the administrators about the limit"
        what = f"Slurm grants {count(granted)}, but the control group only the time of {quota:g}"
        return warning(name, what, fix, node, **data)
    if seen > granted:
        fix = (
            "Nothing is pinned, and nothing keeps evaluations off the CPUs of others' jobs. Ask for whole nodes "
            '(`--exclusive`), or try the other transport (transport = "srun"), which Slurm confines on most sites'
        )
        return warning(name, f"Slurm grants {count(granted)}, but a process may use {seen}{limit}", fix, node, **data)
    return ok(name, f"{count(granted)}, as Slurm promises{limit}; workers will be pinned", node, **data)


def gpus(node: str, choice: Choice, remark: str = "") -> Check:
    """Report on the GPUs that evaluations would get on a node, and who says so."""
    ids, domains = choice.capacity.gpus, choice.capacity.domains
    data = {"gpus": list(ids), "gpus_from": choice.gpus_from, "domains": [[sorted(a), sorted(b)] for a, b in domains]}
    if remark := " ".join(filter(None, (choice.remark, remark))):
        fix = 'gpus=["0", ...] of run_job_local and its like says which to use, whatever is found'
        return warning("GPUs", f"{len(ids)} ({', '.join(ids)}): {remark}", fix, node, **data)
    if not ids:
        return ok("GPUs", "none found", node, **data)
    near = "; with CPUs close to them" if any(gpus and cpus for cpus, gpus in domains) else ""
    return ok("GPUs", f"{len(ids)} ({', '.join(ids)}), as {choice.gpus_from} says{near}", node, **data)


def memory(node: str, choice: Choice) -> Check:
    """Report on the memory that evaluations share on a node, and who says so."""
    size, source = choice.capacity.memory, choice.memory_from
    if not size:
        fix = 'Where nobody knows how much there is, none is counted; run_job_local(..., memory="8G") says it'
        return warning("memory", "nobody says how much there is", fix, node, bytes=0, memory_from="")
    return ok("memory", f"{as_written(size)} ({source})", node, bytes=size, memory_from=source)


def count(cpus: int) -> str:
    """Return `1 CPU`, `2 CPUs`."""
    return f"{cpus} CPU{'s' * (cpus != 1)}"


def launcher_failure(node: str, how: str, error: str, interpreter: str, prologue: str) -> Check:
    """Report why a launcher did not start although `how`, "" on this machine, can start a command on the node."""
    how = f"{how} " if how else ""
    if "no module named" in error.lower() or "not found" in error or "No such file" in error:
        fix = (
            f"The node has to see the Python environment: is {interpreter} there (`{how}ls -l {interpreter}`)? Install "
            'it on a shared file system, or load what it needs with prologue = "module load ..." in '
            f"{CONFIGURATION}"
        )
    elif "here and" in error:
        fix = f"`{how}{interpreter} --version` shows what is there; install the environment on a shared file system"
    else:
        fix = f"Try `{how}{interpreter} -c 'import hyperflow.launcher'`; see also start_timeout in {CONFIGURATION}"
    if prologue and "here and" not in error:
        fix = f"Perhaps the prologue fails there, see prologue in {CONFIGURATION}. {fix}"
    return failed("Python", error, fix, node)
