"""Greedy functions on a node with little memory: without `memory=`, with "auto", with what "auto" has learned, by hand.

    python -m benchmarks.memory

Each run is in a control group with LIMIT bytes, so that the kernel kills when it has no more; this takes root. Sixteen
evaluations at a time would take 100 to 160 MB each, of which six fit: half of it at once, half after two thirds of
their time. Each may be tried eleven times (`retries`); what "auto" kills does not count as a try.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import hyperflow as hf
from hyperflow.events import reader
from hyperflow.sizes import to_bytes

LIMIT = 1000 << 20
CPUS = 16
EVALUATIONS = 48
SECONDS = 1.5
BY_HAND = "180M"

MODES = {
    "nothing": "no `memory=`",
    "auto": '`memory="auto"`, nothing known',
    "again": '`memory="auto"`, a second run',
    "by hand": f'`memory="{BY_HAND}"`',
}


def greedy(megabytes: int) -> int:
    """Take memory in two steps."""
    first = bytearray(megabytes * 500_000)
    time.sleep(SECONDS * 2 / 3)
    second = bytearray(megabytes * 500_000)
    time.sleep(SECONDS / 3)
    return len(first) + len(second)


@hf.job
async def all_of_them(mode: str) -> tuple[int, int]:
    """Evaluate them; return how often one was killed and ran again, and how many have failed for good."""
    sizes = random.Random(1)
    options: hf.OptionChanges = {} if mode == "nothing" else {"memory": BY_HAND if mode == "by hand" else "auto"}
    with hf.using(retries=10, **options):
        await hf.map_concurrently(
            lambda megabytes: hf.remote_eval(greedy, megabytes),
            [sizes.randint(100, 160) for _ in range(EVALUATIONS)],
            errors="return",
        )
    env = await hf.ask()
    found = env.statistics()
    return found.retried, found.failed


def one_run(mode: str, base: Path, group: str) -> None:
    """Run in this process, which is put into a control group; print what was measured."""
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    program = hf.ProgramInfo.new(base, start_from=max(base.glob("*/results.sqlite")) if mode == "again" else None)
    began = time.monotonic()
    retried, failed = hf.run_job_local(all_of_them(mode), cpus=CPUS, memory=LIMIT - (100 << 20), program=program)
    took = time.monotonic() - began
    print(
        json.dumps(
            {"killed": retried, "failed": failed, "seconds": took, **waste(program.log_dir / "events.jsonl", mode)}
        )
    )


def waste(log: Path, mode: str) -> dict[str, float]:
    """Return what part of the time and of the memory that was given came to nothing."""
    sent: dict[int, float] = {}
    lost = useful = 0.0
    given = used = 0.0
    peaks: dict[int, int] = {}
    for event in reader.read(log):
        for task in event.get("tasks", ()):
            if event["state"] == "running":
                sent[task] = event["t"]
            elif event["state"] in ("waiting", "failed") and task in sent:
                lost += event["t"] - sent.pop(task)
            elif event["state"] == "done" and task in sent:
                took = event["t"] - sent.pop(task)
                useful += took
                if mode == "by hand":
                    given += to_bytes("", BY_HAND) * took
                    used += peaks[task] * took
        if event["state"] == "measured":
            peaks[event["of"]] = event["memory"]
        elif event["state"] == "learned":
            given, used = event["given"], event["used"]
    return {"lost": lost / (lost + useful), "memory": 1 - used / given if given else -1.0}


def main() -> None:
    """Run all, and print a table."""
    base = Path(sys.argv[1] if len(sys.argv) > 1 else "/tmp") / f"hyperflow-memory-{uuid.uuid4().hex[:8]}"
    base.mkdir()
    print("| | killed, and run again | failed | makespan | time lost in these | memory given and not used |")
    print("|---|---|---|---|---|---|")
    for mode, title in MODES.items():
        group = Path("/sys/fs/cgroup/memory") / f"hyperflow-{uuid.uuid4().hex[:8]}"
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
        command = [sys.executable, "-m", "benchmarks.memory", "run", mode, str(base), str(group)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-2000:])
            continue
        with suppress(OSError):
            group.rmdir()
        it = json.loads(done.stdout)
        memory = "" if it["memory"] < 0 else f"{it['memory']:.0%}"
        print(
            f"| {title} | {it['killed']} | {it['failed']} | {it['seconds']:.1f} s | {it['lost']:.0%} | {memory} |",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        one_run(sys.argv[2], Path(sys.argv[3]), sys.argv[4])
    else:
        main()
