"""Out of memory: the kernel kills an evaluation, and the error says so."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import block_until
from tests.support import environment, script

SOURCE = """
import os, sys
group = sys.argv[1]
open(group + "/cgroup.procs", "w").write(str(os.getpid()))
import asyncio
import hyperflow as hf
from hyperflow.wire.machine import MemoryKills

RECENT = MemoryKills.RECENT

def eats(n):
    if n == 13:
        kept = []
        while True:
            kept.append(bytearray(b"x") * 20_000_000)
    return n

async def child_eats():
    code = "kept = []\\nwhile True: kept.append(bytearray(b'x') * 20_000_000)"
    return (await hf.run_command([sys.executable, "-c", code])).returncode

@hf.job
async def main():
    futures = [hf.remote_eval(eats, n).start() for n in range(40)]
    got = await asyncio.gather(*futures, return_exceptions=True)
    print(type(got.pop(13)).__name__, got == [n for n in range(40) if n != 13])
    print(await hf.remote_eval(child_eats))
    print(await hf.remote_eval(eats, 1))
    try:
        await hf.remote_eval(eats, 13)
    except hf.OutOfMemory as error:
        print(str(error).splitlines()[0])
    try:
        await hf.remote_eval(eats, 13).using(memory="290M")
    except hf.MemoryLimitExceeded as error:
        print(str(error).splitlines()[0])
    await hf.remote_eval(child_eats)
    await asyncio.sleep(RECENT + 1)  # the time that has to pass is what is tested
    try:
        await hf.remote_eval(lambda: os.kill(os.getpid(), 9))
    except hf.WorkerDied as error:
        print(type(error).__name__)

hf.run_job_local(main(), cpus=2, program=hf.ProgramInfo.new("runs"))
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a control group with little memory, of version 1 or 2."""
    for top, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        place = Path(top) / f"hyperflow-test-{uuid.uuid4().hex[:8]}"
        try:
            place.mkdir()
        except OSError:
            continue
        try:
            (place / limit).write_text(str(300 << 20))
        except OSError:
            place.rmdir()
            continue
        break
    else:
        pytest.skip("no memory control group can be made here (not root, or no controller)")
    yield place
    block_until(lambda: not (place / "cgroup.procs").read_text(), 10, "the group is empty")
    place.rmdir()


def test_out_of_memory(tmp_path: Path, group: Path) -> None:
    """The evaluation that ate the memory is OutOfMemory, others are done; what kills a child is the child's."""
    done = subprocess.run(
        [sys.executable, str(script(tmp_path, SOURCE)), str(group)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:3] == ["OutOfMemory True", "-9", "1"], done.stdout + done.stderr
    assert "was killed by the kernel because memory ran out" in lines[3]
    assert os.uname().nodename.split(".")[0] in lines[3]
    assert "its limit of 290M of memory" in lines[4]
    assert lines[5] == "WorkerDied", "a plain kill is not put down to memory that ran out elsewhere, long before"
