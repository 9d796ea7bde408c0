"""The public types, as users' checkers see them. Never run: `tests/test_typing.py` says how to read the comments."""

# What is revealed is not awaited.
# mypy: disable-error-code="unused-awaitable"

import functools
from collections.abc import AsyncIterator, Iterator

import hyperflow as hf
from hyperflow.testing import open_inline_job


def area(width: float, height: float = 1.0) -> float:
    raise NotImplementedError


async def fetch(name: str, *, retries: int = 0) -> bytes:
    raise NotImplementedError


def broken(x: int) -> str | None:
    raise NotImplementedError


def names() -> Iterator[str]:
    raise NotImplementedError


def names_of(number: int) -> Iterator[str]:
    raise NotImplementedError


async def names_later(number: int) -> AsyncIterator[bytes]:
    yield bytes(number)


def joined(a: str, b: str) -> str:
    raise NotImplementedError


@hf.per_worker
def model(path: str, scale: float = 1.0) -> Iterator[list[float]]:
    raise NotImplementedError


@hf.per_worker(most=2)
def table(path: str) -> Iterator[dict[str, int]]:
    raise NotImplementedError


@hf.job
async def count(path: str, limit: int = 3) -> int:
    raise NotImplementedError


class Detector:
    """Has a job for a method."""

    @hf.job
    async def read(self, channel: int) -> list[float]:
        raise NotImplementedError


@hf.memoize("lengths", version=1)
def length(text: str) -> hf.Job[int]:
    raise NotImplementedError


@hf.cluster
async def survey(points: int) -> list[float]:
    raise NotImplementedError


@hf.memoize("boundary")
def boundary(x: float) -> hf.Cluster[float]:
    raise NotImplementedError


@hf.cluster
async def whole() -> None:
    reveal_type(survey)  # revealed: (points: int) -> Cluster[list[float]]
    reveal_type(await survey(3))  # revealed: list[float]
    reveal_type(hf.remote_eval_job(count("a")))  # revealed: Cluster[int]
    reveal_type(await hf.remote_eval_job(count("a")).using(sbatch=hf.SbatchOptions(nodes=2)))  # revealed: int
    hf.remote_eval_job(count("a")).using(sbatch="nodes=2")  # error: sbatch
    hf.remote_eval_job(count("a")).using(on_error="ignore")  # error: on_error
    reveal_type(survey(3).map(len).timeout(2))  # revealed: Cluster[int]
    reveal_type(boundary(0.5))  # revealed: Cluster[float]
    reveal_type(await hf.map_concurrently(lambda x: hf.remote_eval_job(count(x)), ["a"]))  # revealed: list[int]
    async with hf.open_cluster(local=True) as env:
        reveal_type(env)  # revealed: ClusterEnv
        reveal_type(await env.run(survey(1)))  # revealed: list[float]
        reveal_type(env.statistics().jobs)  # revealed: dict[str, int]
        env.statistics().cpus  # error: cpus
    here = await hf.ask(hf.ClusterEnv)
    reveal_type(here.statistics().jobs)  # revealed: dict[str, int]
    here.using(max_jobs=3)  # error: max_jobs


@hf.job
async def main() -> None:
    # describing
    reveal_type(count)  # revealed: (path: str, limit: int = ...) -> Job[int]
    reveal_type(count("a"))  # revealed: Job[int]
    reveal_type(await count("a", limit=2))  # revealed: int
    reveal_type(hf.pure("x"))  # revealed: Job[str]
    reveal_type(await hf.ask())  # revealed: Environment
    reveal_type(count("a").map(float))  # revealed: Job[float]
    reveal_type(count("a").map(lambda n: [n]))  # revealed: Job[list[int]]
    reveal_type(count("a").then(lambda n: hf.pure(str(n))))  # revealed: Job[str]
    reveal_type(count("a").using(cpus=4).retry(3, on=OSError).timeout(2.5))  # revealed: Job[int]
    count(3)  # error: "str"
    count()  # error: path
    count("a").then(lambda n: n)  # error:
    count("a").map(len)  # error: int
    count("a") + 1  # error:
    count("a").real  # error: "real"
    hf.job(area)  # error:

    # evaluating elsewhere
    reveal_type(hf.remote_eval(area, 2.0, height=3.0))  # revealed: Job[float]
    reveal_type(await hf.remote_command(["lmp", "-in", "x"], nodes=2).using(cpus=4))  # revealed: CommandResult
    hf.remote_command(["lmp"], launcher="ssh")  # error: launcher
    outputs: list[str | hf.Output] = ["c/", hf.Output("d", keep="node")]
    made = await hf.remote_command(["bwa", hf.File("x"), hf.Output("y")], inputs={"a": "b"}, outputs=outputs, cpus=4)
    reveal_type(made.files["y"])  # revealed: File
    hf.remote_command(["bwa"], outputs=[3])  # error: int
    reveal_type(hf.remote_eval(fetch, "x", retries=2))  # revealed: Job[bytes]
    reveal_type(await hf.remote_eval(broken, 1))  # revealed: str | None
    reveal_type(await hf.remote_eval(functools.partial(area, 2.0)))  # revealed: float
    reveal_type(await hf.remote_eval(lambda: 3))  # revealed: int
    reveal_type(await hf.remote_eval(Detector))  # revealed: Detector
    reveal_type(await hf.remote_map(broken, [1, 2]))  # revealed: list[str | None]
    reveal_type(model("a", scale=2.0))  # revealed: list[float]
    reveal_type(table("a"))  # revealed: dict[str, int]
    model(1)  # error: "str"
    reveal_type(hf.checkpoint_dir())  # revealed: Path
    reveal_type((hf.time_left(), hf.ending()))  # revealed: tuple[float, bool]
    reveal_type(await hf.remote_map(fetch, ["x"], chunk_size=3))  # revealed: list[bytes]
    hf.remote_eval(area, "wide")  # error: remote_eval
    hf.remote_eval(area)  # error:
    hf.remote_eval(fetch, "x", retry=2)  # error: retry
    hf.remote_map(broken, ["a"])  # error:
    hf.remote_map(broken, [1], chunk_size="large")  # error:

    async for number in hf.remote_stream(names_of, 3):
        reveal_type(number)  # revealed: str
    async for later in hf.remote_stream(names_later, 3).using(cpus=2):
        reveal_type(later)  # revealed: bytes
    hf.remote_stream(names_of, "three")  # error:
    hf.remote_stream(area, 1.0)  # error:
    reveal_type(hf.tree_reduce(max, [1, 2]))  # revealed: Job[int]
    reveal_type(await hf.tree_reduce(joined, [hf.pure("a"), hf.pure("b")]))  # revealed: str
    reveal_type(await hf.speculate(count("a")))  # revealed: int
    hf.speculate(3)  # error:
    hf.Semaphore("licence", "4")  # error:

    # concurrency
    reveal_type(await hf.concurrently())  # revealed: tuple[()]
    reveal_type(hf.concurrently(count("a"), hf.pure("x")))  # revealed: Job[tuple[int, str]]
    reveal_type(await hf.concurrently(count("a"), hf.pure("x"), hf.pure(1.5)))  # revealed: tuple[int, str, float]
    i, s, f = count("a"), hf.pure("x"), hf.pure(1.5)
    reveal_type(hf.concurrently(i, s, f, i, s))  # revealed: Job[tuple[int, str, float, int, str]]
    reveal_type((await hf.concurrently(i, s, f, i, s, f, i, s, f, s))[8:])  # revealed: tuple[float, str]
    reveal_type(await hf.concurrently(*[count(n) for n in "abc"]))  # revealed: tuple[int, ...]
    reveal_type(await hf.map_concurrently(count, ["a"], limit=2))  # revealed: list[int]
    reveal_type(await hf.map_concurrently(lambda n: hf.remote_eval(area, n), [1.0]))  # revealed: list[float]
    reveal_type(await hf.replicate_concurrently(3, count("a")))  # revealed: list[int]
    reveal_type(await hf.race(count("a"), count("b")))  # revealed: int
    reveal_type(hf.race(i, s))  # revealed: Job[int | str]
    reveal_type(hf.race(f, s, i, f))  # revealed: Job[float | str | int]
    reveal_type(await hf.race(*[count(n) for n in "abc"]))  # revealed: int
    async for pair in hf.as_completed(count, names()):
        reveal_type(pair)  # revealed: tuple[str, int]
    reveal_type(await hf.map_concurrently(count, ["a"], errors="return"))  # revealed: list[int | Failed]
    reveal_type(await hf.concurrently(count("a"), errors="return"))  # revealed: tuple[int | Failed]
    reveal_type(await hf.remote_map(fetch, ["x"], errors="return"))  # revealed: list[bytes | Failed]
    reveal_type(await hf.remote_map(fetch, ["x"], errors="raise"))  # revealed: list[bytes]
    async for returned in hf.as_completed(count, names(), errors="return"):
        reveal_type(returned)  # revealed: tuple[str, int | Failed]
    reveal_type(await count("a").start())  # revealed: int
    hf.map_concurrently(count, ["a"], errors="ignore")  # error:
    hf.map_concurrently(count, ["a"], return_exceptions=True)  # error:
    hf.concurrently(3)  # error:
    hf.map_concurrently(count, [1])  # error:
    hf.map_concurrently(area, [1.0])  # error:
    hf.race(area)  # error:

    # results
    reveal_type(length("abc"))  # revealed: Job[int]
    reveal_type(await length(text="abc"))  # revealed: int
    length(3)  # error: "str"

    energies = hf.KeyValMap[int, float]("energies")
    reveal_type(energies)  # revealed: KeyValMap[int, float]
    reveal_type(await energies.lookup(3))  # revealed: float | None
    await energies.insert("3", 0.5)  # error: int
    reveal_type(hf.KeyValMap("energies"))  # revealed: KeyValMap[Any, Any]
    reveal_type(hf.KeyValMap("energies", key=int, value=float))  # revealed: KeyValMap[int, float]

    # running
    async with hf.open_local_job(cpus=2) as env:
        reveal_type(env)  # revealed: JobEnv
        reveal_type(await env.run(count("a")))  # revealed: int
        reveal_type(env.statistics().done)  # revealed: int
    async with open_inline_job(cpus=2) as inline:
        reveal_type(inline)  # revealed: JobEnv
    with hf.using(cpus=4, time_limit=60) as changed:
        reveal_type(changed.options.cpus)  # revealed: int
    with hf.using(cpu=4):  # error: cpu
        count("a").using(retry=1)  # error: retry
        count("a").using(retries="1")  # error: retries
        (await hf.ask()).using(time_limits=3)  # error: time_limits
    reveal_type((await hf.ask()).statistics().cpus)  # revealed: int

    # executors
    with hf.Executor(max_workers=2, initializer=print, initargs=("x",), retries=1) as pool:
        reveal_type(pool.submit(area, 2.0, height=3.0))  # revealed: Future[float]
        reveal_type(pool.submit(fetch, "x").result())  # revealed: bytes
        reveal_type(list(pool.map(len, ["a"], chunksize=2)))  # revealed: list[int]
        pool.submit(area, "x")  # error:
    hf.Executor(retires=1)  # error: retires

    # locks and variables
    async with hf.with_lock("a"), hf.with_locks([1, ("b", 2)]):
        hf.with_locks(3)  # error:
    step = hf.ExtVar("step", 0.5, type=float)
    reveal_type(await step.get())  # revealed: float
    await step.set("fast")  # error:
    step.of("runs/1").set("fast")  # error:
    async for value in step.changes():
        reveal_type(value)  # revealed: float


hf.register_pickle_by_value(functools)
hf.register_pickle_by_value("functools")  # error:
hf.unregister_pickle_by_value(functools)
reveal_type(hf.open_results("runs/1").map("energy").where(basis="a").keys())  # revealed: list[Any]
hf.open_results(3)  # error:
reveal_type(hf.plot("loss", x=1, y=0.5))  # revealed: None
hf.plot("loss", y="high")  # error:
hf.plot("loss", 1, 2)  # error:
hf.memoize("f", ignore=("verbose",), version=None)  # error:
reveal_type(hf.run_job_local(main()))  # revealed: None
reveal_type(hf.run_job_local(count("a"), cpus=2))  # revealed: int
reveal_type(hf.run_job_local(count("a"), gpus=["0"], memory="8G", resources={"licence": 4}))  # revealed: int
hf.run_job_local(count("a"), gpus=2)  # error: gpus
hf.run_job_slurm(count("a"), gpus=[], memory=8_000_000_000)
reveal_type(hf.run_job_pool(count("a"), hf.NodePool(hf.SbatchOptions(nodes=2), idle_timeout="5m")))  # revealed: int
reveal_type(hf.run_job_pool(count("a"), "mine", exclude_nodes="node7"))  # revealed: int
hf.run_job_pool(count("a"))  # error: pool
hf.run_job_pool(fetch("x"), "mine")  # error:
hf.Executor(2, machine={"gpus": ["0"], "memory": "8G"}, gpus=0.5)
hf.Executor(2, machine={"cpus": 2})  # error: machine
reveal_type(hf.worker_info().gpus)  # revealed: tuple[str, ...]
reveal_type(Detector().read(3))  # revealed: Job[list[float]]
hf.run_job_local(main)  # error:
hf.run_job_local(fetch("x"))  # error:


def program() -> None:
    """Hold what does not return."""
    hf.main(area)  # error:
