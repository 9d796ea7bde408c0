"""When progress is shown, and where: with a run that a test makes up."""

import asyncio
import io
import sys
from collections.abc import Callable

import pytest

from hyperflow.progress import display
from hyperflow.progress.stderr import drawing, is_terminal, say
from hyperflow.progress.tally import Group, Snapshot
from hyperflow.progress.view import View

ALLOWED = display.allowed

BUSY, IDLE = Snapshot((Group("f", 3, 1, running=1),)), Snapshot((Group("f", 3, 3),))


class Screen:
    """What is shown, and how it ended."""

    def __init__(self) -> None:
        self.drawn: list[Snapshot] = []
        self.closed: list[str] = []
        self.came = asyncio.Event()

    def draw(self, view: View) -> None:
        self.drawn.append(view.stands)
        self.came.set()

    def close(self, line: str) -> None:
        self.closed.append(line)
        self.came.set()


@pytest.fixture(autouse=True)
def outside_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show progress at once, as if this were no test."""
    monkeypatch.setattr(display, "allowed", lambda: True)
    for name in ("START", "PAUSE", "SHARE"):
        monkeypatch.setattr(display, name, 0.001)


@pytest.fixture
async def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """Return what stands for a terminal."""
    one = Screen()
    monkeypatch.setattr(display, "screen_here", lambda: one)
    return one


@pytest.fixture
def in_spells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an environment that stays open."""
    monkeypatch.setattr(display, "_in_spells", lambda: True)


async def test_from_the_first_evaluation_to_the_end(screen: Screen) -> None:
    """Nothing is shown before there is anything, and one line is left; idle times do not end it."""
    now = [Snapshot()]
    looks = asyncio.Event()

    def look() -> Snapshot:
        looks.set()
        return now[0]

    with display.showing(look, "RUN", wanted=True):
        for stands in (Snapshot(), BUSY, IDLE):
            now[0] = stands
            for _ in range(display.IDLE_LOOKS + 2):
                looks.clear()
                await looks.wait()
        assert not screen.closed
    assert screen.drawn[0] == BUSY
    assert screen.drawn[-1] == IDLE
    (line,) = screen.closed
    assert line.startswith("hyperflow: 3 done in 0 s; hyperflow show RUN")


@pytest.mark.usefixtures("in_spells")
async def test_spells(screen: Screen) -> None:
    """Where an environment stays open, each spell of work leaves its own line."""
    stands = BUSY
    with display.showing(lambda: stands, "RUN", wanted=True):
        while not screen.drawn:
            await screen.came.wait()
            screen.came.clear()
        stands = IDLE
        while not screen.closed:
            screen.came.clear()
            await screen.came.wait()
        stands = Snapshot((Group("f", 3, 3), Group("g", 2, 0)))
        seen = len(screen.drawn)
        while len(screen.drawn) == seen:
            screen.came.clear()
            await screen.came.wait()
        stands = Snapshot((Group("f", 3, 3), Group("g", 2, 2)))
    assert [line.partition(" in ")[0] for line in screen.closed] == ["hyperflow: 3 done", "hyperflow: 2 done"]


async def test_a_display_that_fails_costs_the_display(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on, and the screen is given back."""

    def fails(_: object, __: View) -> None:
        raise OSError("the terminal has gone")

    monkeypatch.setattr(Screen, "draw", fails)
    with display.showing(lambda: BUSY, "RUN", wanted=True):
        await screen.came.wait()
    assert screen.closed == ["hyperflow: how the run stands is not shown any more"]


@pytest.mark.parametrize("variable", ["PYTEST_CURRENT_TEST", "HYPERFLOW_SERVICE_ID", "HYPERFLOW_PROGRESS", ""])
async def test_where_it_is_quiet(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tests, on workers, where the user says so, and where the program does: not even a timer is set."""
    monkeypatch.setattr(display, "allowed", ALLOWED)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    assert display.allowed()
    if variable:
        monkeypatch.setenv(variable, "0")

    def made(*_: object) -> None:
        raise AssertionError("a display was made")

    monkeypatch.setattr(display, "Display", made)
    with display.showing(lambda: BUSY, "RUN", wanted=bool(variable)):
        pass


async def test_a_terminal_that_is_taken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that never gets it leaves its line all the same."""
    asked = asyncio.Event()

    def refused() -> None:
        asked.set()

    monkeypatch.setattr(display, "screen_here", refused)
    with display.showing(lambda: BUSY, "RUN", wanted=True):
        await asked.wait()
    assert capsys.readouterr().err.startswith("hyperflow: 1 done in 0 s; hyperflow show RUN")


def test_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file there is a line now and then; a run that has written none writes none at its end."""
    view = View(0.0)
    view.see(1.0, BUSY)
    lines = display.Lines()
    lines.draw(view)
    lines.close("the end")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(display, "BETWEEN_LINES", 0.0)
    lines.draw(view)
    lines.close("the end")
    assert capsys.readouterr().err == f"hyperflow: {view.line()}\nthe end\n"


@pytest.mark.parametrize("close", [None, io.StringIO.close])
def test_a_standard_error_that_has_gone(
    close: Callable[[io.StringIO], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no terminal, and takes no line; nothing is raised."""
    stream = io.StringIO()
    if close is not None:
        close(stream)
    monkeypatch.setattr(sys, "stderr", stream if close is not None else None)
    say("nobody hears this")
    assert not is_terminal(sys.stderr)
    assert not drawing.locked()
