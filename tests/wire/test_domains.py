"""Domains: which CPUs and GPUs the kernel says are close to each other."""

from pathlib import Path

from hyperflow.wire.domains import domains


def write(root: Path, name: str, text: str) -> None:
    """Write a file of the kernel's."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def test_numa_nodes(tmp_path: Path) -> None:
    """Each NUMA node with some of our CPUs is a domain, with the GPUs that hang there; numbers need not be adjacent."""
    for number, cpus in {0: "0-3,8-11", 1: "4-7", 10: "12"}.items():
        write(tmp_path, f"sys/devices/system/node/node{number}/cpulist", cpus)

    found = domains([1, 2, 5, 9], {"0": 1, "1": 0, "2": -1}, f"{tmp_path}/")

    assert found == (((1, 2, 9), ("1",)), ((5,), ("0",)))
    assert domains([1, 2], {"0": -1}, f"{tmp_path}/") == ()  # all in one: nothing to choose


def test_sockets(tmp_path: Path) -> None:
    """A machine that interleaves its memory has one NUMA node, and its sockets still have caches of their own."""
    write(tmp_path, "sys/devices/system/node/node0/cpulist", "0-7")
    for cpu in range(8):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/package_cpus_list", "0-3" if cpu < 4 else "4-7")

    assert domains([0, 3, 4], {}, f"{tmp_path}/") == (((0, 3), ()), ((4,), ()))
    assert domains([0, 3], {}, f"{tmp_path}/") == ()


def test_where_nobody_says(tmp_path: Path) -> None:
    """Without the kernel's tables, as in some sandboxes, there is one domain."""
    assert domains([0, 1], {"0": 0}, f"{tmp_path}/") == ()
    write(tmp_path, "sys/devices/system/cpu/cpu0/topology/package_cpus_list", "nonsense")
    assert domains([0, 1], {"0": 0}, f"{tmp_path}/") == ()
