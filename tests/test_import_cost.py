"""What is imported when: nobody waits for what he does not use. (Times are measured in the benchmarks, not here.)"""

import json
import subprocess
import sys
from types import ModuleType

import pytest

import hyperflow as hf
from hyperflow.launcher import zygote
from hyperflow.shipping import pickler
from tests.support import local

HEAVY = {"aiohttp", "asyncssh", "cattrs", "dill", "numpy", "cyclopts", "rich"}
"""What few runs need; it is imported where it is used."""

OF_A_RUN = {"sqlite3", "uvloop", "hyperflow.head.engine", "hyperflow.database.store", "hyperflow.slurm"}
"""What only a run needs, not the description of a job."""

OF_A_WORKER = {"asyncio", "attr", "inspect", "logging", "pickle", "ssl", "subprocess", "tempfile"}
"""What the launcher needs when it forks the first worker, and not while it starts."""

OF_FEW_RUNS = {
    *("secrets", "shutil", "sysconfig", "tempfile"),
    *("hyperflow.slurm", "hyperflow.transports.ssh", "hyperflow.events.packing", "hyperflow.shipping.diagnose"),
    *("hyperflow.database.fingerprint", "hyperflow.database.untagged", "hyperflow.debugging.capsule"),
}
"""What a run needs for failures, full logs, old results, functions that draw numbers, and nodes elsewhere."""

OF_A_COMMAND = HEAVY - {"cyclopts", "rich"} | {"uvloop", "hyperflow.head.engine", "hyperflow.viewing"}
"""What few commands need."""

SHOW = "\nimport json, sys; print(json.dumps(list(sys.modules)))"

DESCRIBE = """
import hyperflow as hf
@hf.job
async def flow(x):
    async with hf.open_local_job():
        return await hf.map_concurrently(lambda x: hf.remote_eval(abs, x).using(cpus=2).map(str).retry(2), range(x))
flow(3), hf.run_job_local, hf.run_job_slurm, hf.remote_map, hf.race, hf.ProgramInfo, hf.using, hf.WorkerDied
"""

SHARED = f"import importlib\nfor name in {zygote.SHARED}: importlib.import_module('hyperflow.' + name)"


def modules_after(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded after some code."""
    done = subprocess.run([sys.executable, "-c", code + SHOW], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import hyperflow", HEAVY | OF_A_RUN | OF_A_WORKER),
        ("import hyperflow.launcher.launcher", HEAVY | OF_A_RUN | OF_A_WORKER),
        (DESCRIBE, HEAVY | OF_A_RUN | {"difflib", "tomllib"}),
        (SHARED, HEAVY | OF_A_RUN | {"hyperflow._cluster"}),
        (
            "import hyperflow as hf; hf.run_job_local(hf.pure(1))",
            HEAVY | OF_FEW_RUNS | {"ctypes", "sqlite3", "hyperflow.launcher"},
        ),
        ("import hyperflow.cli.main", HEAVY - {"cyclopts", "rich"} | OF_A_RUN | {"hyperflow._job", "hyperflow.master"}),
        ("from hyperflow.cli.main import command_line; command_line(['logs'])", OF_A_COMMAND),
        ("from hyperflow.cli.main import command_line; command_line(['report'])", OF_A_COMMAND - {"hyperflow.viewing"}),
    ],
    ids=["import", "launcher", "describe", "workers", "run", "commands", "logs", "report"],
)
def test_what_is_not_needed_is_not_imported(code: str, unwanted: set[str]) -> None:
    """To import hyperflow, to start a launcher, to describe and run a job, to type a command: only what each needs."""
    loaded = modules_after(code)

    assert "hyperflow" in loaded
    needless = unwanted & loaded
    assert not needless


def loaded_modules() -> set[str]:
    """On a worker: the modules that are there from the start."""
    return set(sys.modules)


async def test_workers_find_everything_there() -> None:
    """What an evaluation may use is imported by the launcher before the first worker is forked, also for async ones."""

    async def in_async_function() -> set[str]:
        return set(sys.modules)

    async with local(cpus=1):
        with hf.using(fresh_process=True):
            found = await hf.remote_eval(loaded_modules)
            found_async = await hf.remote_eval(in_async_function)

    assert found >= {"asyncio", "pickle", "hyperflow.shipping.pickler"}
    assert found >= {f"hyperflow.{module}" for module in zygote.SHARED}
    # Beyond that an async function needs no more; what it brings itself is this module.
    assert not {name for name in found_async - found if name.startswith(("asyncio", "hyperflow"))}


def test_the_package_behaves_as_others() -> None:
    """Names are listed, `*` brings them all, submodules are attributes, an unknown name is an AttributeError."""
    everything: dict[str, object] = {}
    exec("from hyperflow import *", everything)

    assert set(hf.__all__) <= everything.keys()
    assert "hyperflow.database" in modules_after("import hyperflow; hyperflow.database.KeyValMap")
    with pytest.raises(AttributeError, match=r"module 'hyperflow' has no attribute 'remote_evla'"):
        hf.remote_evla  # type: ignore[attr-defined]  # noqa: B018 (asking is the point)


def test_the_package_travels_by_name() -> None:
    """A function that refers to hyperflow can be sent."""

    def refers() -> ModuleType:
        return hf

    assert pickler.loads(pickler.by_value(refers))() is hf
