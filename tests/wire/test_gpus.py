"""Which GPUs a process may use: what its environment says, and what the drivers' files show."""

from pathlib import Path

import pytest

from hyperflow.wire import gpus
from hyperflow.wire.gpus import CUDA, HIP, OPENCL, ROCR, ZE, Card


@pytest.mark.parametrize(
    ("environ", "amd", "ids"),
    [
        ({}, False, None),
        ({CUDA: "0,1"}, False, ("0", "1")),
        ({CUDA: " GPU-5d5b , MIG-41b3/1/0"}, False, ("GPU-5d5b", "MIG-41b3/1/0")),
        ({CUDA: ""}, False, ()),
        ({CUDA: "NoDevFiles"}, False, ()),
        ({CUDA: "2,-1,3"}, False, ("2",)),  # CUDA takes nothing behind what is none
        ({CUDA: "1,1"}, False, ("1",)),
        ({ROCR: "2,3"}, True, ("2", "3")),
        ({ROCR: "2,3", HIP: "1"}, True, ("3",)),  # HIP counts those that ROCR has left
        ({ROCR: "2,3", CUDA: "1"}, True, ("3",)),  # and takes CUDA's for its own
        ({ROCR: "2,3", CUDA: "2,3", OPENCL: "2,3"}, True, ("2", "3")),  # Slurm sets all to the same
        ({HIP: "1"}, True, ("1",)),
        ({CUDA: "4", ROCR: "7"}, False, ("4",)),
        ({OPENCL: "0"}, False, ("0",)),
        ({ZE: "0,1"}, False, ("0", "1")),
        ({"SLURM_JOB_GPUS": "0-1,3"}, False, ("0", "1", "3")),
        ({"SLURM_STEP_ID": "0", "SLURM_STEP_GPUS": "1", "SLURM_JOB_GPUS": "0,1"}, False, ("1",)),
        ({"SLURM_STEP_ID": "0", "SLURM_JOB_GPUS": "0,1"}, False, None),  # inherited from another node, maybe
        ({CUDA: "0", "SLURM_JOB_GPUS": "2"}, False, ("0",)),
    ],
)
def test_what_an_environment_says(environ: dict[str, str], amd: bool, ids: tuple[str, ...] | None) -> None:
    """Each runtime's variable means what that runtime makes of it; an empty one means none."""
    found = gpus.in_environment(environ, amd)

    assert (found if found is None else found.ids) == ids


@pytest.mark.parametrize("ids", [(), ("0",), ("3", "5"), ("GPU-5d5b", "GPU-77aa"), ("MIG-41b3",)])
@pytest.mark.parametrize("amd", [False, True])
def test_a_worker_s_environment_says_its_ids_again(ids: tuple[str, ...], amd: bool) -> None:
    """What a worker starts in turn, another launcher for example, finds the worker's GPUs; or none."""
    found = gpus.in_environment(gpus.environment(ids), amd)

    assert found is not None
    assert found.ids == ids


def test_none_is_none_for_each_runtime() -> None:
    """Empty is none for CUDA and ROCr, and all for HIP and Level Zero, which get a number that there is not."""
    assert gpus.environment(()) == {CUDA: "", ROCR: "", HIP: "-1", ZE: "9999"}
    assert gpus.environment(["2", "3"]) == {CUDA: "2,3", ROCR: "2,3", HIP: "0,1", ZE: "2,3"}
    assert gpus.environment(["GPU-5d5b"])[ZE] == "9999"


def write(root: Path, **files: str) -> None:
    """Write some files; their names have two underscores for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def nvidia(root: Path, address: str, minor: int, numa: int, usable: bool = True) -> None:
    """Make a GPU of NVIDIA's driver."""
    (root / f"proc/driver/nvidia/gpus/{address}").mkdir(parents=True)
    text = f"Model: \t\t H100\nGPU UUID: \t GPU-{minor}{minor}\nDevice Minor: \t {minor}\n"
    (root / f"proc/driver/nvidia/gpus/{address}/information").write_text(text)
    (root / f"sys/bus/pci/devices/{address.lower()}").mkdir(parents=True)
    (root / f"sys/bus/pci/devices/{address.lower()}/numa_node").write_text(f"{numa}\n")
    if usable:
        write(root, **{f"dev__nvidia{minor}": ""})


def test_cards_of_nvidia(tmp_path: Path) -> None:
    """They come in the order of their addresses; those whose device file is not ours do not count."""
    root = f"{tmp_path}/"
    assert gpus.cards(root) == []

    nvidia(tmp_path, "0000:C1:00.0", minor=0, numa=1)
    nvidia(tmp_path, "0000:41:00.0", minor=2, numa=0)
    nvidia(tmp_path, "0000:81:00.0", minor=1, numa=0, usable=False)

    assert gpus.cards(root) == [Card("GPU-22", 0), Card("GPU-00", 1)]
    assert gpus.card_of("1", gpus.cards(root)) == Card("GPU-00", 1)
    assert gpus.card_of("gpu-2", gpus.cards(root)) == Card("GPU-22", 0)
    assert gpus.card_of("2", gpus.cards(root)) is None
    assert gpus.card_of("MIG-41b3", gpus.cards(root)) is None


def test_cards_in_a_container(tmp_path: Path) -> None:
    """Where the driver's table cannot be seen, the device files count."""
    write(tmp_path, dev__nvidiactl="", dev__nvidia0="", dev__nvidia3="")
    write(tmp_path, **{"dev__nvidia-uvm": ""})

    assert len(gpus.cards(f"{tmp_path}/")) == 2


def test_cards_of_amd(tmp_path: Path) -> None:
    """AMD's driver lists processors, of which some are CPUs."""
    nodes = "sys/class/kfd/kfd/topology/nodes".replace("/", "__")
    write(tmp_path, dev__kfd="", dev__dri__renderD128="", dev__dri__renderD129="")
    write(tmp_path, **{f"{nodes}__0__properties": "cpu_cores_count 64\ndrm_render_minor 0\n"})
    write(tmp_path, **{f"{nodes}__2__properties": "drm_render_minor 129\nunique_id 0\n"})
    write(tmp_path, **{f"{nodes}__10__properties": "drm_render_minor 128\nunique_id 291\n"})
    write(tmp_path, sys__class__drm__renderD128__device__numa_node="3\n")

    assert gpus.is_amd(f"{tmp_path}/")
    assert gpus.cards(f"{tmp_path}/") == [Card(), Card("GPU-0000000000000123", 3)]


def test_who_uses_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has its device open; this process has none, whatever else it has open."""
    with (tmp_path / "device").open("w"):
        assert not gpus.are_in_use()
        monkeypatch.setattr(gpus, "DEVICES", (f"{tmp_path}/dev",))
        assert gpus.are_in_use()
    assert not gpus.are_in_use()
