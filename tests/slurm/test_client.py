"""The client against a real Slurm: jobs are submitted once, followed to every end, found again, and cancelled."""

import asyncio
import logging
import os
import shlex
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hyperflow.errors import SlurmError
from hyperflow.slurm.client import PollIntervals, SlurmClient, Watch
from hyperflow.slurm.queue import BatchState
from hyperflow.slurm.script import SbatchOptions, batch_script
from tests.cluster.cluster import Cluster
from tests.helpers import block_until, wait_until
from tests.slurm.shims import Shims, configured

QUICK = PollIntervals(fast=0.1, slow=1.0, first_retry=0.2, last_retry=1.0, give_up_after=50.0, timeout=20.0)


@pytest.fixture
def shims(cluster: Cluster, tmp_path: Path) -> Shims:
    """Give Slurm's commands, which the test may replace."""
    return Shims(cluster, tmp_path / "shims")


@pytest.fixture
async def client(shims: Shims) -> AsyncIterator[SlurmClient]:
    """Give a client that is in a hurry."""
    async with SlurmClient(QUICK, shims.environ) as opened:
        yield opened


class Script:
    """A batch script in the home directory of a cluster."""

    def __init__(self, cluster: Cluster, shell: str = "true", **options: object) -> None:
        self.token = uuid.uuid4().hex
        self.log = cluster.home / f"{self.token}.out"
        self.path = cluster.home / f"{self.token}.sh"
        text = batch_script(
            SbatchOptions().changed(**options),
            name="a test",
            token=self.token,
            command=["bash", "-c", shell],
            log_file=self.log,
            directory=cluster.home,
        )
        self.path.write_text(text)

    async def submit(self, client: SlurmClient) -> Watch:
        """Submit it, and watch it."""
        return client.watch(await client.submit(self.path, self.token))


async def states(watch: Watch) -> AsyncIterator[BatchState]:
    """Give the state as it is, and then each new one that is noticed, until a final one."""
    state = watch.state
    yield state
    while not state.final:
        state = await watch.changed(state)
        yield state


async def until(watch: Watch, reached: Callable[[BatchState], bool], timeout: float = 40) -> BatchState:
    """Wait for a state of a job."""
    async with asyncio.timeout(timeout):
        async for state in states(watch):
            if reached(state):
                return state
    raise AssertionError(f"it ended without that: {watch.state}")


def kind(name: str) -> Callable[[BatchState], bool]:
    """Make a condition for `until()`."""
    return lambda state: state.kind == name


# ---------------------------------------------------------------------------------------------- to the end


async def test_from_the_queue_to_the_end(cluster: Cluster, client: SlurmClient) -> None:
    """A job waits with Slurm's reason, runs on named nodes, and ends."""
    script = Script(cluster, f"until [ -e {cluster.home}/go ]; do sleep 0.05; done", nodes=2, extra={"hold": None})
    watch = await script.submit(client)
    assert watch is client.watch(watch.job_id)

    waiting = await until(watch, kind("pending"))
    cluster.slurm.scontrol("release", str(watch.job_id))
    running = await until(watch, kind("running"))
    (cluster.home / "go").touch()
    ended = await until(watch, kind("ended"))

    assert (waiting.reason, waiting.nodes, waiting.hopeless) == ("JobHeldUser", "", "")
    assert (running.nodes, running.exit_code) == ("node[1-2]", None)
    assert (ended.slurm_state, ended.exit_code, ended.signal, ended.final) == ("COMPLETED", 0, None, True)
    assert await watch.changed(ended) == ended  # nothing more comes, and nobody waits for it


@pytest.mark.parametrize(
    ("shell", "code", "signal", "words"), [("exit 3", 3, None, "exit code 3"), ("kill -SEGV $$", 0, 11, "signal 11")]
)
async def test_ends_badly(
    cluster: Cluster, client: SlurmClient, shell: str, code: int, signal: int | None, words: str
) -> None:
    """What the script did is in the state."""
    state = await until(await Script(cluster, shell).submit(client), kind("ended"))

    assert (state.slurm_state, state.exit_code, state.signal) == ("FAILED", code, signal)
    assert words in state.description


async def test_cancelled(cluster: Cluster, client: SlurmClient) -> None:
    """One job is cancelled while it runs, another while it waits; a third has ended, and a fourth never was."""
    running = await Script(cluster, "sleep 100").submit(client)
    waiting = await Script(cluster, extra={"hold": None}).submit(client)
    ended = await Script(cluster).submit(client)
    await until(running, kind("running"))
    await until(ended, kind("ended"))

    await client.cancel([running.job_id, waiting.job_id, ended.job_id, 4_000_000])

    assert (await until(running, kind("ended"))).slurm_state == "CANCELLED"
    assert (await until(waiting, kind("ended"))).slurm_state == "CANCELLED"
    assert client.calls["scancel"] == 1


async def test_cancelling_fails(cluster: Cluster, shims: Shims, client: SlurmClient) -> None:
    """It is tried again while Slurm is away; a refusal is an error with Slurm's words."""
    watch = await Script(cluster, extra={"hold": None}).submit(client)
    mark, words = shims.directory / "mark", "scancel: error: Kill job error on job id 1: "
    shims.replace(
        "scancel",
        f'[ -e {mark} ] || {{ touch {mark}; echo "{words}Unable to contact slurm controller" >&2; exit 1; }}; '
        'exec "$REAL" "$@"',
    )
    await client.cancel([watch.job_id])

    assert (await until(watch, kind("ended"))).slurm_state == "CANCELLED"
    assert client.calls["scancel"] == 2
    shims.replace("scancel", f'echo "{words}Access/permission denied" >&2; exit 1')
    with pytest.raises(SlurmError, match=r"scancel 1 2 failed: .*permission denied"):
        await client.cancel({2, 1})


@pytest.mark.timeout(120)  # slurmctld looks for jobs beyond their limit twice a minute
async def test_time_limit(cluster: Cluster, client: SlurmClient) -> None:
    """A job that takes too long is told from one that fails."""
    watch = await Script(cluster, "sleep 200", time=1).submit(client)
    await until(watch, kind("running"))
    cluster.slurm.scontrol("update", f"JobId={watch.job_id}", "EndTime=now")

    state = await until(watch, kind("ended"), timeout=100)

    assert state.slurm_state == "TIMEOUT"
    assert "give it more time" in state.description


async def test_a_node_fails(cluster: Cluster, client: SlurmClient) -> None:
    """A job whose node fails ends so, or waits for its next start, as was asked for."""
    final = await Script(cluster, "sleep 100", requeue=False, extra={"nodelist": "node1"}).submit(client)
    again = await Script(cluster, "sleep 100", extra={"nodelist": "node2"}).submit(client)
    await until(final, kind("running"))
    await until(again, kind("running"))

    for node in ("node1", "node2"):
        cluster.slurm.scontrol("update", f"nodename={node}", "state=down", "reason=test")

    assert (await until(final, kind("ended"))).slurm_state == "NODE_FAIL"
    state = await until(again, lambda state: state.restarts == 1)
    assert (state.kind, state.nodes) == ("pending", "")


async def test_the_log_cannot_be_written(cluster: Cluster, client: SlurmClient) -> None:
    """If the nodes do not see the directory of the log, the state says what that means."""
    script = Script(cluster)
    script.path.write_text(script.path.read_text().replace(str(script.log), "/nowhere/at/all"))

    state = await until(await script.submit(client), kind("ended"))

    assert "do the nodes see the log directory?" in state.description


async def test_never_heard_of(client: SlurmClient) -> None:
    """A job that Slurm does not know is gone, after it was asked twice."""
    watch = client.watch(4_000_000)

    state = await until(watch, kind("gone"))

    assert state.final
    assert client.calls["squeue"] == 2


async def test_forgotten(cluster: Cluster, client: SlurmClient) -> None:
    """A job that ended while nobody looked, and that slurmctld has forgotten since, is gone; others are not."""
    with configured(cluster, "MinJobAge=2"):
        script = Script(cluster)
        job_id = await client.submit(script.path, script.token)
        kept = await Script(cluster, extra={"hold": None}).submit(client)
        forgotten = "squeue --noheader --states=all --format=%A"
        block_until(
            lambda: str(job_id) not in cluster.login.run(shlex.split(forgotten)).stdout.split(), 50, "it is forgotten"
        )

        assert (await until(client.watch(job_id), kind("gone"))).kind == "gone"
        assert kept.state.kind == "pending"
        assert await client.find([script.token]) == {script.token: []}


async def test_it_can_never_start(cluster: Cluster, client: SlurmClient) -> None:
    """More nodes than there are: Slurm takes the job, and the state says that it is hopeless."""
    watch = await Script(cluster, nodes=9).submit(client)

    state = await until(watch, lambda state: bool(state.hopeless))

    assert state.kind == "pending"
    assert state.reason in {
        "PartitionConfig",
        "PartitionNodeLimit",
    }  # which of them depends on who looks first in Slurm
    assert f"({state.reason}): Slurm cannot start it as it is" in state.description


# --------------------------------------------------------------------------------------------- submitting


async def test_what_slurm_refuses(cluster: Cluster, client: SlurmClient) -> None:
    """The error has Slurm's words and what to do, at once, and no job is left."""
    with configured(cluster, "EnforcePartLimits=ALL"):
        cluster.slurm.scontrol("create", "PartitionName=short", "Nodes=node1", "MaxTime=5")
        try:
            cases = {
                ("Invalid partition name", "partition=..."): {"partition": "nope"},
                ("time limit is invalid", "time=..."): {"partition": "short", "time": "10"},
                ("Memory specification can not be satisfied", "mem=..."): {"mem": "9000G"},
                ("Invalid feature", "constraint=..."): {"constraint": "nothing"},
                ("unrecognized option '--nonsense'", "leave it out"): {"extra": {"nonsense": None}},
            }
            for words, options in cases.items():
                script = Script(cluster, **options)
                with pytest.raises(SlurmError) as caught:
                    await client.submit(script.path, script.token)
                assert all(word in str(caught.value) for word in (*words, str(script.path))), str(caught.value)
        finally:
            cluster.slurm.scontrol("delete", "PartitionName=short")

    assert client.calls == {"sbatch": len(cases)}
    assert not cluster.slurm.squeue()


@pytest.mark.parametrize(
    "after",
    [
        "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1",
        "echo 'no such words were ever heard of' >&2; exit 5",
        "exit 0",
        "kill -9 $$",
    ],
)
async def test_sbatch_submits_and_fails(cluster: Cluster, shims: Shims, client: SlurmClient, after: str) -> None:
    """Whatever sbatch says after it has submitted the job: the job is there once, and its id is found."""
    shims.replace("sbatch", f'"$REAL" "$@" > /dev/null; {after}')
    script = Script(cluster, extra={"hold": None})

    job_id = await client.submit(script.path, script.token)

    assert list(cluster.slurm.squeue()) == [job_id]
    assert client.calls["sbatch"] == 1


async def test_sbatch_submits_and_hangs(cluster: Cluster, shims: Shims) -> None:
    """An sbatch that does not return is killed, with all it has started, and its job is found."""
    shims.replace("sbatch", '"$REAL" "$@"; sleep 1000 & sleep 1000')
    script = Script(cluster, extra={"hold": None})
    async with SlurmClient(PollIntervals(fast=0.1, first_retry=0.1, timeout=2), shims.environ) as client:
        job_id = await client.submit(script.path, script.token)

    assert list(cluster.slurm.squeue()) == [job_id]


async def test_sbatch_fails_for_a_while(
    cluster: Cluster, shims: Shims, client: SlurmClient, caplog: pytest.LogCaptureFixture
) -> None:
    """What may pass is tried again, with one warning, and after each failure the job is looked for."""
    count = shims.directory / "count"
    words = "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates"
    shims.replace(
        "sbatch",
        f'echo >> {count}; [ $(wc -l < {count}) -gt 3 ] || {{ echo "{words}" >&2; exit 1; }}; exec "$REAL" "$@"',
    )
    script = Script(cluster, extra={"hold": None})

    job_id = await client.submit(script.path, script.token)

    assert list(cluster.slurm.squeue()) == [job_id]
    assert (client.calls["sbatch"], client.calls["squeue"]) == (4, 4)  # the last one because of the doubt
    assert len([record for record in caplog.records if "try again" in record.message]) == 1


async def test_the_first_one_comes_through_late(cluster: Cluster, shims: Shims, client: SlurmClient) -> None:
    """If a submission that was given up arrives after all, one of the two jobs is cancelled."""
    first, second = shims.directory / "first", shims.directory / "second"
    # The first call leaves a submission behind, which happens during the second call.
    late = f'touch {first}.away; until [ -e {second} ]; do sleep 0.05; done; "$0" "$@"; touch {second}.done'
    shims.replace(
        "sbatch",
        f"""if [ ! -e {first} ]; then
            touch {first}
            setsid sh -c {shlex.quote(late)} "$REAL" "$@" > /dev/null 2>&1 &
            until [ -e {first}.away ]; do sleep 0.05; done
            echo "Socket timed out" >&2
            exit 1
        fi
        touch {second}
        until [ -e {second}.done ]; do sleep 0.05; done
        exec "$REAL" "$@\"""",
    )
    script = Script(cluster, extra={"hold": None})

    job_id = await client.submit(script.path, script.token)

    await wait_until(
        lambda: list(cluster.slurm.squeue()) == [job_id], 10, "one job is left", state=cluster.slurm.squeue
    )
    assert client.calls["sbatch"] == 2
    assert client.calls["scancel"] == 1


async def test_submitting_is_cancelled(cluster: Cluster, shims: Shims, client: SlurmClient) -> None:
    """A cancelled submission leaves no process, and the job that it made can be found."""
    mark = shims.directory / "submitted"
    shims.replace("sbatch", f'"$REAL" "$@"; touch {mark}; sleep 1000')
    script = Script(cluster, extra={"hold": None})
    submitting = asyncio.create_task(client.submit(script.path, script.token))
    await wait_until(mark.exists, 20, "sbatch has submitted")

    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting

    assert await client.find([script.token, "another-one"]) == {
        script.token: list(cluster.slurm.squeue()),
        "another-one": [],
    }


@pytest.mark.process
async def test_there_is_no_slurm(tmp_path: Path) -> None:
    """Without its commands the error says so, to who submits and to who waits."""
    async with SlurmClient(QUICK, {"PATH": str(tmp_path)}) as client:
        with pytest.raises(SlurmError, match="there is no sbatch in PATH"):
            await client.submit(tmp_path / "script", "a-token-of-mine")
        watch = client.watch(7)
        with pytest.raises(SlurmError, match="job 7 is no longer watched: there is no squeue in PATH"):
            await watch.changed(watch.state)
        with pytest.raises(SlurmError, match="there is no squeue"):
            await client.watch(8).changed(BatchState())


async def test_a_client_that_is_closed(cluster: Cluster, shims: Shims) -> None:
    """Who waits when the client is closed, or only begins then, gets an error and does not wait for ever."""
    async with SlurmClient(QUICK, shims.environ) as client:
        watch = await Script(cluster, extra={"hold": None}).submit(client)
        waiting = asyncio.create_task(watch.changed(await until(watch, kind("pending"))))
        await asyncio.sleep(0)

    with pytest.raises(SlurmError, match="the client of Slurm was closed"):
        await waiting
    with pytest.raises(SlurmError, match="the client of Slurm was closed"):
        await client.watch(4_000_000).changed(BatchState())


async def test_accounting(cluster: Cluster, shims: Shims, client: SlurmClient) -> None:
    """Accounting knows how a job has ended that slurmctld has forgotten; where it fails, nobody waits for it."""
    line = "4000000|CANCELLED by 1000|0:15|node1|hyperflow token-of-old|x"
    shims.replace("sacct", f"echo '{line}' | tr '|' '\\037'")

    state = await until(client.watch(4_000_000), kind("ended"))

    assert (state.slurm_state, state.reason) == ("CANCELLED", "by user 1000")
    assert await client.find(["token-of-old"]) == {"token-of-old": [4_000_000]}
    shims.replace("sacct", "echo 'sacct: error: slurmdbd: Connection refused' >&2; exit 1")
    assert await client.find(["token-of-old"]) == {"token-of-old": []}
    assert (await until(client.watch(4_000_001), kind("gone"))).final


async def test_what_the_job_gets_of_our_environment(cluster: Cluster, shims: Shims) -> None:
    """What belongs to an allocation or presets options is kept from sbatch and from the job; the user's own is not."""
    foreign = {"SLURM_CPU_BIND": "x", "SBATCH_PARTITION": "nope", "SRUN_CPUS": "x", "PMI_RANK": "x", "PMIX_RANK": "x"}
    async with SlurmClient(QUICK, {**shims.environ, **foreign, "MY_OWN": "a b"}) as client:
        script = Script(cluster, "env")
        await until(await script.submit(client), kind("ended"))

    seen = dict(line.split("=", 1) for line in script.log.read_text().splitlines() if "=" in line)
    assert seen["MY_OWN"] == "a b"
    assert not foreign.keys() & seen.keys()
    assert seen["SLURM_JOB_NAME"] == f"a_test.{script.token}"


async def test_found_by_its_token(cluster: Cluster, client: SlurmClient) -> None:
    """Jobs are found while they wait and after they have ended, not those that Slurm has refused."""
    waiting, ended, refused = (
        Script(cluster, extra={"hold": None}),
        Script(cluster),
        Script(cluster, mem="9000G"),
    )
    ids = [(await script.submit(client)).job_id for script in (waiting, ended)]
    with pytest.raises(SlurmError):
        await refused.submit(client)
    await until(client.watch(ids[1]), kind("ended"))

    found = await client.find([waiting.token, ended.token, refused.token])

    assert found == {waiting.token: [ids[0]], ended.token: [ids[1]], refused.token: []}
    assert client.calls["sacct"] == 1  # it said that there is no accounting


# --------------------------------------------------------------------------------------------- watching


async def test_slurmctld_is_away(cluster: Cluster, client: SlurmClient, caplog: pytest.LogCaptureFixture) -> None:
    """While nobody answers, states stay as they are, with one warning; afterwards everything goes on."""
    caplog.set_level(logging.INFO, "hyperflow.slurm")
    go = cluster.home / "go"
    watch = await Script(cluster, f"until [ -e {go} ]; do sleep 0.05; done").submit(client)
    running = await until(watch, kind("running"))
    cluster.faults.stop_daemon("login", "slurmctld", signal.SIGTERM)  # it writes down first what it knows
    client.wake()
    go.touch()  # it ends while nobody looks
    await wait_until(lambda: "stay as they were" in caplog.text, 40, "it is noticed")
    submitting = asyncio.create_task(Script(cluster).submit(client))
    await wait_until(lambda: client.calls["sbatch"] == 2, 40, "another is being submitted")
    assert watch.state == running
    cluster.faults.start_daemon("login", "slurmctld")

    assert (await until(watch, kind("ended"))).slurm_state == "COMPLETED"
    assert (await until(await submitting, kind("ended"))).slurm_state == "COMPLETED"
    assert caplog.text.count("stay as they were") == 1
    assert caplog.text.count("answers again") == 1


async def test_squeue_is_not_to_be_relied_on(cluster: Cluster, shims: Shims, client: SlurmClient) -> None:
    """Three of four questions fail, in several ways, and the job is still followed to its end, never thought gone."""
    count = shims.directory / "count"
    shims.replace(
        "squeue",
        f"""echo >> {count}
        case $(($(wc -l < {count}) % 4)) in
            0) exec "$REAL" "$@";;
            1) "$REAL" "$@" | head -c 99; exit 1;;
            *) echo "slurm_load_jobs error: Socket timed out on send/recv operation" >&2;;
        esac""",
    )
    watch = await Script(cluster).submit(client)

    seen = [state.kind async for state in states(watch)]

    assert seen[-1] == "ended"
    assert "gone" not in seen


async def test_a_hundred_jobs(cluster: Cluster, shims: Shims) -> None:
    """One question is for all jobs, and the questions become few when nothing happens."""
    loop = asyncio.get_running_loop()
    script = Script(cluster, extra={"hold": None})
    many = f"for i in $(seq 100); do sbatch --parsable {shlex.quote(str(script.path))}; done"
    ids = [int(line) for line in cluster.login.run(["sh", "-c", many]).stdout.split()]
    pace = PollIntervals(fast=0.1, slow=1.0)
    async with SlurmClient(pace, shims.environ) as client:
        began = loop.time()
        watches = [client.watch(job_id) for job_id in ids]
        for watch in watches:
            await until(watch, kind("pending"))
        assert client.calls["squeue"] <= 3

        enough = client.calls["squeue"] + 15  # with pauses that had stayed short, there would be more in the time
        await wait_until(lambda: client.calls["squeue"] >= enough, 50, "it has been asked some times")
        assert client.calls["squeue"] <= 8 + (loop.time() - began) / pace.slow
        assert client.calls.keys() == {"squeue"}

        last = client.calls["squeue"]
        cluster.slurm.scontrol("release", str(ids[50]))
        client.wake()
        await until(watches[50], kind("ended"))
        assert client.calls["squeue"] > last
        assert {watch.state.kind for watch in watches if watch is not watches[50]} == {"pending"}


# ------------------------------------------------------------------------------------------- the script


@pytest.mark.parametrize("odd", ["plain", "a b", "100%j", 'it\'s "so"', "$HOME `id` #x ; \u00e9", "-n"])
async def test_odd_places_and_arguments(cluster: Cluster, client: SlurmClient, odd: str) -> None:
    """Log, directory and arguments arrive as they are, whatever is in them."""
    place = cluster.home / odd
    place.mkdir()
    token = uuid.uuid4().hex
    text = batch_script(
        SbatchOptions(constraint=None, extra={"nice": "1"}, preamble="export GREETING='hello  you'"),
        name=f"{odd}, a name",
        token=token,
        command=["bash", "-c", 'printf "%s|" "$PWD" "$GREETING" "$@"', "-", odd, "", "*"],
        log_file=place / f"{odd}.log",
        directory=place,
    )
    script = cluster.home / f"{token}.sh"
    script.write_text(text)

    job_id = await client.submit(script, token)
    state = await until(client.watch(job_id), kind("ended"))

    assert state.slurm_state == "COMPLETED"
    assert (place / f"{odd}.log").read_text() == f"{place}|hello  you|{odd}||*|"
    assert await client.find([token]) == {token: [job_id]}


async def test_the_node_does_not_see_the_directory(cluster: Cluster, client: SlurmClient) -> None:
    """The job ends with a word about the base directory, and the program is not started somewhere else."""
    script = Script(cluster, "echo started")
    script.path.write_text(script.path.read_text().replace(f"cd -- {cluster.home}", "cd -- /nowhere"))

    state = await until(await script.submit(client), kind("ended"))

    assert state.exit_code == 72
    assert "has to be on a file system that all nodes share" in script.log.read_text()
    assert "started" not in script.log.read_text()


def stubs(directory: Path, **commands: str) -> dict[str, str]:
    """Write commands of Slurm, as lines of shell, and return the environment in which they are found."""
    for name, lines in {"sacct": "echo accounting storage is disabled >&2; exit 1", **commands}.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
    return {"PATH": os.pathsep.join([str(directory), os.defpath])}


@pytest.mark.process
async def test_script_is_handed_over_as_it_is(tmp_path: Path) -> None:
    """Sbatch gets the text that was made, and not what somebody has put in the place of the file meanwhile."""
    (tmp_path / "script.sh").write_text("what somebody else wrote")
    environ = stubs(tmp_path, sbatch=f'echo "$@" > {tmp_path}/words; cat > {tmp_path}/got; echo 7')
    async with SlurmClient(QUICK, environ) as client:
        assert await client.submit(tmp_path / "script.sh", "a-token", "#!/bin/sh\nmine\n") == 7
    assert (tmp_path / "got").read_text() == "#!/bin/sh\nmine\n"
    assert (tmp_path / "words").read_text() == "--parsable\n"


RECORD = (
    "JobId={} JobName=x JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 "
    "ExitCode=0:0 RunTime=00:00:00 ReqNodeList=(null) ExcNodeList=(null) NodeList=node3 BatchHost=node3 NumNodes=1 "
)


@pytest.mark.process
async def test_squeue_that_lies(tmp_path: Path) -> None:
    """While scontrol has a job, it is not gone, however often squeue leaves it out; nor while scontrol says nothing."""
    (tmp_path / "record").write_text(RECORD.format(7))
    environ = stubs(tmp_path, squeue=f"echo >> {tmp_path}/asked", scontrol=f"cat {tmp_path}/record")
    pace = PollIntervals(fast=0.01, slow=0.02, first_retry=0.01, last_retry=0.02, give_up_after=50.0, timeout=20.0)
    async with SlurmClient(pace, environ) as client:
        watch = client.watch(7)
        running = await until(watch, kind("running"))
        assert running.nodes == "node3"
        for silence in ("", "scontrol: error: something"):
            (tmp_path / "record").write_text(silence)
            asked = client.calls["scontrol"]
            await wait_until(lambda asked=asked: client.calls["scontrol"] > asked + 8, 20, "it is asked again")
            assert watch.state.kind == "running"
        stubs(tmp_path, scontrol="echo slurm_load_jobs error: Invalid job id specified >&2; exit 1")
        assert (await until(watch, kind("gone"))).final


@pytest.mark.process
async def test_squeue_that_lies_about_many(tmp_path: Path) -> None:
    """An empty answer about a hundred jobs does not make a hundred questions at once."""
    scontrol = f"echo >> {tmp_path}/asked; echo '{RECORD.format('$3')}'".replace("'", '"').replace("$3", "$3")
    environ = stubs(tmp_path, squeue="true", scontrol=scontrol)
    async with SlurmClient(QUICK, environ) as client:
        watches = [client.watch(number) for number in range(1, 101)]
        await wait_until(lambda: client.calls["squeue"] >= 4, 20, "it is asked again")
        assert client.calls["scontrol"] <= 2 * client.calls["squeue"]
        assert not any(watch.state.final for watch in watches)
