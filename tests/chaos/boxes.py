"""What a run on this machine can be put into: a small disk, a control group, namespaces, a libc that lies.

Each needs root, or something that is not everywhere: where it cannot be had, NotRun says why.
"""

import functools
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path

from tests.chaos.case import NotRun
from tests.chaos.run import Run
from tests.helpers import block_until


def command(*words: str) -> None:
    """Run a command of the system; NotRun if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotRun(f"{words[0]}: {error.strerror}") from None
    if done.returncode:
        raise NotRun(f"{' '.join(words[:3])}: {done.stderr.strip()[:200]}")


# ------------------------------------------------------------------------------------------------------- disks


def mount(run: Run, place: Path, options: str) -> None:
    """Give the run a disk of its own at a place: a tmpfs with these options."""
    command("mount", "-t", "tmpfs", "-o", options, "chaos", str(place))
    run.undo.callback(subprocess.run, ["umount", "-l", str(place)], check=True)


def mount_image(run: Run) -> None:
    """Give the run a disk with a journal, in a file, as its `disk`."""
    image = run.place / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    command("mkfs.ext4", "-q", "-F", str(image))
    command("mount", "-o", "loop", str(image), str(run.disk))
    run.undo.callback(subprocess.run, ["umount", "-l", str(run.disk)], check=True)


def mount_copy(run: Run) -> None:
    """Put a copy of the image there, as a new disk. (Other namespaces may hold the old one, which has given up.)"""
    command("umount", "-l", str(run.disk))
    command("cp", str(run.place / "image"), str(run.place / "copy"))
    command("mount", "-o", "loop", str(run.place / "copy"), str(run.disk))


def remount(place: Path, options: str) -> None:
    """Change the options of a mounted disk."""
    command("mount", "-o", f"remount,{options}", str(place))


def fill(place: Path) -> None:
    """Write zeros until no byte is free."""
    with (place / "filling").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def fill_names(place: Path) -> None:
    """Make files until there is no inode."""
    (place / "fillings").mkdir()
    try:
        while True:
            (place / "fillings" / uuid.uuid4().hex).touch()
    except OSError:
        pass


def free(place: Path) -> None:
    """Remove what fills a disk."""
    (place / "filling").unlink(missing_ok=True)
    shutil.rmtree(place / "fillings", ignore_errors=True)


# ----------------------------------------------------------------------------------------------- control groups


def group(run: Run, controller: str) -> None:
    """Put the program into a new control group of version 1: `run.groups[controller]` is its directory."""
    place = run.groups[controller] = Path("/sys/fs/cgroup", controller, f"chaos-{uuid.uuid4().hex[:8]}")
    try:
        place.mkdir()
    except OSError as error:
        raise NotRun(f"no control group for {controller} here: {error}") from None
    run.undo.callback(_remove_group, place)
    run.within += ["sh", "-c", f'echo $$ > {place}/cgroup.procs && exec "$@"', "sh"]


def _remove_group(place: Path) -> None:
    block_until(lambda: not (place / "cgroup.procs").read_text(), 10, "the group is empty")
    block_until(lambda: _removed(place), 10, "the group is gone")


def _removed(place: Path) -> bool:
    try:
        place.rmdir()
    except OSError:  # what was killed a moment ago still counts
        return False
    return True


# ---------------------------------------------------------------------------------------------------- namespaces


def prepared(run: Run, script: str) -> None:
    """Run the program in a mount namespace of its own, after a script that prepares it."""
    command("unshare", "--mount", "true")
    run.within += ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh"]


def without_rights(run: Run) -> None:
    """Run the program without the rights of root: what is nobody's to read, it cannot read."""
    if os.geteuid() == 0:
        command("setpriv", "--bounding-set=-all", "true")
        run.within += ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


# ---------------------------------------------------------------------------------------------------------- lies

_building = threading.Lock()


@functools.cache
def _library() -> tempfile.TemporaryDirectory[str]:
    place = tempfile.TemporaryDirectory(prefix="chaos-lies-")
    source = Path(__file__).with_name("lies.c")
    command("cc", "-shared", "-fPIC", "-O1", "-o", f"{place.name}/lies.so", str(source), "-ldl")
    return place


def lying(run: Run) -> None:
    """Load the library that lies into the program, and all that it starts."""
    with _building:
        library = _library()
    lie(run)
    run.environment |= {"LD_PRELOAD": f"{library.name}/lies.so", "CHAOS_LIES": str(run.place / "lies")}


def lie(run: Run, wall_clock: int = 0, fsync: int = 0) -> None:
    """Say what the wall clock shows (seconds to add), and with which error fsync fails."""
    file = run.place / "lies"
    with file.open("r+b" if file.exists() else "wb") as opened:
        opened.write(struct.pack("qq", wall_clock, fsync))
