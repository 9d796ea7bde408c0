"""What is made of sinfo's lines, those of a large site and those that are none."""

from hypothesis import given
from hypothesis import strategies as st

from hyperflow.slurm import partitions
from hyperflow.slurm.partitions import Kind, Partition
from tests.slurm.big_site import SCONTROL, SINFO


def big_site() -> dict[str, Partition]:
    """Return the partitions of the large site, by name."""
    return {one.name: one for one in partitions.read(SINFO, SCONTROL)[0]}


def test_the_test_cluster() -> None:
    """What Slurm 22.05 says on the test cluster."""
    assert partitions.read("main*|up|infinite|3|4|1|NO|idle|(null)|node[1-3]\n") == (
        (Partition("main", True, True, None, (Kind(3, 4, 1),), ready="node[1-3]"),),
        0,
    )


def test_a_large_site() -> None:
    """Kinds of nodes, limits, GPUs and rules are those that it has; what is no line is counted, and is nothing."""
    found, unread = partitions.read(SINFO, SCONTROL)
    site = {one.name: one for one in found}

    assert unread == 5
    assert list(site) == ["debug", "regular", "gpu", "gpuold", "mixed", "cloud", "closed", "empty"]
    assert [name for name, one in site.items() if one.default] == ["regular"]
    regular = site["regular"]
    assert (regular.nodes, regular.broken, regular.cpus, regular.limit) == (3000, 12, 128, 172800.0)
    assert regular.kinds == (Kind(2992, 128, 512000), Kind(8, 256, 1024000))
    assert (regular.exclusive, regular.min_nodes, regular.max_nodes) == (True, 2, None)
    assert regular.ready == "nid[004000-004007]"
    assert site["gpu"].kinds == (Kind(60, 64, 257000, 4, "a100"), Kind(20, 64, 514000, 4, ""))
    assert (site["gpu"].accounts, site["gpu"].qos) == (("phys_g", "chem_g"), ("gpu_regular", "gpu_debug"))
    assert (site["gpu"].max_nodes, site["gpu"].memory_per_cpu) == (16, 4000)
    assert site["gpuold"].kinds == (Kind(20, 16, 64000, 4, ""),)
    assert [kind.gpus for kind in site["mixed"].kinds] == [0, 1]
    assert len(site["mixed"].with_gpus) == 1
    assert (site["cloud"].nodes, site["cloud"].ready) == (1000, "")
    assert (site["closed"].up, site["closed"].broken) == (False, 2)
    assert (site["empty"].kinds, site["empty"].cpus) == ((), 1)


@given(st.text(), st.text())
def test_anything_else(nodes: str, rules: str) -> None:
    """Whatever it says, there are only partitions whose names a batch script can have, and no error."""
    found, _ = partitions.read(nodes, rules)
    assert all(partitions.is_name(one.name) for one in found)


@given(st.lists(st.text("0123456789|:*+-ainfup(),gKUdle", max_size=12), min_size=10, max_size=10))
def test_lines_that_are_nearly_right(parts: list[str]) -> None:
    """The same for lines of the right number of fields."""
    text = "|".join(part.replace("|", "") for part in parts)
    found, unread = partitions.read(text)
    assert len(found) + unread == bool(text.strip())


def test_configuration() -> None:
    """Values may be empty, and have blanks and = in them."""
    text = (
        "Configuration data as of 2026-01-01\nTmpFS           = /local\nA = b = c\nEmpty = \n\nSlurmctld(primary) at x"
    )
    assert partitions.configuration(text) == {"TmpFS": "/local", "A": "b = c", "Empty": ""}
