"""The other libraries, each with two workers on this machine, behind the same three calls.

Each is used as its own documentation does, in the fastest of the ways that we know of. Nothing leaves this machine.
"""

import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import attrs

from benchmarks.harness import Skipped
from benchmarks.work import WORKERS, Box, apply_to_all, apply_to_box, pid_after_a_nap

Fn = Callable[[Any], Any]
CHUNKS = 100
"""How many chunks a chunked map makes, where the peer does not choose for itself: enough to share the work evenly."""


@attrs.frozen
class Peer:
    """A library that is up.

    Args:
        one: Evaluate one call and wait for it.
        each: Evaluate a call for each item, all of them in flight.
        chunked: The same with many items to one message; None if nothing of that kind can be done.
    """

    one: Callable[[Fn, Any], Any]
    each: Callable[[Fn, Sequence[Any]], list[Any]]
    chunked: Callable[[Fn, Sequence[Any]], list[Any]] | None = None


def _of_executor(pool: Executor, *, chunks: bool = True) -> Peer:
    """Use what has the interface of concurrent.futures; `chunks`: its map knows them."""

    def each(fn: Fn, items: Sequence[Any]) -> list[Any]:
        return [future.result() for future in [pool.submit(fn, item) for item in items]]

    def chunked(fn: Fn, items: Sequence[Any]) -> list[Any]:
        if chunks:
            return list(pool.map(fn, items, chunksize=len(items) // CHUNKS))
        futures = [pool.submit(apply_to_all, fn, part) for part in _parts(items)]
        return [result for future in futures for result in future.result()]

    return Peer(lambda fn, item: pool.submit(fn, item).result(), each, chunked)


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    size = len(items) // CHUNKS
    return [items[start : start + size] for start in range(0, len(items), size)]


@contextmanager
def process_pool() -> Iterator[Peer]:
    """The standard library's ProcessPoolExecutor."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as pool:
        yield _of_executor(pool)


@contextmanager
def multiprocessing() -> Iterator[Peer]:
    """The standard library's Pool; its imap with chunks of 1 is what costs least for single calls."""
    from multiprocessing import Pool

    with Pool(WORKERS) as pool:
        yield Peer(
            lambda fn, item: pool.apply(fn, (item,)),
            lambda fn, items: list(pool.imap(fn, items, chunksize=1)),
            pool.map,
        )


@contextmanager
def multiprocessing_async() -> Iterator[Peer]:
    """The same, one apply_async for each call."""
    from multiprocessing import Pool

    with Pool(WORKERS) as pool:
        yield Peer(
            lambda fn, item: pool.apply_async(fn, (item,)).get(),
            lambda fn, items: [result.get() for result in [pool.apply_async(fn, (item,)) for item in items]],
        )


@contextmanager
def loky() -> Iterator[Peer]:
    """Of joblib's authors."""
    from loky import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as pool:
        yield _of_executor(pool)


@contextmanager
def mpire() -> Iterator[Peer]:
    """Its imap with chunks of 1, workers kept alive."""
    from mpire import WorkerPool

    with WorkerPool(WORKERS, keep_alive=True) as pool:
        yield Peer(
            lambda fn, item: pool.apply(fn, (item,)),
            lambda fn, items: list(pool.imap(fn, items, iterable_len=len(items), chunk_size=1)),
            lambda fn, items: pool.map(fn, items, iterable_len=len(items)),
        )


@contextmanager
def mpire_async() -> Iterator[Peer]:
    """The same, one apply_async for each call."""
    from mpire import WorkerPool

    with WorkerPool(WORKERS, keep_alive=True) as pool:
        yield Peer(
            lambda fn, item: pool.apply_async(fn, (item,)).get(),
            lambda fn, items: [result.get() for result in [pool.apply_async(fn, (item,)) for item in items]],
        )


@contextmanager
def executorlib() -> Iterator[Peer]:
    """With workers that stay; without them it starts a Python for each call."""
    from executorlib import SingleNodeExecutor

    with SingleNodeExecutor(max_workers=WORKERS, block_allocation=True, hostname_localhost=True) as pool:
        yield _of_executor(pool, chunks=False)


@contextmanager
def ipyparallel() -> Iterator[Peer]:
    """A controller and two engines; calls go through its load-balanced view."""
    from ipyparallel import Cluster

    cluster = Cluster(n=WORKERS, controller_ip="127.0.0.1", log_level=40)
    client = cluster.start_and_connect_sync()
    try:
        view = client.load_balanced_view()
        yield Peer(
            view.apply_sync,
            lambda fn, items: list(view.map_async(fn, items, chunksize=1)),
            lambda fn, items: list(view.map_async(fn, items, chunksize=len(items) // CHUNKS)),
        )
    finally:
        client.close()
        cluster.stop_cluster_sync()


@contextmanager
def dask() -> Iterator[Peer]:
    """Dask distributed on a LocalCluster; large arguments are scattered, as it asks for."""
    from distributed import Client, LocalCluster

    def one(fn: Fn, item: Any) -> Any:
        large = getattr(item, "nbytes", 0) > 1_000_000
        return client.submit(fn, client.scatter(item, hash=False) if large else item, pure=False).result()

    def chunked(fn: Fn, items: Sequence[Any]) -> list[Any]:
        # Chunks are boxed because Dask looks at each item of a list: 4 s for 100,000. dask.bag, which is made for this,
        # needs 84 s for a million.
        chunks = client.gather(
            client.map(apply_to_box, [fn] * CHUNKS, [Box(part) for part in _parts(items)], pure=False)
        )
        return [result for chunk in chunks for result in chunk.items]

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield Peer(one, lambda fn, items: client.gather(client.map(fn, items, pure=False)), chunked)


@contextmanager
def ray() -> Iterator[Peer]:
    """Ray with two CPUs, without its dashboard."""
    import ray as library

    def chunked(fn: Fn, items: Sequence[Any]) -> list[Any]:
        chunk = remote(apply_to_all)
        return [result for part in library.get([chunk.remote(fn, part) for part in _parts(items)]) for result in part]

    remote = functools.cache(library.remote)
    library.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        logging_level="error",
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield Peer(
            lambda fn, item: library.get(remote(fn).remote(item)),
            lambda fn, items: library.get([remote(fn).remote(item) for item in items]),
            chunked,
        )
    finally:
        library.shutdown()


@contextmanager
def parsl() -> Iterator[Peer]:
    """Parsl's HighThroughputExecutor, without looking after its blocks."""
    import parsl as library
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        label="two",
        address="127.0.0.1",
        max_workers_per_node=WORKERS,
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    config = library.Config(executors=[executor], run_dir=tempfile.mkdtemp(), strategy="none", usage_tracking=0)
    app = functools.cache(library.python_app)

    def each(fn: Fn, items: Sequence[Any]) -> list[Any]:
        return [future.result() for future in [app(fn)(item) for item in items]]

    def chunked(fn: Fn, items: Sequence[Any]) -> list[Any]:
        futures = [app(apply_to_all)(fn, part) for part in _parts(items)]
        return [result for future in futures for result in future.result()]

    with library.load(config):
        yield Peer(lambda fn, item: app(fn)(item).result(), each, chunked)


@contextmanager
def hyperqueue() -> Iterator[Peer]:
    """HyperQueue's Python tasks. They return nothing to the one who submits them; that they ended well is the check."""
    from hyperqueue import Job

    def each(fn: Fn, items: Sequence[Any]) -> list[Any]:
        job = Job()
        for item in items:
            job.function(fn, args=(item,), stdout=None, stderr=None)
        hyperqueue_run(client, job)
        return [fn(item) for item in items]

    with hyperqueue_client() as client:
        yield Peer(lambda fn, item: each(fn, [item])[0], each)


@contextmanager
def hyperqueue_client() -> Iterator[Any]:
    """Start a server with one worker of two cores."""
    from hyperqueue import LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with LocalCluster(server_dir=tempfile.mkdtemp(), worker_config=WorkerConfig(cores=WORKERS)) as cluster:
        yield cluster.client()


def hyperqueue_run(client: Any, job: Any) -> None:
    """Run a job and return when its last task has ended.

    Its own waiting looks once a second; a further task that depends on all the others says so at once.
    """
    end = Path(tempfile.mkdtemp(), "end")
    job.program(["touch", str(end)], stdout=None, stderr=None, deps=list(job.tasks))
    client.submit(job)
    while not end.exists():
        time.sleep(0.0005)


@contextmanager
def work_queue() -> Iterator[Peer]:
    """Work Queue with one worker of two cores, which its factory starts. Each of its Python tasks starts a Python."""
    try:
        import work_queue as library
    except ImportError:
        raise Skipped("Debian has it for its own Python only (python3-workqueue), PyPI has not") from None

    def each(fn: Fn, items: Sequence[Any]) -> list[Any]:
        results = [None] * len(items)
        places: dict[int, int] = {}
        for place, item in enumerate(items):
            task = library.PythonTask(fn, item)
            task.specify_cores(1)
            places[queue.submit(task)] = place
        while not queue.empty():
            if task := queue.wait(5):
                results[places[task.id]] = task.output
        return results

    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)  # its tasks run in directories of their own
    queue = library.WorkQueue(port=0)
    workers = library.Factory("local", manager_host_port=f"127.0.0.1:{queue.port}")
    workers.cores = WORKERS
    workers.min_workers = workers.max_workers = 1
    with workers:
        yield Peer(lambda fn, item: each(fn, [item])[0], each)


PEERS: dict[str, Callable[[], AbstractContextManager[Peer]]] = {
    "ProcessPoolExecutor": process_pool,
    "multiprocessing": multiprocessing,
    "multiprocessing-async": multiprocessing_async,
    "loky": loky,
    "mpire": mpire,
    "mpire-async": mpire_async,
    "executorlib": executorlib,
    "ipyparallel": ipyparallel,
    "Dask": dask,
    "Ray": ray,
    "Parsl": parsl,
    "HyperQueue": hyperqueue,
    "Work-Queue": work_queue,
}


def find_programs() -> None:
    """Put the programs of this Python's environment on the PATH, which need not be activated.

    Parsl starts its interchange.py by name.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


@contextmanager
def opened(name: str) -> Iterator[Peer]:
    """Start a peer, and wait until both of its workers have done something."""
    find_programs()
    try:
        opening = PEERS[name]()
        peer = opening.__enter__()
    except ImportError as error:
        raise Skipped(f"not installed: {error}") from error
    try:
        if name not in {"HyperQueue", "Work-Queue"}:  # each of their calls starts a Python anyway
            _warm(peer)
        yield peer
    finally:
        opening.__exit__(None, None, None)


def _warm(peer: Peer) -> None:
    deadline = time.monotonic() + 60
    seen: set[int] = set()
    while len(seen) < WORKERS:
        seen.update(peer.each(pid_after_a_nap, range(20)))
        if time.monotonic() > deadline or len(seen) > WORKERS or os.getpid() in seen:
            raise RuntimeError(f"{WORKERS} workers were asked for; work was done by {len(seen)}")
