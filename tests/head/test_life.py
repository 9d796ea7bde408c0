"""Life and death of a run: whatever dies first, nothing waits for ever and no process is left after ten seconds."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import hyperflow as hf
from hyperflow.config import Settings
from hyperflow.head.engine import open_engine
from hyperflow.head.fleet import NodePlan
from hyperflow.options import Options
from hyperflow.transports.process import Connection, Local, Receiver
from hyperflow.wire import survivors
from tests import functions as f
from tests import leaks
from tests.helpers import alive, block_until, wait_until
from tests.support import Gate, local, run_script, start_script, wait_at


def with_children(n: int) -> int:
    """On a worker: start a child that outlives the evaluation, now and then, and return n."""
    import subprocess
    import time

    if n % 100 == 0:
        subprocess.Popen(["sleep", "1000"])
        subprocess.Popen(["setsid", "sleep", "1000"])
    time.sleep(0.005)
    return n


def pids_of(env: hf.JobEnv) -> tuple[int, int]:
    """Return the pids of a local run's keeper and launcher."""
    (link,) = env.evaluator.fleet.links.values()
    return link._connection._process.pid, link.greeting.pid  # type: ignore[union-attr]


KILLS: dict[str, Callable[[int, int], None]] = {
    "launcher KILL": lambda keeper, launcher: os.kill(launcher, signal.SIGKILL),
    "launcher TERM": lambda keeper, launcher: os.kill(launcher, signal.SIGTERM),
    "keeper KILL": lambda keeper, launcher: os.kill(keeper, signal.SIGKILL),
    "keeper TERM": lambda keeper, launcher: os.kill(keeper, signal.SIGTERM),
    "both KILL": lambda keeper, launcher: (os.kill(launcher, signal.SIGKILL), os.kill(keeper, signal.SIGKILL))[0],
}


@pytest.mark.parametrize("kill", KILLS)
async def test_death_of_the_launcher(kill: str) -> None:
    """All that was not done is NodeLost, naming node and log, whoever killed the launcher; no process is left."""
    before = leaks.processes()
    async with local() as env:
        node = (await hf.remote_eval(hf.worker_info)).node
        futures = [hf.remote_eval(with_children, n).using(retries=2).start() for n in range(1000)]
        await wait_until(lambda: env.statistics().done > 150, 30, "some are done")
        KILLS[kill](*pids_of(env))
        began = time.monotonic()
        async with asyncio.timeout(40):
            got = await asyncio.gather(*futures, return_exceptions=True)
            with pytest.raises(hf.NodeLost):  # from now on, too, and at once
                await hf.remote_eval(f.add, 1)
        lost = [error for error in got if isinstance(error, BaseException)]
        assert [g for g in got if not isinstance(g, BaseException)] == [n for n in range(1000) if got[n] == n]
        assert {type(error) for error in lost} == {hf.NodeLost}
        assert len({id(error) for error in lost}) == len(lost)  # each its own: notes are added to them
        assert node in str(lost[0])
        assert str(env.program.log_dir) in str(lost[0])
        assert lost[0].node == node
        stats = env.statistics()
        assert (stats.nodes, stats.nodes_lost, stats.cpus, stats.retried) == (0, 1, 0, 0)
    await wait_until(lambda: not leaks.processes().keys() - before.keys(), 10, "nothing is left", state=leaks.processes)
    assert time.monotonic() - began < 10


async def test_stopped_launcher_and_keeper() -> None:
    """A launcher that somebody stopped (SIGSTOP) does not keep a run from ending."""
    for stopped in (0, 1):
        async with local(cpus=1) as env:
            pid = await hf.remote_eval(os.getpid)
            pids = pids_of(env)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("hyperflow.head.link.CLOSE_GRACE", 0.2)
                patch.setattr("hyperflow.transports.process.KILL_AFTER", 0.5)
                os.kill(pids[stopped], signal.SIGSTOP)
                async with asyncio.timeout(40):
                    await env.evaluator.close()
        assert not any(map(alive, pids))
        await wait_until(lambda pid=pid: not alive(pid), 10, "the worker has gone")


@pytest.mark.parametrize("how", ["the allocation ends", "the node is lost"])
async def test_what_was_never_started_has_not_failed(how: str, tmp_path: Path) -> None:
    """With nothing left to run them on, evaluations that waited do not count as failures; one that ran does."""
    gate = Gate(tmp_path)
    async with local(cpus=1) as env:
        futures = [hf.remote_eval(wait_at, gate.path).start() for _ in range(6)]
        await gate.wait_inside()
        if how == "the node is lost":
            os.kill(pids_of(env)[0], signal.SIGKILL)
        else:
            env.evaluator._turn_away(hf.AllocationEnding("as in a test", 1.0))  # type: ignore[attr-defined]
        got = await asyncio.gather(*futures, return_exceptions=True)
        assert {type(error) for error in got} <= {hf.NodeLost, hf.AllocationEnding}
        stats = env.statistics()
        assert (stats.failed, stats.cancelled, stats.done) == (1, 5, 0)


SCRIPT = """
import os, sys, subprocess, time
import hyperflow as hf

def work(n):
    if n % 100 == 0:
        subprocess.Popen(["sleep", "1000"])
        subprocess.Popen(["setsid", "sleep", "1000"])
    if n % 100 == 1 and os.fork() == 0:
        os.setsid(); os.execvp("sleep", ["sleep", "1000"])
    if n % 100 == 2 and os.fork() == 0:  # a daemon that says nowhere whose it is
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    time.sleep(0.005)
    return n

@hf.job
async def main():
    count = 0
    async for _ in hf.as_completed(lambda n: hf.remote_eval(work, n), range(1000)):
        count += 1
        if count == 250:
            print("READY", flush=True)

hf.run_job_local(main(), cpus=2, program=hf.ProgramInfo.new("runs"))
print("FINISHED", flush=True)
"""


def marked(mark: str) -> list[str]:
    """Return the living processes that have the mark in their environment."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (directory / "environ").read_bytes() and alive(int(directory.name)):
                found.append(f"{directory.name}: {(directory / 'cmdline').read_bytes()!r}")
        except OSError:
            continue
    return found


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_death_of_the_main_process(tmp_path: Path, signum: signal.Signals) -> None:
    """A main process that is killed amid 1,000 evaluations leaves nothing: no worker, no child, no daemon of theirs."""
    mark = uuid.uuid4().hex
    with start_script(tmp_path, SCRIPT, LIFE_MARK=mark) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        assert len(marked(mark)) >= 2 + 2 + 3  # main, keeper, launcher, workers, children
        process.send_signal(signum)
        process.wait(10)
        block_until(lambda: not marked(mark), 10, "nothing is left", state=lambda: marked(mark))
        output = process.stdout.read()
    assert process.returncode == -signum
    assert "FINISHED" not in output
    assert ("KeyboardInterrupt" in output) == (signum == signal.SIGINT)


def test_death_of_the_main_process_during_the_start(tmp_path: Path) -> None:
    """A launcher that is importing for ever when its head is killed is ended as well."""
    mark = uuid.uuid4().hex
    (tmp_path / "endless_one.py").write_text("import time\nprint('importing')\ntime.sleep(1000)")
    source = """
import hyperflow as hf
hf.run_job_local(hf.pure(1), preload=["endless_one"], program=hf.ProgramInfo.new("runs"))
"""
    with start_script(tmp_path, source, LIFE_MARK=mark) as process:
        block_until(lambda: len(marked(mark)) == 3, 20, "the import", state=lambda: marked(mark))
        process.kill()
        process.wait(10)
        block_until(lambda: not marked(mark), 10, "nothing is left", state=lambda: marked(mark))


def test_interrupt_between_evaluations(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole terminal's group: workers let the head decide, and it raises KeyboardInterrupt."""
    source = """
import os, signal, subprocess, time
import hyperflow as hf
def wait():
    time.sleep(1000)
@hf.job
async def main():
    pid = await hf.remote_eval(os.getpid)
    waiting = hf.remote_eval(wait).start()
    os.kill(os.getppid() if False else os.getpid(), signal.SIGINT)
    await waiting
try:
    hf.run_job_local(main(), cpus=1, program=hf.ProgramInfo.new("runs"))
except KeyboardInterrupt:
    print("interrupted")
print(hf.run_job_local(hf.remote_eval(abs, -1), cpus=1))
"""
    assert run_script(tmp_path, source).split() == ["interrupted", "1"]


def test_interrupted_again_and_again(tmp_path: Path) -> None:
    """An impatient user's third Ctrl-C still leaves nothing, and the program does not hang."""
    mark = uuid.uuid4().hex
    with start_script(tmp_path, SCRIPT, LIFE_MARK=mark) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=40)
        block_until(lambda: not marked(mark), 10, "nothing is left", state=lambda: marked(mark))
    assert process.returncode != 0


def test_few_descriptors(tmp_path: Path) -> None:
    """With `ulimit -n 64` a run that asks for 100 CPUs has fewer workers, and does all its work."""
    source = """
import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import hyperflow as hf, time
def work(n):
    time.sleep(0.002)
    return n
@hf.job
async def main():
    got = await hf.map_concurrently(lambda n: hf.remote_eval(work, n), range(500))
    print(got == list(range(500)), (await hf.ask()).statistics().failed)
hf.run_job_local(main(), cpus=100, program=hf.ProgramInfo.new("runs"))
"""
    assert run_script(tmp_path, source).split() == ["True", "0"]


async def test_body_that_raises() -> None:
    """An error in the body ends everything and is raised itself, with evaluations of all kinds under way."""
    before = leaks.processes()
    with pytest.raises(f.Boom, match="mine"):
        async with local(program=None) as env:
            directory = env.program.log_dir.parent
            futures = [hf.remote_eval(f.spin, 1000).start() for _ in range(10)]
            await wait_until(lambda: env.statistics().running >= 2, 10, "they run")
            raise f.Boom("mine")
    assert all(future.cancelled() for future in futures)
    assert not leaks.processes().keys() - before.keys()
    assert directory.exists()  # errors point into its logs
    env.program.remove()
    with pytest.raises(hf.HyperflowError, match="closed"):
        await env.run(hf.remote_eval(f.add, 1))


async def test_cancelled_body(tmp_path: Path) -> None:
    """Cancelling the task that holds the environment, twice even, ends everything before it is done."""
    gate = Gate(tmp_path)
    program = hf.ProgramInfo.new(tmp_path / "runs")
    before = leaks.processes()

    async def body() -> None:
        async with local(program=program):
            await hf.concurrently(*[hf.remote_eval(wait_at, gate.path) for _ in range(5)])

    task = asyncio.create_task(body())
    await gate.wait_inside(2)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: not leaks.processes().keys() - before.keys(), 10, "nothing is left")


async def test_side_by_side() -> None:
    """Two runs in one process have workers, CPUs and logs of their own; the end of one leaves the other."""
    async with local(cpus=1) as one:
        async with local(cpus=1) as other:
            pids = await asyncio.gather(one.run(hf.remote_eval(os.getpid)), other.run(hf.remote_eval(os.getpid)))
            assert len(set(pids)) == 2
            many = [env.run(hf.remote_map(f.add, range(500), 10)) for env in (one, other)]
            assert await asyncio.gather(*many) == [list(range(500))] * 2
            assert one.program.log_dir != other.program.log_dir
        assert await one.run(hf.remote_eval(os.getpid)) == pids[0]


def test_loop_closed_early(tmp_path: Path) -> None:
    """A loop that is closed while a run is open takes the run's processes with it, when it is collected."""
    source = """
import asyncio, gc, os, hyperflow as hf
loop = asyncio.new_event_loop()
opened = hf.open_local_job(cpus=1, program=hf.ProgramInfo.new("runs"))
env = loop.run_until_complete(opened.__aenter__())
loop.run_until_complete(env.run(hf.remote_eval(os.getpid)))
loop.close()
del opened, env, loop
gc.collect()
print("collected", flush=True)
input()
"""
    mark = uuid.uuid4().hex
    with start_script(tmp_path, source, LIFE_MARK=mark) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert "collected" in process.stdout.readline()
        block_until(lambda: len(marked(mark)) == 1, 10, "only the script is left", state=lambda: marked(mark))
        process.communicate("\n", timeout=10)
    assert process.returncode == 0


def test_program_that_ends_with_an_open_run(tmp_path: Path) -> None:
    """A program that ends without closing its run leaves nothing, and does not hang at its end."""
    source = """
import asyncio, os, hyperflow as hf
loop = asyncio.new_event_loop()
opened = hf.open_local_job(cpus=1, program=hf.ProgramInfo.new("runs"))
env = loop.run_until_complete(opened.__aenter__())
loop.run_until_complete(env.run(hf.remote_eval(os.getpid)))
"""
    mark = uuid.uuid4().hex
    run_script(tmp_path, source, LIFE_MARK=mark)
    block_until(lambda: not marked(mark), 10, "nothing is left", state=lambda: marked(mark))


async def test_blocked_head() -> None:
    """A head that is busy for a while costs no evaluation."""
    async with local() as env:
        futures = [hf.remote_eval(f.identity, n).start() for n in range(500)]
        await asyncio.sleep(0)
        time.sleep(1.0)
        assert await asyncio.gather(*futures) == list(range(500))
        assert env.statistics().failed == 0


async def test_two_nodes_one_lost(tmp_path: Path) -> None:
    """With another node left, what the lost one had runs there: uncharged, and without an error."""
    gate = Gate(tmp_path)
    program = hf.ProgramInfo.new(tmp_path / "runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        nodes = open_engine([NodePlan(Local("north"), 2), NodePlan(Local("south"), 2)], program)
        engine = await nodes.__aenter__()
    try:
        options = Options()
        big = engine.submit(f.interval, (0.0,), {}, Options(cpus=2))
        assert len((await big)[0]) == 2
        waiting = [engine.submit(wait_at, (gate.path,), {}, options) for _ in range(4)]
        await gate.wait_inside(4)
        more = [engine.submit(f.identity, (n,), {}, options) for n in range(200)]
        os.kill(engine.fleet.links["north"].greeting.pid, signal.SIGKILL)
        await wait_until(lambda: engine.statistics().nodes == 1, 10, "the loss")
        stats = engine.statistics()
        assert (stats.cpus, stats.nodes_lost, stats.failed) == (2, 1, 0)
        assert stats.returned >= 2
        opening = asyncio.create_task(_keep_open(gate, waiting))  # those of the north come once more, in the south
        async with asyncio.timeout(40):
            assert await asyncio.gather(*waiting) == [gate.path] * 4
            assert await asyncio.gather(*more) == list(range(200))
        await opening
        assert engine.statistics().failed == 0
    finally:
        await nodes.__aexit__(None, None, None)


async def _keep_open(gate: Gate, futures: list[asyncio.Future[str]]) -> None:
    """Let go whoever comes to a gate, until all have gone through."""
    while not all(future.done() for future in futures):
        with contextlib.suppress(OSError):  # nobody is there now
            os.close(os.open(gate.path, os.O_WRONLY | os.O_NONBLOCK))
        await asyncio.sleep(0.01)


async def test_one_of_two_nodes_does_not_start(tmp_path: Path) -> None:
    """A node that cannot be started is left out with a warning; where too few are left, all are ended."""

    class Broken(Local):
        async def start(self, command: Sequence[str], receiver: Receiver, log_file: Path) -> Connection:
            return await super().start(["sh", "-c", "echo no such node >&2; exit 255"], receiver, log_file)

    before = leaks.processes()
    nodes = [NodePlan(Local("north"), 1), NodePlan(Broken("broken"), 1), NodePlan(Local("south"), 1)]
    with pytest.warns(RuntimeWarning, match=r"(?s)launcher on broken .*no such node"):
        async with open_engine(nodes, hf.ProgramInfo.new(tmp_path)) as engine:
            assert engine.statistics().nodes == 2
            assert await engine.submit(f.add, (1, 2), {}, Options()) == 3
    with pytest.raises(hf.LauncherError, match=r"(?s)2 of 3 nodes .*launcher on broken .*no such node"):
        async with open_engine(nodes, hf.ProgramInfo.new(tmp_path), settings=Settings(min_nodes=3)):
            pass
    assert not leaks.processes().keys() - before.keys()


def test_nothing_is_left_by_a_short_run(tmp_path: Path) -> None:
    """run_job_local ends with all its processes, its temporary directory, and no descriptor more than before."""
    fds = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert hf.run_job_local(hf.remote_eval(f.add, 1, 2), cpus=1) == 3
    assert len(os.listdir("/proc/self/fd")) == fds


async def test_descriptors_of_a_long_run() -> None:
    """The launcher needs no more descriptors after hundreds of workers than at first."""
    async with local() as env:
        await hf.replicate_concurrently(10, hf.remote_eval(os.getpid).using(fresh_process=True))
        _, launcher = pids_of(env)
        await wait_until(lambda: not env.statistics().workers, 10, "all have ended", state=env.statistics)
        before = sorted(os.listdir(f"/proc/{launcher}/fd"))
        await hf.replicate_concurrently(200, hf.remote_eval(os.getpid).using(fresh_process=True))
        await wait_until(lambda: not env.statistics().workers, 10, "all have ended", state=env.statistics)
        assert sorted(os.listdir(f"/proc/{launcher}/fd")) == before
        assert (
            subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, check=False).stdout
            == b""
        )


def below(pid: int) -> list[int]:
    """Return the living processes that descend from one, itself included."""
    found, pending = [], [pid]
    while pending:
        found.append(pending.pop())
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int((directory / "stat").read_bytes().rpartition(b")")[2].split()[1]) == found[-1]:
                    pending.append(int(directory.name))
    return found


def ours(pid: int) -> bool:
    """Whether a process is Python: not a program of the user's."""
    with contextlib.suppress(OSError):
        return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@pytest.mark.parametrize("killed", ["the node's", "the head's, too"])
def test_all_processes_are_killed_at_once(tmp_path: Path, killed: str) -> None:
    """Programs of the user's do not outlive keeper, launcher and workers, though all of these are killed at once."""
    mark = uuid.uuid4().hex
    source = SCRIPT.replace("count == 250", "count == 60")
    with start_script(tmp_path, source, LIFE_MARK=mark) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        block_until(lambda: any(b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below(process.pid)),
                    10, "programs of the user's")  # fmt: skip
        pids = [pid for pid in below(process.pid) if ours(pid) and (pid != process.pid or killed != "the node's")]
        assert len(pids) >= 4
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)  # so that none of them can do anything about it
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if killed == "the node's":
            process.wait(10)
        block_until(lambda: not marked(mark), 10, "nothing is left", state=lambda: marked(mark))


def test_the_watcher_ends_with_its_run(tmp_path: Path) -> None:
    """A run that ends in order leaves no watcher."""
    source = """
import hyperflow as hf, os
print(hf.run_job_local(hf.remote_eval(os.getenv, "HYPERFLOW_LAUNCHER"), cpus=1, program=hf.ProgramInfo.new("runs")))
"""
    launcher = run_script(tmp_path, source).strip()
    assert len(launcher) == 32
    block_until(lambda: not any(launcher in command(pid) for pid in os.listdir("/proc")), 5, "it has gone")


def command(pid: str) -> str:
    """Return the command line of a process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def test_what_another_slurm_job_has_begun_is_spared() -> None:
    """A batch job that a function has submitted has the launcher's number in its environment, and is not ours."""
    variables = {**os.environ, survivors.VARIABLE: "n1", "SLURM_JOB_ID": "4711"}
    with subprocess.Popen(["sleep", "1000"], env=variables) as process:
        block_until(lambda: b"sleep" in Path(f"/proc/{process.pid}/cmdline").read_bytes(), 10, "it runs")
        assert list(survivors.left("n1", "4711")) == [process.pid]
        assert list(survivors.left("n1", "4712")) == []
        process.kill()
