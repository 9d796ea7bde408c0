"""Starts the manager of a named pool, and stops it: what `hyperflow pool start|stop` do."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs

from hyperflow import private
from hyperflow.control.client import NoMaster
from hyperflow.errors import ConfigurationError, HyperflowError
from hyperflow.pools.named import manager, named
from hyperflow.pools.named.named import About, Named
from hyperflow.pools.nodepool import NodePool
from hyperflow.slurm.commands import clean
from hyperflow.transports.process import python_command

PATIENCE = 120.0
"""Seconds until the manager has to be there: Slurm is asked by it whether it takes what is wanted."""


def start(name: str, options: NodePool | None, keeps: bool) -> tuple[Named, str]:
    """Start a pool, and return it when programs may come; with what was done: "started", or "goes on".

    Args:
        name: Its name.
        options: What it may have; None for what an earlier pool of this name had.
        keeps: Whether its least number of allocations is kept while no program wants anything.

    Raises:
        ConfigurationError: A pool of this name runs, here or on another host, or is just being started; there is none
            and no options are given; or the manager does not start, with the reason.
    """
    if named.read(named.check_name(name)) is None and options is None:
        raise ConfigurationError(f"pool start {name}: what it may have is missing, such as --nodes 2 --time 8:00:00")
    with _alone(name):
        return _start(name, options, keeps)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Be the only one who starts this pool, within a scope; raises ConfigurationError if another one does."""
    home = named.directory() / name
    lock = -1
    with suppress(OSError):  # a full disk, which is told when there is something to write; or no such lock there
        private.make_all(home)
        with private.Held.open(home) as held:
            lock = os.open("starting", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=held.number)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConfigurationError(
                f"another `hyperflow pool start {name}` is at it; its log: {home / named.LOG}"
            ) from None
    try:
        yield
    finally:
        if lock >= 0:
            os.close(lock)


def _start(name: str, options: NodePool | None, keeps: bool) -> tuple[Named, str]:
    there = named.read(name)
    if there is not None and there.state in ("running", "elsewhere"):
        raise ConfigurationError(_taken(there))
    if there is not None and there.state == "left":
        if options is not None and options != there.about.options:
            raise ConfigurationError(
                f"the manager of the pool {name} was killed, and its allocations may live on: `hyperflow pool start "
                f"{name}` without other options takes them over; `hyperflow pool stop {name}` then ends them"
            )
        return _launched(there), "goes on"
    if options is None:
        if there is None:  # it was removed just now
            raise ConfigurationError(f"there is no pool {name} any more")
        options, keeps = there.about.options, there.about.keeps
    pool = Named(name, named.directory() / name, About(options, time.time(), keeps))
    try:
        named.write(pool.home, pool.about)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {pool.home}: {error.strerror or error}; free space there, or set XDG_STATE_HOME to another "
            "directory, which all nodes see"
        ) from error
    return _launched(pool), "started"


def _taken(there: Named) -> str:
    owner = there.about.manager
    assert owner is not None
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(there.about.since))
    text = f"the pool {there.name} is there already, since {since}: its manager is process {owner.pid} on {owner.host}"
    if there.state == "running":
        return f"{text}. Use it by its name, end it with `hyperflow pool stop {there.name}`, or choose another name"
    return f"{text}. Stop it there, or choose another name; if you know that this host has gone: rm -r {there.home}"


def _launched(pool: Named) -> Named:
    """Start a manager, wait until it answers, and return the pool as it is then."""
    ours, theirs = os.pipe()
    try:
        environ = {**clean(os.environ), manager.READY: str(theirs)}
        log = os.open(
            pool.home / named.LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            process = subprocess.Popen(
                [*python_command("hyperflow.pools.named.manager"), pool.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=pool.home,
                env=environ,
                pass_fds=(theirs,),
                start_new_session=True,  # no terminal of ours is its terminal, and no Ctrl-C
            )
        finally:
            os.close(log)
    except OSError as error:
        os.close(ours)
        raise ConfigurationError(f"cannot start the manager of {pool.name}: {error.strerror or error}") from error
    finally:
        os.close(theirs)
    with os.fdopen(ours, "rb") as said:
        if not select.select([said], [], [], PATIENCE)[0]:
            process.kill()
            process.wait()
            raise ConfigurationError(
                f"the manager of {pool.name} has not begun within {PATIENCE:g} s; its log: {_log(pool)}"
            )
        line = said.readline()
    try:
        answer = json.loads(line)
    except ValueError:
        code = process.wait()
        raise ConfigurationError(
            f"the manager of {pool.name} ended at its start (exit code {code}); its log: {_log(pool)}"
        ) from None
    if "error" in answer:
        process.wait()
        _withdraw(pool)
        raise ConfigurationError(str(answer["error"]))
    process.returncode = 0  # it goes on, and is not our child to wait for
    found = named.read(pool.name)
    assert found is not None
    return found


def _withdraw(pool: Named) -> None:
    """Note that a pool that could not be started is none, unless another manager has it."""
    found = named.read(pool.name)
    if found is not None and found.about.manager is None and found.about.ended is None:
        named.write(pool.home, attrs.evolve(found.about, ended=time.time(), cause="it could not be started"))


def _log(pool: Named) -> str:
    return str(pool.home / named.LOG)


def stop(pool: Named, now: bool) -> Mapping[str, Any]:
    """Ask a pool to end; return how it stands then. Raises NoPool if it does not run here."""
    try:
        return pool.contact().post("/pool/stop", now=now)
    except NoMaster as error:
        raise HyperflowError(f"the pool {pool.name} does not answer: {error}") from error


def wait_ended(pool: Named, seconds: float) -> Named | None:
    """Wait until a pool has ended; return it, or None if it has not within these seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = named.read(pool.name)
        if found is None or found.state != "running":
            return found or pool
        time.sleep(0.1)
    return None
