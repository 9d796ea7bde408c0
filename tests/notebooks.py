"""The notebooks of `notebooks/`, executed from scratch.

    python -m tests.notebooks              # all of them; their outputs are written into notebooks/
    python -m tests.notebooks tour         # some of them
    python -m tests.notebooks --here SOURCE TARGET     # one, in this surrounding: what runs within an allocation

Those that need Slurm run on the cluster of `tests/cluster`. Each is executed in a directory of its own.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbclient
import nbformat

from tests.cluster import packages
from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.imports import TOP

DIRECTORY = TOP / "notebooks"

LOCAL = ("tour", "adaptive_scan", "results")
SLURM = ("slurm_allocation", "cluster")

CELL_SECONDS = 120

VARIES = "varies"
"""The tag of a cell whose output is another one each time: it has times, numbers of processes or paths in it."""


def execute_here(source: Path, target: Path) -> None:
    """Execute a notebook in this process's surroundings, and write it with its outputs."""
    notebook: Any = nbformat.read(source, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(target.parent)}},
    )  # fmt: skip
    client.execute()
    notebook.metadata.language_info = {"name": "python"}
    text = nbformat.writes(notebook).replace(f"{TOP}/", "")
    target.write_text(text if text.endswith("\n") else text + "\n")


def environment(directory: Path) -> dict[str, str]:
    """Return what a kernel needs to keep all that it writes in a directory."""
    (directory / "tmp").mkdir(exist_ok=True)
    return {
        **os.environ,
        "PYTHONPATH": str(TOP),
        "IPYTHONDIR": str(directory / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(directory / "runtime"),
        "JUPYTER_CONFIG_DIR": str(directory / "config"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MPLCONFIGDIR": str(directory / "matplotlib"),
        "NO_COLOR": "1",
        "PYTHONWARNINGS": "ignore::RuntimeWarning",  # that this machine has fewer CPUs than its nodes
        "TMPDIR": str(directory / "tmp"),
    }


def _command(name: str, directory: Path) -> list[str]:
    return [sys.executable, "-m", "tests.notebooks", "--here", f"{DIRECTORY / name}.ipynb", f"{directory / name}.ipynb"]


def on_this_machine(name: str, directory: Path) -> Path:
    """Execute a notebook in a directory; return the file with its outputs."""
    done = subprocess.run(
        _command(name, directory),
        cwd=directory,
        env=environment(directory),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory / f"{name}.ipynb"


def on_cluster(name: str, directory: Path, cluster: Cluster) -> Path:
    """Execute a notebook where it belongs on a cluster."""
    run_on_cluster(_command(name, directory), name, directory, cluster)
    return directory / f"{name}.ipynb"


def run_on_cluster(command: Sequence[str], name: str, directory: Path, cluster: Cluster) -> None:
    """Run a command within an allocation of three nodes, or on the login host if its notebook asks for allocations."""
    env: dict[str, str | None] = dict(environment(directory).items() - os.environ.items())
    if name == "cluster":
        cluster.login.run(command, cwd=directory, env=env, timeout=CELL_SECONDS)
        return
    line = f"cd {shlex.quote(str(directory))} && exec {shlex.join(command)}"
    job = cluster.slurm.sbatch(line, nodes=3, ntasks_per_node=4, env=env)
    assert cluster.slurm.wait_for(job, timeout=CELL_SECONDS)["JobState"] == "COMPLETED", cluster.slurm.output(job)


def outputs(path: Path) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Give each code cell whose output is always the same, with its outputs: pictures by their kinds, texts in full."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and VARIES not in cell.metadata.get("tags", ()):
            yield cell.source, [_comparable(output) for output in cell.outputs]


def _comparable(output: Any) -> tuple[str, ...]:
    if output.output_type == "stream":
        return output.name, output.text
    if output.output_type == "error":
        return "error", output.ename, output.evalue
    return output.output_type, str(output.data.get("text/plain")), *sorted(output.data)


def _write(names: Sequence[str], execute: Callable[[str, Path], Path], within: Path) -> None:
    for name in names:
        directory = within / name
        directory.mkdir()
        text = execute(name, directory).read_text()
        (DIRECTORY / f"{name}.ipynb").write_text(text)
        print(f"notebooks/{name}.ipynb", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Execute notebooks and write their outputs."""
    if arguments[:1] == ["--here"]:
        execute_here(Path(arguments[1]), Path(arguments[2]))
        return
    names = arguments or (*LOCAL, *SLURM)
    with tempfile.TemporaryDirectory(prefix="notebooks-") as directory:
        _write([name for name in names if name in LOCAL], on_this_machine, Path(directory))
    if on_slurm := [name for name in names if name in SLURM]:
        packages.install()
        if reason := packages.obstacle():
            print(f"not executed: {', '.join(on_slurm)} ({reason})", file=sys.stderr)
            return
        with held_cluster() as cluster:
            _write(on_slurm, lambda name, directory: on_cluster(name, directory, cluster), cluster.home)


if __name__ == "__main__":
    main(sys.argv[1:])
