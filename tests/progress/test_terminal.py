"""Progress on a terminal: programs as users start them, and what is left on the screen."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from hyperflow.progress.tally import Group, Snapshot
from hyperflow.progress.terminal import drawn
from hyperflow.progress.view import View
from tests.progress.screens import on_it, shown

BEGIN = """
import asyncio, logging, os, sys, time
import hyperflow as hf
from hyperflow.progress import display

display.START = display.PAUSE = 0.02

def waits(name):
    while not os.path.exists(name):
        time.sleep(0.01)
    return name

async def seen(name):
    while not os.path.exists(name):
        await asyncio.sleep(0.01)
"""

SCAN = (
    BEGIN
    + """
logging.basicConfig(format="%(message)s")

def talks(name):
    print("printed on a worker")
    return waits(name)

@hf.job
async def scan():
    print("begun")
    with hf.using(name="scan 3"):
        one = hf.remote_eval(talks, "gate").start()
        other = hf.remote_eval(waits, "gate").start()
    await seen("speak")
    print("a line of the program, " + 20 * "very " + "long")
    logging.warning("a line of its log")
    print("half a line", end="")
    return await one, await other

print(hf.run_job_local(scan(), cpus=1, echo=True))
"""
)


def test_a_terminal_as_the_tests_have_it() -> None:
    """Lines that are drawn over, erased and gone back to are as on a real one."""
    assert on_it("one\r\ntwo\r\n") == ["one", "two", ""]
    assert on_it("one\r\ntwo\r\x1b[2K\x1b[1A\x1b[2Kthree") == ["three", ""]
    assert on_it("\x1b[1mbold\x1b[0m\rB") == ["Bold"]


def test_it_is_shown_and_leaves_one_line(tmp_path: Path) -> None:
    """What the program prints, its log and echoed lines stand above it, whole; in the end one line stands for it."""
    with shown(tmp_path, SCAN) as screen:
        screen.wait_for("1 of 1 CPU busy, 1 node")
        row = next(line for line in screen.lines if line.startswith("scan 3"))
        assert row.split() == ["scan", "3", "1", "1"]  # one runs, one waits
        (tmp_path / "speak").touch()
        screen.wait_for("a line of its log")
        screen.wait_for("printed on a worker")
        (tmp_path / "gate").touch()
        lines = screen.end()
    assert screen.process.returncode == 0
    text = "\n".join(lines)
    assert text.count("scan 3") == 1, text  # in the echoed line's title
    assert "half a line" in lines
    assert "a line of its log" in lines
    assert "a line of the program, " + 20 * "very " + "long" in "".join(lines)
    echoed, last, result = [line for line in lines if re.match(r"\d\d:\d\d:\d\d \[#|hyperflow:|\('gate", line)]
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[#1 scan 3: talks\('gate'\) worker-\d+@\S+\] printed on a worker", echoed)
    assert re.fullmatch(r"hyperflow: 2 done in \d+ s, 1 CPU; hyperflow show \S+", last)
    assert result == "('gate', 'gate')"
    assert "\x1b[?25l" not in screen.written  # else a kill would leave a terminal without a cursor


@pytest.mark.parametrize("way", ["Ctrl-C", "error"])
def test_it_ends_with_the_program(tmp_path: Path, way: str) -> None:
    """After Ctrl-C or an error the screen has its line and the traceback, and nothing of the table."""
    source = BEGIN + (
        "\n@hf.job\nasync def fails():\n    one = hf.remote_eval(waits, 'gate').start()\n"
        "    await seen('fail')\n    raise ValueError('as told')\nhf.run_job_local(fails(), cpus=1)\n"
    )
    with shown(tmp_path, source) as screen:
        screen.wait_for("1 of 1 CPU busy")
        if way == "Ctrl-C":
            screen.type("\x03")
        else:
            (tmp_path / "fail").touch()
        lines = screen.end()
    text = "\n".join(lines)
    assert ("KeyboardInterrupt" if way == "Ctrl-C" else "ValueError: as told") in text
    assert "CPU busy" not in text
    assert "function or name" not in text
    assert sum(line.startswith("hyperflow: 0 done") for line in lines) == 1, text


@pytest.mark.parametrize(
    ("argument", "variables"), [(", progress=False", {}), ("", {"HYPERFLOW_PROGRESS": "0"}), ("", {"TERM": "dumb"})]
)
def test_it_can_be_switched_off(tmp_path: Path, argument: str, variables: dict[str, str]) -> None:
    """By the program, by the user, and where a terminal cannot draw."""
    source = BEGIN + (
        "\n@hf.job\nasync def quiet():\n    one = hf.remote_eval(waits, 'gate').start()\n"
        "    await seen('gate')\n    return await one\n"
        f"print(hf.run_job_local(quiet(), cpus=1{argument}), 'rich' in sys.modules)\n"
    )
    with shown(tmp_path, source, **variables) as screen:
        (tmp_path / "gate").touch()
        assert screen.end() == ["gate False"]


def test_a_short_run_shows_nothing(tmp_path: Path) -> None:
    """One that ends within the first second imports nothing for it and writes nothing."""
    source = BEGIN.replace("0.02", "30.0") + "\nprint(hf.run_job_local(hf.remote_eval(abs, -1), cpus=1))\n"
    source += "print('rich' in sys.modules)\n"
    with shown(tmp_path, source) as screen:
        assert screen.end() == ["1", "False"]


def test_several_environments(tmp_path: Path) -> None:
    """One of them has the terminal at a time; each leaves its line."""
    source = BEGIN + (
        "\nasync def main():\n"
        "    async with hf.open_local_job(cpus=1) as one, hf.open_local_job(cpus=1) as two:\n"
        "        first = asyncio.ensure_future(one.run(hf.remote_eval(waits, 'gate').using(name='first')))\n"
        "        await asyncio.sleep(0)\n"
        "        second = asyncio.ensure_future(two.run(hf.remote_eval(waits, 'gate').using(name='second')))\n"
        "        await asyncio.gather(first, second)\n"
        "asyncio.run(main())\n"
    )
    with shown(tmp_path, source) as screen:
        screen.wait_for("1 of 1 CPU busy")
        (tmp_path / "gate").touch()
        lines = screen.end()
    assert [line.partition(" in ")[0] for line in lines] == ["hyperflow: 1 done"] * 2, lines


def test_in_a_pipe_a_line_now_and_then(tmp_path: Path) -> None:
    """Where there is no terminal there are lines, and one at the end; standard output has none of it."""
    source = BEGIN + (
        "\ndisplay.BETWEEN_LINES = 0.0\nreal, sys.stderr = sys.stderr, open('log', 'w')\n"
        "@hf.job\nasync def scan():\n    await hf.remote_map(abs, range(100))\n"
        "    one = hf.remote_eval(waits, 'gate').start()\n    await seen('gate')\n    return await one\n"
        "print(hf.run_job_local(scan(), cpus=1))\n"
    )
    with shown(tmp_path, source) as screen:
        log = tmp_path / "log"
        screen.wait_in(log, "1 running")
        (tmp_path / "gate").touch()
        assert screen.end() == ["gate"]
    first, *_, last = log.read_text().splitlines()
    assert re.fullmatch(r"hyperflow: \d+ done.*; \d of 1 CPU busy, 1 node; \d+ s", first), first
    assert re.fullmatch(r"hyperflow: \d+ done in \d+ s \(abs \d+, waits 1\), 1 CPU; hyperflow show \S+", last), last


def test_a_narrow_terminal() -> None:
    """Names are cut, and numbers are not; there are no more lines than fit."""
    groups = tuple(Group(f"a long name of a function {number}", 12345, 1234, running=5) for number in range(30))
    view = View(0.0)
    view.see(10.0, Snapshot(groups, cpus=8, busy=5, nodes=1))
    buffer = io.StringIO()
    Console(file=buffer, width=60, color_system=None).print(drawn(view, 60, 12))
    heading, *rows, foot = buffer.getvalue().splitlines()
    assert heading.split()[-5:] == ["running", "waiting", "failed", "rate", "left"]
    assert len(rows) == 6
    for row in rows:
        assert row.startswith("a ")
        assert row.split()[-4:] == ["1234", "5", "11106", "123/s"]
    assert foot == "and 24 more; 5 of 8 CPUs busy, 1 node; 10 s"
    for width, numbers in ((40, ["1234", "5", "11106"]), (30, ["1234", "5"]), (10, [])):
        narrow = io.StringIO()
        Console(file=narrow, width=width, color_system=None).print(drawn(view, width, 12))
        heading, row, *_ = narrow.getvalue().splitlines()
        assert row.split("…")[1].split() == numbers, (width, row)
        assert "…" not in heading.split("…", 1)[-1], heading
