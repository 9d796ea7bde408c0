"""hyperflow in a real Jupyter kernel: cells, their interruption, what they show, and the kernel's end."""

import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.helpers import alive, wait_until
from tests.kernel import Kernel
from tests.kernel import kernel as started_kernel

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

START = "import asyncio, os, time\nimport hyperflow as hf\nenv = await hf.start_local(cpus=2)"


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Kernel]:
    """Start a kernel in which an environment was started."""
    async with started_kernel(tmp_path) as one:
        await one.works(START)
        yield one


async def test_cells(kernel: Kernel) -> None:
    """What one cell starts is in force in the next; functions and classes count as they are defined last."""
    await kernel.works("import attrs\ndef f(x): return x + 1\n@attrs.frozen\nclass P:\n    x: int")
    assert (await kernel.works("await hf.remote_map(f, range(3))")).result == "[1, 2, 3]"
    assert (await kernel.works("await hf.remote_eval(P, 3)")).result == "P(x=3)"
    await kernel.works(
        "def f(x): return P(x, -x)\n@attrs.frozen\nclass P:\n    x: int\n    y: int = 0\n"
        "    def sum(self): return self.x + self.y + 10"
    )
    assert (await kernel.works("p = await hf.remote_eval(f, 3); p, type(p) is P, p.sum()")).result == (
        "(P(x=3, y=-3), True, 10)"
    )
    assert (await kernel.works("await hf.remote_eval(P.sum, P(1, 2))")).result == "13"
    await kernel.works("with hf.using(retries=1):\n    one = await hf.ask()\nassert one.options.retries == 1")
    await kernel.works("assert (await hf.ask()).options.retries == 0")
    again = await kernel.run("env = await hf.start_local(cpus=2)")
    assert again.error.startswith("MisuseError: an environment was started in this kernel")
    await kernel.works("await env.close()")
    assert "start_local" in (await kernel.run("await hf.remote_eval(f, 3)")).error
    await kernel.works("env = await hf.start_local(cpus=1)\nassert (await hf.remote_eval(abs, -1)) == 1")


async def test_a_scope_in_a_cell(kernel: Kernel) -> None:
    """The scope form works beside what was started, and gives way to it again."""
    await kernel.works("async with hf.open_local_job(cpus=1) as inner:\n    assert await hf.ask() is inner")
    await kernel.works("assert await hf.ask() is env")


SLEEPS = """
def sleeps(path):
    open(f"{path}/{os.getpid()}", "w").close()
    time.sleep(1000)

"""


BOTH_SLEEP = "await hf.map_concurrently(lambda _: hf.remote_eval(sleeps, path), range(2))"


@pytest.mark.parametrize(
    "waits",
    [
        BOTH_SLEEP,
        "await asyncio.gather(*(hf.remote_eval(sleeps, path).start() for _ in range(2)))",
        f"async with hf.open_local_job(cpus=2): {BOTH_SLEEP}",
    ],
    ids=["flow", "futures", "scope"],
)
async def test_an_interrupted_cell(kernel: Kernel, tmp_path: Path, waits: str) -> None:
    """Its evaluations end, and so do their processes; the environment goes on."""
    place = tmp_path / "pids"
    place.mkdir()
    await kernel.works(f"path = {str(place)!r}\n{SLEEPS}")
    message = kernel.begin(waits)
    await wait_until(lambda: len(os.listdir(place)) == 2, 30, "both run")
    await kernel.manager.interrupt_kernel()
    shown = await kernel.end(message)
    assert shown.error.split(":")[0] in ("KeyboardInterrupt", "CancelledError"), shown.trace
    await wait_until(lambda: not any(alive(int(pid)) for pid in os.listdir(place)), 10, "their processes have ended")
    assert (await kernel.works("await hf.remote_eval(abs, -1), env.statistics().running")).result == "(1, 0)"


async def test_an_interrupted_cell_that_computes(kernel: Kernel) -> None:
    """A cell that computes by itself is interrupted by Python, and the environment goes on."""
    await kernel.works("await hf.remote_eval(abs, -1)")
    message = kernel.begin("print('begun', flush=True)\ntime.sleep(1000)")
    while (await kernel.client.get_iopub_msg(timeout=30))["msg_type"] != "stream":
        pass
    await kernel.manager.interrupt_kernel()
    assert (await kernel.end(message)).error.startswith("KeyboardInterrupt")
    assert (await kernel.works("await hf.remote_eval(abs, -1)")).result == "1"


PIDS = "def pid(_):\n    time.sleep(0.2)\n    return os.getpid()\n"


@pytest.mark.parametrize("how", ["close", "restart", "kill"])
async def test_the_kernels_end_leaves_no_process(kernel: Kernel, how: str, tmp_path: Path) -> None:
    """Closed, restarted or killed while evaluations run: within 10 s no process is left, nor, unless killed, a file."""
    shown = await kernel.works(f"{PIDS}print(*await hf.map_concurrently(lambda x: hf.remote_eval(pid, x), range(4)))")
    pids = {int(word) for word in shown.out.split()}
    assert pids
    assert all(map(alive, pids))
    await kernel.works("running = [hf.remote_eval(time.sleep, 1000).start() for _ in range(2)]")
    if how == "close":
        await kernel.manager.shutdown_kernel()
    elif how == "restart":
        await kernel.manager.restart_kernel()
    else:
        os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)  # type: ignore[union-attr]
    await wait_until(lambda: not any(map(alive, pids)), 10, "the workers have ended")
    if how != "kill":
        await wait_until(
            lambda: not list((tmp_path / "tmp").glob("hyperflow-*")), 10, "its temporary directory is gone"
        )


async def test_the_traceback_of_a_failure(kernel: Kernel, tmp_path: Path) -> None:
    """It has the frames of the cell and of the worker and one line that says which call it was, and none of ours."""
    await kernel.works("def inner(x):\n    return 1 / (x - 3)\n\ndef fragile(x):\n    return inner(x)")
    shown = await kernel.run("await hf.remote_eval(fragile, 3)")
    assert shown.error == "ZeroDivisionError: division by zero"
    assert "await hf.remote_eval(fragile, 3)" in shown.trace
    assert "remote Traceback" in shown.trace
    assert "in fragile" in shown.trace
    assert "return 1 / (x - 3)" in shown.trace
    assert len(re.findall(r"\(raised by evaluation \d+ of fragile\(3\) on worker-", shown.trace)) == 1
    assert "/hyperflow/" not in shown.trace.replace(str(tmp_path), ""), shown.trace
    for code in (
        "await hf.remote_map(fragile, range(5))",
        "with hf.using(retries=1): await hf.remote_map(fragile, [3])",
    ):
        shown = await kernel.run(code)
        assert shown.error == "ZeroDivisionError: division by zero"
        assert "return 1 / (x - 3)" in shown.trace
        assert "/hyperflow/" not in shown.trace.replace(str(tmp_path), ""), shown.trace


async def test_background_work_that_fails(kernel: Kernel) -> None:
    """What has failed and was not awaited is told once, at the end of the next cell; what was awaited is not."""
    await kernel.works(
        "def fragile(x): return 1 / (x - 3)\n"
        "@hf.job\nasync def of_a_job(): return await hf.remote_eval(fragile, 3.0)\n"
        "async def other(): raise LookupError('of a task')"
    )
    started = (
        "one = hf.remote_eval(fragile, 3).start()\n"
        "two = of_a_job().start()\n"
        "three = asyncio.create_task(env.run(of_a_job()))\n"
        "four = asyncio.create_task(other())\n"
        "awaited = hf.remote_eval(fragile, 3).start()\n"
    )
    begun = await kernel.works(started)
    told = (
        begun.err + (await kernel.works("await asyncio.sleep(1)\ntry: await awaited\nexcept ArithmeticError: pass")).err
    )
    assert told.count("nobody has awaited it") == 4, told
    assert told.count("LookupError: of a task") == 1
    assert told.count(" of fragile(3) on worker-") == 1
    assert told.count(" of fragile(3.0) on worker-") == 2
    assert not (await kernel.works("1")).err
    assert (await kernel.run("await one")).error.startswith("ZeroDivisionError")
    assert "awaited" not in (await kernel.works("await hf.remote_map(fragile, range(5), errors='return')")).err


async def test_run_of_a_script(kernel: Kernel, tmp_path: Path) -> None:
    """%run of a script that opens an environment of its own says in one line what to type, and that works."""
    (tmp_path / "script.py").write_text(
        "import hyperflow as hf\nprint(hf.run_job_local(hf.remote_eval(abs, -7), cpus=1))\n"
    )
    shown = await kernel.run("%run script.py")
    assert "MisuseError" in shown.error + shown.err
    assert '!"{sys.executable}" script.py' in shown.error + shown.err + shown.trace
    assert (await kernel.works('import sys\n!"{sys.executable}" script.py')).out.strip() == "7"


async def test_displays(kernel: Kernel) -> None:
    """Environments, statistics, flows, maps, failures and errors show themselves as HTML."""
    expected = {
        "env": ("JobEnv", "in force in every cell", "evaluations"),
        "env.statistics()": ("CPUs", "2 free"),
        "hf.remote_eval(abs, -1)": ("await hyperflow.remote_eval(abs, -1)",),
        "m = hf.KeyValMap[int, str]('m<1>')\nm": ("m&lt;1&gt;", "no entries yet"),
        "await m.insert(1, '<b>')\nm": ("1 entries", "&lt;b&gt;"),
        "(await hf.remote_map(lambda x: 1 // x, [0], errors='return'))[0]": ("ZeroDivisionError", "remote Traceback"),
        "try: await hf.remote_eval(os._exit, 3)\nexcept hf.WorkerDied as e: died = e\ndied": ("WorkerDied",),
    }
    for code, parts in expected.items():
        shown = await kernel.works(code)
        assert all(part in shown.html for part in parts), (code, shown)


async def test_progress(tmp_path: Path) -> None:
    """Below a cell whose evaluations take a while there is a table, and then a line; short cells show nothing."""
    async with started_kernel(tmp_path) as kernel:
        await kernel.works(
            "import os\nos.environ.pop('PYTEST_CURRENT_TEST', None)\nfrom hyperflow.progress import display\n"
            "display.START = display.PAUSE = 0.02\ndef waits(name):\n    import os, time\n"
            "    while not os.path.exists(name): time.sleep(0.01)\n" + START
        )
        message = kernel.begin("with hf.using(name='scan 3'): await hf.remote_eval(waits, 'gate')")
        table = await kernel.displayed(message, "scan 3")
        assert "2 CPUs busy" in table["text/html"]
        (tmp_path / "gate").touch()
        line = await kernel.displayed(message, "1 done in")
        assert "<table>" not in line["text/html"]
        assert "hyperflow show" in line["text/plain"]
        await kernel.works("await env.close()")
