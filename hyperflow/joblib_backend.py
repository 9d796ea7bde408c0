"""joblib's backend "hyperflow", which scikit-learn and others use: `import hyperflow.joblib_backend` registers it.

    with hf.Executor(max_workers=4), joblib.parallel_config("hyperflow"):
        GridSearchCV(model, grid).fit(X, y)

Making an executor registers it, too, if joblib has been imported by then. It works on the executor that it is given
(`parallel_config("hyperflow", executor=pool)`), else on the newest one that is open, else on one of its own, which ends
with each call of joblib's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from hyperflow import executor as executors
from hyperflow import standalone


class _Backend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Sends joblib's batches to an executor."""

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(self, executor: Executor | None = None, **others: Any) -> None:
        super().__init__(**others)
        self._given = executor
        self._pool: Any = None
        self._own: standalone.Executor | None = None
        self._submitted = set[Future[Any]]()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    # joblib's own methods return nothing as far as pyright can see.
    def effective_n_jobs(self, n_jobs: int | None) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return how many batches run side by side."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        pool: Any = self._given or executors.newest()
        there: int = pool._max_workers if pool is not None else executors.Dispatcher(None).at_once
        return max(1, there + 1 + n_jobs) if n_jobs < 0 else n_jobs

    def configure(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, n_jobs: int = 1, parallel: Any = None, **_: Any
    ) -> int:
        """Begin a call of joblib's."""
        wanted = self.effective_n_jobs(n_jobs)
        if wanted == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._pool = self._given or executors.newest()
        if self._pool is None:
            self._pool = self._own = standalone.Executor(max_workers=wanted)
        return wanted

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], Any] | None = None) -> Future[Any]:
        """Evaluate a batch."""
        future: Future[Any] = self._pool.submit(func)
        self._submitted.add(future)
        future.add_done_callback(self._submitted.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch that has ended."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002 (joblib's signature)
        """Cancel what waits."""
        for future in list(self._submitted):
            future.cancel()

    def terminate(self) -> None:
        """End a call of joblib's."""
        super().terminate()
        self.reset_batch_stats()
        if self._own is not None:
            self._own.shutdown(cancel_futures=True)
            self._own = None


register_parallel_backend("hyperflow", _Backend)
