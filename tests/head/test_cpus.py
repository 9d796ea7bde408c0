"""CPUs: how many an evaluation gets, which, that nobody else has them at the time, and who waits for them."""

import asyncio
import linecache
import os
import warnings
from pathlib import Path

import pytest

import hyperflow as hf
from tests import functions as f
from tests.helpers import wait_until
from tests.support import Gate, local, run_script, wait_at

MACHINE = sorted(os.sched_getaffinity(0))


async def test_each_id_once_at_a_time() -> None:
    """Evaluations of one to four CPUs that run at the same time never share an id, and have all that they asked for."""
    async with local(cpus=4):
        sizes = [1, 3, 2, 1, 4, 1, 1, 2, 3, 1] * 4
        flows = [hf.remote_eval(f.interval, 0.002 * (n % 4)).using(cpus=size) for n, size in enumerate(sizes)]
        ran = await hf.concurrently(*flows)
    assert [len(set(cpus)) for cpus, _, _, _ in ran] == sizes
    for n, (cpus, _, start, end) in enumerate(ran):
        for others, _, other_start, other_end in ran[:n]:
            assert not (start < other_end and other_start < end and set(cpus) & set(others)), (cpus, others)
    assert {cpu for cpus, _, _, _ in ran for cpu in cpus} == set(range(4) if len(MACHINE) < 4 else MACHINE[:4])


async def test_pinned_where_possible() -> None:
    """A worker may run on its own CPUs only; its CPU ids are some of this process's."""
    async with hf.open_local_job():
        ran = await hf.replicate_concurrently(2 * len(MACHINE), hf.remote_eval(f.interval, 0.005))
        whole = await hf.remote_eval(f.interval, 0.0).using(cpus=len(MACHINE))
    assert all(cpus == affinity and len(cpus) == 1 for cpus, affinity, _, _ in ran)
    assert {cpus[0] for cpus, _, _, _ in ran} <= set(MACHINE)
    assert whole[0] == whole[1] == tuple(MACHINE)


async def test_children_are_pinned_too() -> None:
    """What a function starts stays on the function's CPUs."""

    def of_child() -> tuple[str, str]:
        import subprocess

        words = ["grep", "Cpus_allowed_list", "/proc/self/status"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[1], str(os.getpid())

    async with hf.open_local_job():
        (allowed, _), info = await hf.remote_eval(lambda: (of_child(), hf.worker_info()))
    assert allowed == str(info.cpus[0])


async def test_fewer_cpus_than_there_are() -> None:
    """cpus=1 uses one CPU, whatever the machine has."""
    async with hf.open_local_job(cpus=1) as env:
        ran = await hf.replicate_concurrently(4, hf.remote_eval(f.interval, 0.005))
        assert env.statistics().cpus == 1
    assert {cpus for cpus, _, _, _ in ran} == {(MACHINE[0],)}


async def test_more_cpus_than_there_are(tmp_path: Path) -> None:
    """More CPUs than there are: as many evaluations as asked for run at a time, unpinned, with exactly one warning."""
    gate = Gate(tmp_path)
    many = len(MACHINE) + 3
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        async with hf.open_local_job(cpus=many) as env:
            waiting = [hf.remote_eval(wait_at, gate.path).start() for _ in range(many)]
            await gate.wait_inside(many)
            gate.open()
            await asyncio.gather(*waiting)
            cpus, affinity, _, _ = await hf.remote_eval(f.interval, 0.0).using(cpus=many)
            assert env.statistics().cpus == many
            assert not (await hf.remote_eval(hf.worker_info)).pinned
    assert len(cpus) == many
    assert list(affinity) == MACHINE
    assert [str(w.message) for w in seen if issubclass(w.category, RuntimeWarning)] == [
        text for w in seen if f"{many} CPUs were asked for" in (text := str(w.message))
    ]
    assert len(seen) == 1
    assert seen[0].filename == __file__  # and not asyncio's
    assert "hf.open_local_job(cpus=many)" in linecache.getline(__file__, seen[0].lineno)


def test_the_warning_names_the_line_of_run_job_local() -> None:
    """Not one of hyperflow's or asyncio's, but the user's."""
    with pytest.warns(RuntimeWarning, match="nothing is pinned") as seen:
        hf.run_job_local(hf.pure(1), cpus=len(MACHINE) + 3)
    assert "hf.run_job_local" in linecache.getline(seen[0].filename, seen[0].lineno)


async def test_thread_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numerical libraries are told how many threads: as many as the evaluation has CPUs, unless the user said so."""
    for name in f.threads():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    async with local(cpus=3):
        one = await hf.remote_eval(f.threads)
        three = await hf.remote_eval(f.threads).using(cpus=3)
    assert one == {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "7"}
    assert three == {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "MKL_NUM_THREADS": "7"}


async def test_large_request_is_not_starved() -> None:
    """A request of all CPUs gets them while small ones keep coming without an end."""
    async with local(cpus=3):
        ended = False
        later = 0

        async def stream() -> None:
            nonlocal later
            while not ended:
                await hf.remote_eval(f.spin, 0.002)
                later += 1

        streams = [asyncio.ensure_future(stream()) for _ in range(9)]
        await wait_until(lambda: later > 20, 20, "the stream")
        async with asyncio.timeout(40):
            cpus, *_ = await hf.remote_eval(f.interval, 0.0).using(cpus=3)
        assert len(cpus) == 3
        ended = True
        await asyncio.gather(*streams)


async def test_options_hold_for_a_scope() -> None:
    """using() as a scope changes what evaluations started in it ask for, and nothing else."""
    async with local(cpus=4):
        with hf.using(cpus=2):
            two = hf.remote_eval(f.interval, 0.0).start()
            with hf.using(cpus=3):
                three = hf.remote_eval(f.interval, 0.0).start()
        one = await hf.remote_eval(f.interval, 0.0)
        assert [len(ran[0]) for ran in (one, await two, await three)] == [1, 2, 3]


def test_affinity_of_the_user_is_kept(tmp_path: Path) -> None:
    """A program under taskset uses the CPUs that it was given."""
    source = f"""
import os
os.sched_setaffinity(0, {{ {MACHINE[-1]} }})
import hyperflow as hf
print(hf.run_job_local(hf.remote_eval(lambda: (hf.worker_info().cpus, sorted(os.sched_getaffinity(0))))))
"""
    assert run_script(tmp_path, source).strip() == f"(({MACHINE[-1]},), [{MACHINE[-1]}])"
