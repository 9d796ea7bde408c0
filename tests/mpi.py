"""Open MPI for tests: the Debian package is installed when it is missing and we may; tests that need it say so."""

import os
import shutil
from pathlib import Path

import pytest

from tests.cluster import packages

NEEDS = "mpi"

PMIX = "libpmix-dev"
"""Slurm opens `libpmix.so` by that name, which on Debian only this package has: else `srun --mpi=pmix` fails."""

VARIABLES = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
"""For mpirun, which else refuses to run as root, as the tests do in a container; and for a machine of few CPUs."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Install Open MPI if any test needs it: before the first, so that its time is not taken."""
    needed = any(NEEDS in getattr(item, "fixturenames", ()) for item in session.items)
    may = os.geteuid() == 0 and shutil.which("apt-get") is not None
    if needed and may and not session.config.option.collectonly and not _is_here():
        packages.install_these(["openmpi-bin", PMIX], [])


def _is_here() -> bool:
    return shutil.which("mpirun") is not None and any(Path("/usr/lib").glob("*/pmix2/lib/libpmix.so"))


@pytest.fixture
def mpi() -> dict[str, str]:
    """Skip the test where there is no MPI; give it the variables that mpirun needs here."""
    pytest.importorskip("mpi4py", reason="no mpi4py here: pip install mpi4py")
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun here: apt-get install --no-install-recommends openmpi-bin")
    return VARIABLES
