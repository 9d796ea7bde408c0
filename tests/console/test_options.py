"""The command line that is made from a program's function, and ours beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import pytest
from cyclopts import App, CycloptsError, Parameter

import hyperflow as hf
from hyperflow.console.options import Resources, Running, failure_policy, joined
from hyperflow.errors import ConfigurationError, MisuseError
from hyperflow.options import Resubmit


def parsed(fn: Callable[..., Any], *words: str) -> tuple[Any, Running, Resources]:
    """Return what a function is called with, and our options."""
    seen: list[tuple[Any, Running, Resources]] = []

    def run(call: Callable[[], Any], running: Running, resources: Resources) -> int:
        seen.append((call(), running, resources))
        return 7

    app = App(name="program", result_action="return_value")
    app.default(joined(fn, run))
    assert app(list(words), exit_on_error=False, print_error=False) == 7
    return seen[0]


@attrs.frozen
class Grid:
    """Points in a plane."""

    rows: int = 2
    columns: int = 2


def program(
    where: Path,
    *scales: float,
    n: int = 1,
    kind: Literal["fast", "exact"] = "fast",
    check: bool = True,
    grid: Grid | None = None,
) -> tuple[Any, ...]:
    """Search somewhere."""
    return where, scales, n, kind, check, grid


def test_types_are_those_of_the_signature() -> None:
    """Positions, numbers, choices, flags and records arrive as what the function says; ours have their defaults."""
    words = ("/tmp", "1.5", "2", "--n", "3", "--kind", "exact", "--no-check", "--grid.rows", "5")
    got, running, resources = parsed(program, *words)
    assert got == (Path("/tmp"), (1.5, 2.0), 3, "exact", False, Grid(5, 2))
    assert running == Running()
    assert resources == Resources()
    assert parsed(program, "x")[0] == (Path("x"), (), 1, "fast", True, None)


def test_our_options() -> None:
    """What concerns the run, and what is asked of Slurm."""
    words = "--local --base-dir b --max-jobs 3 --on-error retry:2 -v --time 2:00:00 --nodes 2 --mem 8G --partition p"
    _, running, resources = parsed(program, "x", *words.split())
    assert running == Running(local=True, base_dir=Path("b"), max_jobs=3, on_error="retry:2", verbose=True)
    assert resources.options() == hf.SbatchOptions(time="2:00:00", nodes=2, mem="8G", partition="p")


def test_an_option_of_the_functions_own_is_its_own() -> None:
    """Where both have an option, the plain name is the function's, and ours gets --hf- in front."""

    def mine(*, time: float, local: str = "no", v: Annotated[int, Parameter(alias="-v")] = 0) -> tuple[Any, ...]:
        return time, local, v

    got, running, resources = parsed(
        mine, "--time", "1.5", "--hf-time", "10", "--local", "yes", "--hf-local", "-v", "3"
    )
    assert got == (1.5, "yes", 3)
    assert (running.local, running.verbose, resources.time) == (True, False, "10")


def test_types_as_texts() -> None:
    """Types under `from __future__ import annotations` are found where the function is; missing ones are an error."""
    names: dict[str, Any] = {}
    exec("from __future__ import annotations\nfrom pathlib import Path\ndef f(p: Path, q: Pth = 1): return p\n", names)
    with pytest.raises(MisuseError, match=r"types of f, but name 'Pth' is not defined"):
        parsed(names["f"], "x")
    exec("from __future__ import annotations\nfrom pathlib import Path\ndef f(p: Path): return p\n", names)
    assert parsed(names["f"], "x")[0] == Path("x")


def test_cluster_functions_are_called_and_do_not_run() -> None:
    """A function under @cluster gives its flow."""

    @hf.cluster
    async def search(n: int) -> int:
        raise AssertionError

    got = parsed(search, "3")[0]
    assert repr(got) == "<Cluster search(3)>"


@pytest.mark.parametrize("words", ["x --n many", "", "x --max-jobs 0", "x --on-interrupt panic"])
def test_what_does_not_fit_is_refused(words: str) -> None:
    """Wrong types, missing arguments and impossible values are refused before anything is called."""
    with pytest.raises(CycloptsError):
        parsed(program, *words.split())


def test_resume_is_ours() -> None:
    """A function that has --resume itself could not be resumed."""

    def mine(*, resume: bool = False) -> None: ...

    with pytest.raises(MisuseError, match="choose another name"):
        parsed(mine)


def test_what_to_do_about_failures() -> None:
    """--on-error has three forms."""
    assert [failure_policy(text) for text in ("hold", "raise", "retry:3")] == ["hold", "raise", Resubmit(3)]
    for text in ("retry", "retry:0", "retry:-1", "ask", ""):
        with pytest.raises(ConfigurationError, match="hold, raise, or retry:N"):
            failure_policy(text)
