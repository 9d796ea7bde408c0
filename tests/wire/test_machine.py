"""What this machine grants: the memory that is ours."""

from collections.abc import Callable

import pytest

from hyperflow.wire import machine
from hyperflow.wire.machine import Memory

GIB = 1 << 30


def files(texts: dict[str, str]) -> Callable[[str], str]:
    """Return what reads these files, and no others."""

    def read(path: str) -> str:
        if path not in texts:
            raise FileNotFoundError(path)
        return texts[path]

    return read


@pytest.mark.parametrize(
    ("texts", "environ", "memory"),
    [
        ({}, {}, None),
        ({}, {"SLURM_MEM_PER_NODE": "1024"}, Memory(GIB, "Slurm")),
        ({}, {"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "4"}, Memory(2 * GIB, "Slurm")),
        ({}, {"SLURM_MEM_PER_CPU": "512"}, None),
        ({}, {"SLURM_MEM_PER_NODE": "0"}, None),  # all of the node
        (
            {"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/memory.max": f"{GIB}\n"},
            {"SLURM_MEM_PER_NODE": "4096"},
            Memory(GIB, "control group"),
        ),
        ({"/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/a/memory.max": "max\n"}, {}, None),
        (
            {"/proc/self/cgroup": "4:memory:/c\n0::/\n", "/sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GIB}\n"},
            {},
            Memory(GIB, "control group"),
        ),
    ],
)
def test_memory(
    texts: dict[str, str], environ: dict[str, str], memory: Memory | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least that anybody allows; also where the limit is that of a group around ours, or there are no groups."""
    monkeypatch.setattr(machine, "_read", files(texts))
    monkeypatch.setattr(machine, "_all_memory", lambda: Memory(64 * GIB, "machine"))

    assert machine.memory(environ) == (memory or Memory(64 * GIB, "machine"))


def test_where_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is counted; this machine knows."""
    assert machine.memory({}).size > 0
    monkeypatch.setattr(machine, "_read", files({}))
    monkeypatch.setattr(machine, "_all_memory", Memory)
    assert machine.memory({}) == Memory()
