"""GPUs of a machine: which ids a process may use there, from its environment and from the device files.

Guarantees: nothing is started and no device is opened, so a driver that hangs keeps nobody waiting; where there are no
GPUs this takes some microseconds.

An id is what CUDA_VISIBLE_DEVICES has: a number, a UUID, a MIG UUID. What an empty value means differs from runtime to
runtime (looked up in their sources): for CUDA and for ROCR_VISIBLE_DEVICES no GPU, for HIP_VISIBLE_DEVICES and
ZE_AFFINITY_MASK all of them. HIP counts among those that ROCR_VISIBLE_DEVICES has left.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

CUDA, ROCR, HIP, ZE = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"
OPENCL = "GPU_DEVICE_ORDINAL"

NO_HIP, NO_ZE = "-1", "9999"
"""What hides all GPUs from HIP and from Level Zero: an index that there is not."""

NO_DEVICE = frozenset(("", "-1", "none", "void", "nodevfiles"))
"""Entries that name no GPU; CUDA takes nothing behind the first of them."""

DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri/")
"""What a process holds open that uses a GPU."""


class Card(NamedTuple):
    """A GPU that a process may open; its place among them is its number for CUDA and ROCr."""

    uuid: str = ""
    numa: int = -1  # the memory node that it is close to; -1 where nobody says


class Found(NamedTuple):
    """GPUs that were found."""

    ids: tuple[str, ...] = ()
    source: str = ""  # for people: who says so; "" if nobody says anything


def in_environment(environ: Mapping[str, str], amd: bool = False) -> Found | None:
    """Return the GPUs that a process with this environment sees; None if it does not say."""
    said = {name: ids_in(environ[name]) for name in (CUDA, ROCR, HIP, OPENCL, ZE) if name in environ}
    if ROCR in said and (amd or CUDA not in said):
        inner = next((name for name in (HIP, CUDA) if said.get(name)), None)
        if inner is None or said[inner] == said[ROCR]:
            return Found(said[ROCR], ROCR)
        places = [int(each) for each in said[inner] if each.isdecimal()]
        return Found(tuple(said[ROCR][at] for at in places if at < len(said[ROCR])), f"{ROCR} and {inner}")
    for name in (HIP, CUDA, OPENCL, ZE) if amd else (CUDA, HIP, OPENCL, ZE):
        if name in said:
            return Found(said[name], name)
    name = "SLURM_JOB_GPUS" if "SLURM_STEP_ID" not in environ else "SLURM_STEP_GPUS"  # a step inherits its job's
    return Found(numbered(environ[name]), name) if environ.get(name) else None


def ids_in(text: str) -> tuple[str, ...]:
    """Return the ids of a list such as "0,1" or "GPU-5d5ba0d6,MIG-41b3"; those before the first that is none."""
    ids: list[str] = []
    for entry in text.split(","):
        if entry.strip().lower() in NO_DEVICE:
            break
        ids.append(entry.strip())
    return tuple(dict.fromkeys(ids))


def numbered(text: str) -> tuple[str, ...]:
    """Return the ids of a list as Slurm writes it: "0-1,3"."""
    ids: list[str] = []
    for part in text.split(","):
        if (found := re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())) is not None:
            ids += map(str, range(int(found[1]), int(found[2] or found[1]) + 1))
    return tuple(ids)


def cards(root: str = "/") -> list[Card]:
    """Return the GPUs that this process may open, in the order of their numbers."""
    return _nvidia(root) or _amd(root)


def is_amd(root: str = "/") -> bool:
    """Whether this machine has the driver of AMD's GPUs."""
    return os.path.exists(f"{root}dev/kfd")


def _nvidia(root: str) -> list[Card]:
    """Return those of NVIDIA: by PCI address, which is how its tools count. Not all that the driver has may be ours."""
    driver = f"{root}proc/driver/nvidia/gpus"
    found: list[Card] = []
    for address in _names(driver):
        known = dict(
            line.split(":", 1) for line in _read(f"{driver}/{address}/information").splitlines() if ":" in line
        )
        minor, uuid = known.get("Device Minor", "").strip(), known.get("GPU UUID", "").strip()
        if minor and _usable(f"{root}dev/nvidia{minor}"):
            found.append(Card(uuid, _number(f"{root}sys/bus/pci/devices/{address.lower()}/numa_node")))
    if found or not os.path.exists(f"{root}dev/nvidiactl"):
        return found
    files = (name for name in _names(f"{root}dev") if re.fullmatch(r"nvidia\d+", name))
    return [Card() for name in files if _usable(f"{root}dev/{name}")]  # a container may show no more than these


def _amd(root: str) -> list[Card]:
    """Return those of AMD, as its driver counts them. (CPUs are in its table, too, and have no device file.)"""
    if not is_amd(root):
        return []
    table = f"{root}sys/class/kfd/kfd/topology/nodes"
    found: list[Card] = []
    for node in sorted(_names(table), key=int):
        known = dict(line.split(" ", 1) for line in _read(f"{table}/{node}/properties").splitlines() if " " in line)
        minor = known.get("drm_render_minor", "0")
        if minor != "0" and _usable(f"{root}dev/dri/renderD{minor}"):
            unique = int(known.get("unique_id", "0"))
            numa = _number(f"{root}sys/class/drm/renderD{minor}/device/numa_node")
            found.append(Card(f"GPU-{unique:016x}" if unique else "", numa))
    return found


def card_of(gpu: str, there: Sequence[Card]) -> Card | None:
    """Return the card that an id means; None if there is none, or nobody can say (MIG)."""
    if gpu.isdecimal():
        return there[int(gpu)] if int(gpu) < len(there) else None
    return next((card for card in there if card.uuid and card.uuid.lower().startswith(gpu.lower())), None)


def environment(ids: Sequence[str]) -> dict[str, str]:
    """Return the variables by which a process sees these GPUs and no others."""
    listed = ",".join(ids)
    return {
        CUDA: listed,
        ROCR: listed,
        HIP: ",".join(map(str, range(len(ids)))) or NO_HIP,
        ZE: listed if ids and re.fullmatch(r"[\d.,]+", listed) else NO_ZE,
    }


def are_in_use() -> bool:
    """Whether this process holds a GPU open."""
    held: list[str] = []
    for name in _names("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue  # that of the list itself
    return any(one.startswith(DEVICES) for one in held)


def _usable(path: str) -> bool:
    """Whether we may open a device; its control group has a say, too."""
    return os.access(path, os.R_OK | os.W_OK)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _number(path: str) -> int:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else -1
