"""`hyperflow.main`: programs in pipes and on terminals, how they end, and what they say."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hyperflow.console.line import left_in_words
from hyperflow.master.lifecycle import State
from tests.console.programs import SCRIPT, hyperflow, on_terminal, run, started, wait_listed
from tests.helpers import alive, block_until
from tests.programs.runs import surroundings

BASE = "hyperflow-runs"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory with one file that jobs wait for."""
    (tmp_path / "a").touch()
    return tmp_path


def home(place: Path) -> Path:
    """Return the run directory."""
    (found,) = (place / BASE).iterdir()
    return found


def test_help(place: Path) -> None:
    """--help has the docstring's words and both kinds of options, and makes nothing."""
    output = run(place, "--help").stdout
    for words in ("Wait for files.", "Whether to fail at the end.", "--no-fail", "--local", "--resume", "--partition"):
        assert words in output
    assert sorted(os.listdir(place)) == ["a", "program.py"]


def test_a_run_in_a_pipe(place: Path) -> None:
    """One line says where things are, each change of state has one, the result alone is on standard output."""
    done = run(place, "a", "--local")
    assert done.stdout == "begun\na\n"
    first, *lines, last = done.stderr.splitlines()
    found = re.fullmatch(r"run (\S+): logs (\S+), database (\S+), control (\S+)", first)
    assert found
    assert all((place / path).parent.exists() for path in found.groups()[1:3])
    assert f"{BASE}/{found[1]}/log" == found[2]
    states = [line.split("): ")[1] for line in lines]
    assert [states[0], states[-1]] == ["submitting", "done"]
    assert last.startswith("done after ")
    assert last.endswith(": 1 done")
    kept = (home(place) / "log" / "master.log").read_text()
    assert "job 1, waits('a'): done" in kept


def test_no_result_is_not_printed(place: Path) -> None:
    """A program that gives None prints nothing by itself."""
    assert run(place, "--local").stdout == "begun\n"


def test_a_program_that_raises(place: Path) -> None:
    """Its traceback is shown, the exit code is 1, and there is a line to go on with."""
    done = run(place, "a", "--fail", "--local", code=1)
    assert "ValueError: failed as it was told" in done.stderr
    assert 'raise ValueError("failed as it was told")' in done.stderr
    assert f"hyperflow resume {BASE}/" in done.stderr
    assert "master.py" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("--nonsense",), 2, "--nonsense"),
        (("--max-jobs", "0"), 2, "--max-jobs"),
        (("--on-error", "x", "--local"), 2, "--on-error x"),
        (("--time", "soon", "--local"), 2, "a time is needed"),
        (("--base-dir", "/proc/nothing", "--local"), 2, "cannot write in /proc/nothing"),
        (("--resume", "nothing", "--local"), 2, "there is no run to resume"),
        (("--database", "nothing", "--local"), 2, "no such file"),
        (("--resume", "x", "--dry-run"), 2, "leave --resume out"),
    ],
)
def test_bad_input_is_one_line(place: Path, words: tuple[str, ...], code: int, complaint: str) -> None:
    """What cannot be meant is one line, maybe with another that says where to read about it; no job has been run."""
    done = run(place, *words, code=code)
    assert complaint in done.stderr
    assert done.stderr.startswith("program.py: ")
    assert done.stderr.splitlines()[1:] in ([], ["about this: hyperflow docs ConfigurationError"])
    assert not done.stdout
    assert not (place / BASE).exists() or not any((place / BASE).iterdir())


def test_a_dry_run_shows_scripts_and_leaves_nothing(place: Path) -> None:
    """The scripts of the first jobs are on standard output, with what was asked for; nothing is made."""
    done = run(place, "a", "missing", "--dry-run", "--time", "1:30:00", "--partition", "short")
    assert done.stdout.count("#!/bin/bash") == 2
    assert done.stdout.count("#SBATCH --time=1:30:00\n") == 2
    assert f"#SBATCH --chdir={place}/{BASE}/" in done.stdout
    assert "#SBATCH --partition=short" in done.stdout
    assert sorted(os.listdir(place)) == ["a", "program.py"]
    assert "without a job" in run(place, "--dry-run").stderr


def test_a_job_is_a_program_too(place: Path) -> None:
    """A function under @job is run as one job; one that gives no flow is explained."""
    path = place / "other.py"
    path.write_text(SCRIPT.replace("hf.main(search)", "hf.main(waits)"))
    words = [sys.executable, str(path), "a", "--local"]
    done = subprocess.run(words, cwd=place, env=surroundings(), capture_output=True, text=True, check=True)
    assert done.stdout == "a\n"
    path.write_text(SCRIPT.replace("hf.main(search)", "hf.main(lambda: 3)"))
    done = subprocess.run([*words[:2]], cwd=place, env=surroundings(), capture_output=True, text=True, check=False)
    assert (done.returncode, "hyperflow.main takes a flow, not 3" in done.stderr) == (1, True), done.stderr


def test_resume_goes_on(place: Path) -> None:
    """A killed program's run is listed without a master, and resumed by its id; what was done is not done again."""
    with started(place, "a", "b", "--local") as process:
        wait_listed(place, "1 running, 1 done")
        assert "is the master of" in hyperflow(place, "resume", code=1).stderr
        process.kill()
    listed = hyperflow(place, "list").stdout
    assert "no master runs" in listed
    assert f"hyperflow resume {BASE}/" in listed
    assert "is done; there is nothing to cancel" in hyperflow(place, "cancel", "1", code=1).stderr
    assert hyperflow(place, "give-up", "2", code=3).stderr.count("hyperflow resume") == 1
    (place / "b").touch()
    done = hyperflow(place, "resume")
    assert "--resume" in done.stderr.splitlines()[0]
    assert done.stdout == "begun\na b\n"
    assert len(list(home(place).glob("jobs/1/result.*"))) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_end_it_in_order(place: Path, number: signal.Signals, code: int) -> None:
    """A signal ends program and jobs, the exit code names it, and the last line says how to go on."""
    with started(place, "b", "--local") as process:
        wait_listed(place, "1 running")
        process.send_signal(number)
        errors = process.communicate(timeout=40)[1]
    assert process.returncode == code, errors
    assert re.search(r"interrupted after \d+ s: 1 job ended with it; to go on: hyperflow resume \S+\n$", errors)
    assert "Traceback" not in errors


def test_what_an_interrupted_program_leaves() -> None:
    """What is with Slurm is counted; where nothing is, how the jobs stand."""
    states = [State.HELD, State.RUNNING, State.DONE]
    assert left_in_words(states, cancelled=False, local=False) == "1 job left with Slurm"
    assert left_in_words(states, cancelled=False, local=True) == "1 job ended with it"
    assert left_in_words([State.HELD, State.DONE], cancelled=False, local=False) == "1 held, 1 done"
    assert left_in_words([State.CANCELLED], cancelled=True, local=False) == "1 job cancelled"


def test_nohup_is_heeded(place: Path) -> None:
    """A program that was started to ignore SIGHUP goes on when its terminal is closed."""
    with started(place, "b", "--local", before=("nohup",)) as process:
        wait_listed(place, "1 running")
        process.send_signal(signal.SIGHUP)
        (place / "b").touch()
        errors = process.communicate(timeout=40)[1]
    assert process.returncode == 0, errors


# ---- on a terminal --------------------------------------------------------------------------------------------------


def test_a_live_table(place: Path) -> None:
    """The table follows the jobs, above it is what the program prints; no line is wider than the terminal."""
    with on_terminal(place, "a", "b", "--local", columns=60) as terminal:
        terminal.wait_for("begun")
        shown = terminal.wait_for("1 running, 1 done")
        (place / "b").touch()
        terminal.wait_for("2 done")
        assert terminal.end() == 0
        last = terminal.text.splitlines()
    assert "#  job" in shown
    assert last[-1] == "a b"
    assert max(len(line) for line in shown.splitlines()) <= 60
    assert "submitting" not in [line.split()[-1] for line in last if line]


@pytest.mark.parametrize("rows", [3, 6])
def test_a_small_terminal(place: Path, rows: int) -> None:
    """With fewer lines than jobs and few columns, it works all the same."""
    names = [f"file{number}" for number in range(12)]
    for name in names:
        (place / name).touch()
    with on_terminal(place, *names[:3], "--local", columns=25, rows=rows) as terminal:
        assert terminal.end() == 0
        assert "file0" in terminal.text


def test_results_can_be_redirected(place: Path) -> None:
    """With standard output in a file, the table is on the terminal, and the program's words are in the file."""
    with (
        (place / "output").open("w") as output,
        on_terminal(place, "a", "--local", stdout=output) as terminal,
    ):
        shown = terminal.wait_for("1 done")
        assert terminal.end() == 0
    assert (place / "output").read_text() == "begun\na\n"
    assert "begun" not in shown


def test_ctrl_c_asks(place: Path) -> None:
    """The first Ctrl-C asks; `g` goes on; after another, `c` cancels the jobs and ends with 130."""
    with on_terminal(place, "b", "--local", env={"AS_SLURM": "1"}, columns=100) as terminal:
        terminal.wait_for("1 running")
        terminal.type("\x03")
        terminal.wait_for("l, c or g?")
        terminal.type("what\n")
        terminal.wait_for("l, c or g?")
        terminal.type("g\n")
        assert terminal.wait_for("1 running").startswith(" g\n#  job")  # no line of the question is drawn anew
        terminal.type("\x03")
        terminal.wait_for("l, c or g?")
        terminal.type("c\n")
        assert terminal.end() == 130
        assert "1 job cancelled" in terminal.text
    assert "1 cancelled" in hyperflow(place, "list").stdout


@pytest.mark.parametrize("answer", ["\x03", "l\n", "\x04"])
def test_ctrl_c_leaves(place: Path, answer: str) -> None:
    """A second Ctrl-C, `l`, or the end of the input leave the jobs as they are."""
    with on_terminal(place, "b", "--local", env={"AS_SLURM": "1"}, columns=100) as terminal:
        terminal.wait_for("1 running")
        terminal.type("\x03")
        terminal.wait_for("l, c or g?")
        terminal.type(answer)
        assert terminal.end() == 130
        assert "hyperflow resume" in terminal.text
    assert "1 running" in hyperflow(place, "list").stdout


def test_the_question_goes_when_the_program_ends(place: Path) -> None:
    """A program that ends while somebody is asked ends as it would have."""
    with on_terminal(place, "b", "--local", env={"AS_SLURM": "1"}, columns=100) as terminal:
        terminal.wait_for("1 running")
        terminal.type("\x03")
        terminal.wait_for("l, c or g?")
        (place / "b").touch()
        assert terminal.end() == 0
        assert "done after" in terminal.text


def test_cancelling_can_be_the_policy(place: Path) -> None:
    """With --on-interrupt cancel nobody is asked."""
    words = ("b", "--local", "--on-interrupt", "cancel")
    with on_terminal(place, *words, env={"AS_SLURM": "1"}, columns=100) as terminal:
        terminal.wait_for("1 running")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "1 job cancelled" in terminal.text
        assert "l, c or g" not in terminal.text


def test_nothing_is_left_behind(place: Path) -> None:
    """When the program has been ended on its terminal, its jobs' processes have ended, too."""
    with on_terminal(place, "b", "--local", columns=100) as terminal:
        terminal.wait_for("1 running")
        terminal.type("\x03")
        assert terminal.end() == 130
        block_until(lambda: not alive(terminal.process.pid), 5, "the end of the program")
