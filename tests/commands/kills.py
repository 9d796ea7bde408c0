"""10,000 runs of a C program, killed half way: `python -m tests.commands.kills`.

An array on three nodes of a Slurm cluster, of which one task of a hundred fails. When half of them are done, all
processes on all hosts are killed at once, by SIGKILL. Then `hyperflow resume`; then the cause is mended, and
`hyperflow retry --tasks failed`. What happened is in a ledger, which the C program writes (`story.py`). With
`--hyperqueue PYTHON` the same is done with HyperQueue, as far as the interpreter named has its Python package.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.commands.story import Here, Story, Told, Typed, play
from tests.helpers import block_until


@attrs.frozen
class OnCluster:
    """The login host of a cluster; killed is what is left on any host, Slurm's own daemons aside."""

    cluster: Cluster

    def run(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float) -> Typed:
        return self.cluster.login.run(argv, cwd=cwd, env=env, timeout=timeout, check=False)

    def start(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path) -> subprocess.Popen[Any]:
        with log.open("ab") as output:
            return self.cluster.login.start(argv, cwd=cwd, env=env, stdout=output, stderr=output)

    def kill_all(self) -> None:
        """Stop all first, then kill all; and wait until Slurm has noticed."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for processes in self.cluster.strangers().values():
                for process in processes:
                    try:
                        process.kill(number)
                    except ProcessLookupError:
                        continue
        block_until(lambda: not any(self.cluster.strangers().values()), 30, "all have ended")
        block_until(lambda: not self.cluster.slurm.squeue(), 60, "Slurm has noticed")


def told(what: str, story: Told, tasks: int, seconds: float) -> bool:
    """Print what came of it; say whether all is as promised."""
    wrong = story.wrong(tasks)
    print(f"{what}: {tasks} tasks, {seconds:.0f} s")
    print(f"  done at the kill, by the ledger           {len(story.before)}")
    print(f"  done at the kill, by `hyperflow tasks`    {len(story.recorded)}")
    print(f"  in flight at the kill, and done again     {story.in_flight}")
    print(f"  done after the resume                     {len(story.after)}")
    print(f"  failed after the resume                   {len(story.failed)}")
    print(f"  done after the retry                      {len(story.done)}")
    print(f"  files on disk                             {story.files}")
    print(f"  {'; '.join(wrong) or 'as promised'}", flush=True)
    return not wrong


def on_cluster(tasks: int, options: Sequence[str]) -> bool:
    """Play the story on three nodes."""
    with held_cluster() as cluster:
        place = cluster.home / "story"
        place.mkdir()
        began = time.monotonic()
        story = Story(OnCluster(cluster), place, tasks, options)
        return told(f"hyperflow array {' '.join(options)}", play(story, 600), tasks, time.monotonic() - began)


def here(tasks: int) -> bool:
    """Play it on this machine."""
    with tempfile.TemporaryDirectory(prefix="hf-story-") as where:
        began = time.monotonic()
        story = Story(Here(), Path(where), tasks, ["--local"])
        return told("hyperflow array --local", play(story, 600), tasks, time.monotonic() - began)


HYPERQUEUE = """
import sys, time
from pathlib import Path
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
place, tasks, micros = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
words = [str(place / "ledger"), str(place / "entries"), str(place / "mended")]
with LocalCluster(server_dir=str(place / "server")) as cluster:
    for _ in range(3):
        cluster.start_worker(WorkerConfig(cores=4))
    client = cluster.client()
    job = Job(default_workdir=place / "files", max_fails=None)
    for number in range(1, tasks + 1):
        job.program([*words, str(number), micros])
    try:
        client.wait_for_jobs([client.submit(job)])
    except Exception as error:
        print(type(error).__name__, str(error)[:500])
"""
"""A server and three workers of four CPUs in one process: what its Python package has. There is no journal in it."""


def hyperqueue(python: str, tasks: int) -> None:
    """Play it with HyperQueue: what its package starts again knows nothing of before, so all is submitted again."""
    with tempfile.TemporaryDirectory(prefix="hf-story-") as where:
        place, here = Path(where), Here()
        (place / "files").mkdir()
        story = Story(here, place, tasks, [])
        story.compile()
        argv = [python, "-c", HYPERQUEUE, str(place), str(tasks), str(story.micros)]
        began = time.monotonic()
        with here.start(argv, cwd=place, env={}, log=place / "log") as first:
            story.wait_done(tasks // 2, first, 100)
            here.kill_all()
            first.kill()
        before = story.often("done")
        here.run(argv, cwd=place, env={}, timeout=200)
        after, failed = story.often("done"), story.often("failed")
        story.mended.touch()
        here.run(argv, cwd=place, env={}, timeout=200)
        done = story.often("done")
        print(f"HyperQueue, its Python package: {tasks} tasks, {time.monotonic() - began:.0f} s")
        print(f"  done at the kill, by the ledger           {len(before)}")
        print(f"  done twice after a new server has all     {sum(count > 1 for count in after.values())}")
        print(f"  done, and failed, then                    {len(after)}, {len(failed)}")
        print(f"  done after the third submission           {len(done)}; runs that succeeded: {done.total()}")
        print(f"  files on disk                             {sum(p.is_file() for p in place.rglob('*'))}", flush=True)


def main() -> int:
    """Play the story; the exit code says whether a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--options", default="--nodes 3 --ntasks-per-node 4 --time 30", help="where the tasks run")
    parser.add_argument("--here", action="store_true", help="on this machine, without Slurm")
    parser.add_argument("--hyperqueue", metavar="PYTHON", help="an interpreter with its package")
    chosen = parser.parse_args()
    kept = here(chosen.tasks) if chosen.here else on_cluster(chosen.tasks, chosen.options.split())
    if chosen.hyperqueue:
        hyperqueue(chosen.hyperqueue, chosen.tasks)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
