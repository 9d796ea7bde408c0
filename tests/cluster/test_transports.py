"""Runs in real allocations: how the nodes are reached, and that all of them are used."""

import contextlib
import shlex
import shutil
import signal
import subprocess

import pytest

from tests.cluster import daemons
from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.cluster.runs import prepare, submit
from tests.helpers import block_until
from tests.imports import TOP

NODES = ("node1", "node2", "node3")


def _connections(cluster: Cluster) -> dict[str, int]:
    return {node: cluster.connections(node) for node in cluster.nodes}


@pytest.mark.parametrize("transport", ["auto", "ssh"])
def test_one_ssh_connection_per_node(cluster: Cluster, transport: str) -> None:
    """A thousand evaluations use all nodes, through one connection to each other node and none to the head's."""
    before = _connections(cluster)

    run = submit(cluster, transport=transport)
    result = run.result()

    assert result["right"]
    assert set(result["nodes"]) == set(NODES)
    assert min(result["nodes"].values()) > 50
    assert _connections(cluster) == {
        "node1": before["node1"],
        "node2": before["node2"] + 1,
        "node3": before["node3"] + 1,
    }
    assert run.statistics()["cpus"] == 12
    assert (run.statistics()["done"], run.statistics()["failed"]) == (1000, 0)
    assert not [told for told in run.all("log") if told.value[0].startswith("asyncssh")]


def test_srun(cluster: Cluster) -> None:
    """With srun there is one step for all other nodes, and no ssh."""
    before = _connections(cluster)
    main = """
async def main():
    tell('steps', os.popen('squeue --steps --noheader --format=%i,%N').read().split())
    tell('sruns', int(os.popen("pgrep --count --exact srun").read()))
    return await thousand(quick)
"""

    run = submit(cluster, main, transport="srun")
    result = run.result()

    assert result["right"]
    assert set(result["nodes"]) == set(NODES)
    assert _connections(cluster) == before
    nodes = [step.split(",", 1)[1] for step in run.all("steps")[0].value if ".batch" not in step]
    assert nodes == ["node[2-3]"]
    # srun forks itself once
    assert run.all("sruns")[0].value == 2


def test_a_launcher_of_a_step_dies(cluster: Cluster) -> None:
    """Its node is lost, and the others of its step go on."""
    main = """
async def main():
    await hf.map_concurrently(lambda x: hf.remote_eval(held, x), range(300, 312))
    return await thousand(quick)
"""
    run = submit(cluster, main, transport="srun")
    run.wait_held("node2", "node3")
    for process in cluster.hosts["node3"].processes():
        if "hyperflow.launcher" in process.command:
            with contextlib.suppress(ProcessLookupError):  # with one of them, the others end
                process.kill()
    run.wait_logged("node node3 was lost")
    run.go()

    assert set(run.result()["nodes"]) == {"node1", "node2"}
    assert run.statistics()["nodes_lost"] == 1


def test_nodes_of_a_step_that_do_not_come(cluster: Cluster) -> None:
    """A node whose task ends is named, with what it has said; one that cannot connect to us gets a step of its own."""
    wall = "import hyperflow.launcher.call_back as c\ndef wall(*_): raise OSError('a firewall')\nc._connected = wall\n"
    (cluster.home / "other").mkdir()
    (cluster.home / "other" / "sitecustomize.py").write_text(wall)
    there = shlex.quote(f"{cluster.home}/other:{TOP}")
    prologue = f"""
        case "$(hostname)" in
        node2) echo no module named gcc >&2; exit 3;;
        node3) export PYTHONPATH={there};;
        esac
    """

    run = submit(cluster, prologue=prologue, transport="srun", min_nodes=3)
    error = run.error()

    assert error.startswith("LauncherError: 2 of 3 nodes could be started")
    assert "the launcher on node2 ended during its start: Exited with exit code 3" in error
    assert "no module named gcc" in error
    (said,) = [told.value[2] for told in run.logged("a step of its own")]
    assert said == "node3 gets a step of its own: it cannot connect to the head: a firewall"


def test_auto_falls_back_to_srun(cluster: Cluster) -> None:
    """Where ssh is refused, srun is taken, and the log says why."""
    (cluster.home / ".ssh" / "authorized_keys").unlink()
    before = _connections(cluster)

    run = submit(cluster)
    result = run.result()

    assert set(result["nodes"]) == set(NODES)
    said = [told.value[2] for told in run.logged("ssh does not work")]
    assert len(said) == 2
    assert all("does not accept our keys" in each and "srun" in each for each in said)
    assert len(run.logged("reached by srun")) == 2
    # Refused is refused: nobody knocks twice.
    assert _connections(cluster) == {
        "node1": before["node1"],
        "node2": before["node2"] + 1,
        "node3": before["node3"] + 1,
    }


def test_nodes_of_different_size(needs_cluster: None) -> None:
    """Each node gives the CPUs that were granted there."""
    with held_cluster(cpus=(1, 4, 2)) as c:
        run, command, env = prepare(c)
        c.slurm.sbatch(f"exec {command}", nodes=3, exclusive=True, env=env)

        result = run.result()

        assert run.statistics()["cpus"] == 7
        assert result["right"]
        assert result["nodes"]["node2"] > result["nodes"]["node1"]
        block_until(lambda: not c.slurm.squeue(), 10, "the job ends")


def test_salloc_on_the_login_host(cluster: Cluster) -> None:
    """In salloc on a login host no node is local: each is contacted once."""
    before = _connections(cluster)
    run, command, env = prepare(cluster)

    cluster.login.run(["salloc", "--nodes=3", "--ntasks-per-node=4", *shlex.split(command)], env=env)

    assert set(run.result()["nodes"]) == set(NODES)
    assert _connections(cluster) == {node: count + 1 for node, count in before.items()}


@pytest.mark.timeout(120)
def test_srun_with_a_terminal(cluster: Cluster) -> None:
    """In a shell that `srun --pty` gives, all nodes of the job are used."""
    run, command, env = prepare(cluster)
    inner = f"srun --pty --nodes=1 --ntasks=1 {command}"
    # srun --pty wants a terminal of its own: `script` has one to give
    outer = ["script", "-qec", f"salloc --nodes=3 --ntasks-per-node=4 {inner}", "/dev/null"]

    with cluster.login.start(outer, env=env, stdin=subprocess.PIPE):
        result = run.result(timeout=100)  # Slurm may look for free nodes every 30 s only

        assert set(result["nodes"]) == set(NODES)
        assert run.statistics()["cpus"] == 12


def test_no_allocation(cluster: Cluster) -> None:
    """Outside an allocation the error says what to do."""
    run, command, env = prepare(cluster)

    cluster.login.run(shlex.split(command), env=env)

    error = run.error()
    assert error.startswith("SlurmError")
    assert "SLURM_JOB_ID is not set" in error
    assert "sbatch" in error
    assert "run_job_local" in error


# ------------------------------------------------------------------------------------- surroundings


ENVIRONMENT = """
def look(x):
    time.sleep(0.05)
    return [hf.worker_info().node, os.environ.get("MINE"), os.environ.get("THEIRS"), os.environ.get("LOADED")]

async def main():
    found = await hf.map_concurrently(lambda x: hf.remote_eval(look, x), range(24))
    return sorted(map(list, set(map(tuple, found))), key=str)
"""


@pytest.mark.parametrize("transport", ["ssh", "srun"])
def test_variables(cluster: Cluster, transport: str) -> None:
    """Functions see the variables of the batch script on all nodes, and on other nodes what the prologue has made."""
    run = submit(
        cluster,
        ENVIRONMENT,
        before="export MINE=one THEIRS=two LANG=C; unset LOADED",
        prologue="echo what a module says\nexport THEIRS=three LOADED=yes",
        transport=transport,
    )

    nodes = {node: rest for node, *rest in run.result()}

    assert nodes.pop("node1", ["one", "two", None]) == ["one", "two", None]
    assert nodes
    assert all(values == ["one", "three", "yes"] for values in nodes.values())


def test_noise(cluster: Cluster) -> None:
    """A start-up file that prints, sshd's banner, LANG=C and a home that cannot be written to do no harm."""
    sshd = cluster.hosts["node2"]
    daemons.stop("sshd", sshd)
    (cluster.home / "banner").write_text("No smoking.\n" * 100)
    sshd.daemon([*daemons.argv("sshd", sshd), "-o", f"Banner={cluster.home}/banner"])
    (cluster.home / ".bashrc").write_text("echo welcome\necho; printf 'no newline' >&2\nseq 10000\n")
    shutil.copytree(cluster.home / ".ssh", cluster.home / "ro" / ".ssh")
    within = "unshare --mount sh -c 'mount --bind $HOME $HOME && mount -o remount,ro,bind $HOME && exec \"$@\"' -"

    run = submit(cluster, before="export LANG=C LC_ALL=C HOME=$HOME/ro", within=within, transport="ssh")

    assert run.result()["right"]
    assert run.statistics()["nodes"] == 3
    daemons.stop("sshd", sshd)


def test_a_login_shell_that_is_no_sh(cluster: Cluster) -> None:
    """A login shell that knows neither exec with variables nor functions is given one plain command."""
    shell = cluster.home / "nosh"
    # What csh, fish and others have in common: words, single quotes, and `exec`.
    shell.write_text(
        "#!/usr/bin/python3\nimport os, shlex, sys\nprint('nosh: hello')\n"
        "assert sys.argv[1] == '-c', sys.argv\nwords = shlex.split(sys.argv[2])\n"
        "assert words[0] == 'exec', words\nassert not set('`!\\n') & set(sys.argv[2]), sys.argv[2]\n"
        "sys.stdout.flush()\nos.execv(words[1], words[1:])\n"
    )
    shell.chmod(0o755)
    passwd = cluster.directory / "etc" / "passwd"
    before = passwd.read_text()
    try:
        passwd.write_text(before.replace(":/bin/bash", f":{shell}", 1))
        run = submit(cluster, transport="ssh")
        assert run.result()["right"]
        assert run.statistics()["nodes"] == 3
    finally:
        passwd.write_text(before)


def test_a_prologue_that_fails(cluster: Cluster) -> None:
    """The node is left out with the prologue's own words; without a node too few, that is the error."""
    prologue = 'if [ "$(hostname)" = node2 ]; then echo "no module named gcc" >&2; false; fi'

    run = submit(cluster, prologue=prologue, transport="ssh")
    result = run.result()

    assert set(result["nodes"]) == {"node1", "node3"}
    (warning,) = [each.value for each in run.all("warning") if "node2" in each.value and "pinned" not in each.value]
    assert "going on without a node" in warning
    assert "no module named gcc" in warning

    run = submit(cluster, prologue=prologue, transport="ssh", min_nodes=3)
    error = run.error()
    assert error.startswith("LauncherError: 2 of 3 nodes")
    assert "no module named gcc" in error


@pytest.mark.parametrize(
    ("what", "files"),
    [
        ("hyperflow", {"sitecustomize.py": "import hyperflow._version as v; v.__version__ = '77.7'"}),
        ("python", {"sitecustomize.py": "import sys; sys.version = '77.7 (main, Jan  1 2026, 00:00:00) [GCC 1.0.0]'"}),
        ("protocol", {"sitecustomize.py": "import hyperflow.wire.frames as w; w.PROTOCOL_VERSION = 77.7"}),
    ],
)
def test_another_version(cluster: Cluster, what: str, files: dict[str, str]) -> None:
    """A node with another version of something that matters is refused; the warning names both versions."""
    for name, text in files.items():
        path = cluster.home / "other" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    there = f"{cluster.home}/other:{TOP}"

    run = submit(
        cluster,
        prologue=f'if [ "$(hostname)" = node3 ]; then export PYTHONPATH={shlex.quote(there)}; fi',
        transport="ssh",
    )

    assert set(run.result()["nodes"]) == {"node1", "node2"}
    (warning,) = [each.value for each in run.all("warning") if "going on without a node" in each.value]
    assert f"{what} is " in warning
    assert "77.7 on node3" in warning


def test_another_version_of_dill(cluster: Cluster) -> None:
    """A node with another dill is used all the same; there fails only what needs dill."""
    other = cluster.home / "other"
    (other / "dill-77.7.dist-info").mkdir(parents=True)
    (other / "sitecustomize.py").write_text("import dill; dill.__version__ = '77.7'")
    main = """
async def main():
    try:
        tell("keys", list(await hf.map_concurrently(lambda _: hf.remote_eval(len, {"a": 1}.keys()), range(500))))
    except hf.SerializationError as error:
        tell("refused", str(error))
    return await thousand(quick)
"""

    run = submit(
        cluster,
        main,
        prologue=f'[ "$(hostname)" != node3 ] || export PYTHONPATH={shlex.quote(f"{other}:{TOP}")}',
        transport="ssh",
    )

    assert set(run.result()["nodes"]) == set(NODES)
    (refused,) = run.all("refused")
    assert "of len(dict_keys(['a'])): an argument could not be unpickled on the worker" in refused.value
    assert "and 77.7 where it is read" in refused.value


def test_a_shell_that_hangs(cluster: Cluster) -> None:
    """A start-up file that never ends is an error after start_timeout; sshd is asked to end it."""
    (cluster.home / ".bashrc").write_text("echo hanging\n[ $(hostname) = node2 ] && sleep 3600\n")

    run = submit(cluster, start_timeout=1.0, transport="ssh")

    assert set(run.result()["nodes"]) == {"node1", "node3"}
    (warning,) = [each.value for each in run.all("warning") if "going on without a node" in each.value]
    assert "did not say anything for 1 s" in warning
    assert "hanging" in warning
    # sshd does as it is asked for all users but root, which the tests are.
    block_until(lambda: "session_signal_req" in cluster.sshd_log("node2"), 5, "sshd is asked to kill it")
    run.cluster.slurm.wait_for(run.job)
    for process in cluster.strangers()["node2"]:
        process.kill()


def test_all_nodes_start_at_once(cluster: Cluster) -> None:
    """Each node's prologue waits for all the others': they start together, or not at all."""
    # two other nodes; a third comer would be the one that waits for ever
    meet = "touch $HOME/came.$(hostname); until [ -e $HOME/came.node2 ] && [ -e $HOME/came.node3 ]; do sleep 0.05; done"

    run = submit(cluster, prologue=meet, start_timeout=10, transport="ssh")

    assert run.result()["right"]
    assert run.statistics()["nodes"] == 3


def test_a_node_without_sshd(cluster: Cluster) -> None:
    """A node that cannot be reached is left out with one warning; too few nodes are an error that names each."""
    cluster.faults.stop_daemon("node2", "sshd")

    run = submit(cluster, transport="ssh")

    assert set(run.result()["nodes"]) == {"node1", "node3"}
    (warning,) = [each.value for each in run.all("warning") if "going on without a node" in each.value]
    assert "cannot reach node2 by ssh: no sshd answers there" in warning

    cluster.faults.stop_daemon("node3", "sshd")
    run = submit(cluster, transport="ssh", min_nodes=2)
    error = run.error()
    assert error.startswith("LauncherError: 1 of 3 nodes could be started, and min_nodes is 2")
    assert "cannot reach node2" in error
    assert "cannot reach node3" in error


CHATTER = "(for i in $(seq 3000); do echo noise of a start-up file; sleep 0.01; done) &\n"


@pytest.mark.parametrize("own", [True, False])
def test_start_up_file_that_goes_on_in_the_background(cluster: Cluster, own: bool) -> None:
    """What a start-up file has put into the background may print all the time: the launcher has its own stream."""
    (cluster.home / ".bashrc").write_text(f'[ -n "$SSH_CONNECTION" ] && {CHATTER if own else "true"}\n')

    run = submit(cluster, transport="ssh")
    result = run.result()

    assert result["right"]
    assert set(result["nodes"]) == set(NODES)
    assert run.statistics()["nodes_lost"] == 0


def test_ssh_that_cannot_run_the_launcher(cluster: Cluster) -> None:
    """Where ssh logs in, and something else is run than the launcher, srun is tried before the node is given up."""
    (cluster.home / ".bashrc").write_text('[ -n "$SSH_CONNECTION" ] && { echo only for transfers; exit 1; }\n')

    run = submit(cluster)
    result = run.result()

    assert set(result["nodes"]) == set(NODES)
    said = [told.value[2] for told in run.logged("ssh does not work")]
    assert len(said) == 2
    assert all("only for transfers" in each for each in said)


def test_no_way_works(cluster: Cluster) -> None:
    """Where neither way works, the reasons of both are told."""
    (cluster.home / ".bashrc").write_text('[ -n "$SSH_CONNECTION" ] && { echo only for transfers; exit 1; }\n')

    bad = cluster.home / "bad"
    bad.mkdir()
    (bad / "srun").write_text("#!/bin/sh\necho no steps here >&2\nexit 1\n")
    (bad / "srun").chmod(0o755)
    run = submit(cluster, before=f"export PATH={bad}:$PATH")
    run.wait("end")
    told = [each.value for each in run.all("warning") if "going on without" in each.value]

    assert set(run.result()["nodes"]) == {"node1"}
    assert all("only for transfers" in each and "no steps here" in each for each in told)


def test_sshd_that_forwards_nothing(cluster: Cluster) -> None:
    """Where sshd forwards no sockets, the launcher's stream is the session's, as ever."""
    keys = cluster.home / ".ssh" / "authorized_keys"
    keys.write_text("".join(f"no-port-forwarding {line}\n" for line in keys.read_text().splitlines()))

    run = submit(cluster, transport="ssh")

    assert set(run.result()["nodes"]) == set(NODES)


@pytest.mark.timeout(120)
def test_sshd_that_hangs(cluster: Cluster) -> None:
    """An sshd that takes the connection and says nothing holds up nobody: work is done on the others meanwhile."""
    (sshd,) = [process for process in cluster.hosts["node3"].processes() if process.name == "sshd"]
    sshd.kill(signal.SIGSTOP)
    try:
        run = submit(cluster, transport="ssh")
        result = run.result()
    finally:
        sshd.kill(signal.SIGCONT)

    assert result["right"]
    assert set(result["nodes"]) == {"node1", "node2"}
    assert run.logged("node node3 is slow to start")
