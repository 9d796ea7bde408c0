"""Libraries that take an executor give the same answers on hf.Executor as on ProcessPoolExecutor, and unchanged."""

import asyncio
import concurrent.futures as cf
import math
import multiprocessing
import os
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

import hyperflow as hf

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning")]

T = TypeVar("T")


def on_both(work: Callable[[cf.Executor], T]) -> T:
    """Do work on the standard library's executor and on ours; the answers have to be the same."""
    # By fork: the other ways leave a process of multiprocessing's behind.
    with cf.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as theirs:
        expected = work(theirs)
    with hf.Executor(max_workers=2) as ours:
        assert work(ours) == expected
    return expected


def parabola(x: float) -> float:
    """Return the value at x."""
    return (x - 0.3) ** 2


def valley(x: Any) -> float:
    """Return Rosenbrock's function."""
    return float(sum(100.0 * (x[1:] - x[:-1] ** 2.0) ** 2.0 + (1 - x[:-1]) ** 2.0))


def log_probability(x: Any) -> float:
    """Return that of a Gaussian."""
    return -0.5 * float(x @ x)


def test_run_in_executor() -> None:
    """The event loop's.run_in_executor."""

    def work(pool: cf.Executor) -> list[float]:
        async def main() -> list[float]:
            loop = asyncio.get_running_loop()
            return list(await asyncio.gather(*(loop.run_in_executor(pool, math.sqrt, x) for x in range(10))))

        return asyncio.run(main())

    assert on_both(work)[4] == 2


def test_adaptive() -> None:
    """A runner of adaptive; how many calls it keeps under way, it asks of executors that it knows only: `ntasks`."""
    adaptive: Any = pytest.importorskip("adaptive", reason="adaptive is not installed")

    def work(pool: cf.Executor) -> int:
        learner = adaptive.Learner1D(parabola, (-1, 1))
        adaptive.BlockingRunner(learner, loss_goal=0.05, executor=pool, ntasks=2)
        assert all(learner.data[x] == parabola(x) for x in learner.data)
        return len(learner.data) > 5

    assert on_both(work)


async def test_adaptive_beside_the_event_loop() -> None:
    """The runner of notebooks, in a task on the environment's own loop; adaptive closes no executor but its own."""
    adaptive: Any = pytest.importorskip("adaptive", reason="adaptive is not installed")
    learner = adaptive.Learner1D(parabola, (-1, 1))
    async with hf.open_local_job(cpus=2) as env:
        pool = env.executor()
        await adaptive.AsyncRunner(learner, npoints_goal=20, executor=pool, ntasks=2).task
        assert learner.npoints >= 20
        assert all(learner.data[x] == parabola(x) for x in learner.data)
        assert await asyncio.wrap_future(pool.submit(parabola, 0.3)) == 0


def test_scipy() -> None:
    """Workers of scipy are a function like `map`."""
    optimize: Any = pytest.importorskip("scipy.optimize", reason="scipy is not installed")

    def work(pool: cf.Executor) -> list[float]:
        found = optimize.differential_evolution(
            valley, [(-2, 2)] * 2, workers=pool.map, updating="deferred", seed=1, maxiter=5, polish=False
        )
        return list(found.x)

    assert len(on_both(work)) == 2


def test_dask() -> None:
    """One of dask's schedulers: it computes on an executor that it is given as scheduler, or as pool."""
    dask: Any = pytest.importorskip("dask", reason="dask is not installed")
    total = dask.delayed(sum)([dask.delayed(parabola)(x) for x in range(5)])

    def work(pool: cf.Executor) -> tuple[float, float]:
        with dask.config.set(scheduler=pool):
            first = total.compute()
        return first, total.compute(scheduler=pool)

    assert on_both(work)[0] == pytest.approx(sum(map(parabola, range(5))))
    with hf.Executor(max_workers=2) as ours, dask.config.set(pool=ours, scheduler="threads"):
        assert total.compute() == pytest.approx(sum(map(parabola, range(5))))


def test_emcee() -> None:
    """A pool of emcee needs a method `map`."""
    emcee: Any = pytest.importorskip("emcee", reason="emcee is not installed")
    numpy: Any = pytest.importorskip("numpy")

    def work(pool: cf.Executor) -> list[float]:
        numpy.random.seed(3)
        sampler = emcee.EnsembleSampler(8, 2, log_probability, pool=pool)
        sampler.run_mcmc(numpy.random.randn(8, 2), 10)
        return sampler.get_chain(flat=True).ravel().tolist()

    assert len(on_both(work)) == 160


def _pid(_: int) -> int:
    return os.getpid()


def test_joblib() -> None:
    """The backend "hyperflow" is there when an executor was made; without one it makes its own."""
    joblib: Any = pytest.importorskip("joblib", reason="joblib is not installed")
    calls = [joblib.delayed(parabola)(x) for x in range(20)]
    with hf.Executor(max_workers=2) as pool, joblib.parallel_config("hyperflow"):
        assert joblib.Parallel()(calls) == list(map(parabola, range(20)))
        assert os.getpid() not in joblib.Parallel()(joblib.delayed(_pid)(x) for x in range(4))
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(divmod)(1, x) for x in range(-3, 3))
        assert sorted(joblib.Parallel(return_as="generator_unordered")(calls)) == sorted(map(parabola, range(20)))
    with hf.Executor(max_workers=1), joblib.parallel_config("hyperflow", executor=pool), pytest.raises(RuntimeError):
        joblib.Parallel(n_jobs=2)(calls)  # the one that was named counts, and that was shut down
    with joblib.parallel_config("hyperflow", n_jobs=2):
        assert joblib.Parallel()(calls) == list(map(parabola, range(20)))


def test_scikit_learn() -> None:
    """scikit-learn computes by joblib."""
    joblib: Any = pytest.importorskip("joblib", reason="joblib is not installed")
    selection: Any = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed")
    linear, datasets = pytest.importorskip("sklearn.linear_model"), pytest.importorskip("sklearn.datasets")
    numbers, targets = datasets.make_regression(50, 3, random_state=0)

    def scores() -> list[float]:
        return list(selection.cross_val_score(linear.Ridge(), numbers, targets, cv=4, n_jobs=2))

    with hf.Executor(max_workers=2), joblib.parallel_config("hyperflow"):
        ours = scores()
    with joblib.parallel_config("sequential"):
        assert ours == scores()
