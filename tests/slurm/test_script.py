"""Batch scripts as text: compared with those in `scripts/`; and what cannot be meant is refused where it is written.

`HYPERFLOW_GOLDEN=write pytest tests/slurm/test_script.py` writes them anew.
"""

import datetime
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest

from hyperflow.errors import ConfigurationError
from hyperflow.slurm.script import FIELDS, SbatchOptions, batch_script

SCRIPTS = Path(__file__).with_name("scripts")

CASES: dict[str, tuple[SbatchOptions, dict[str, Any]]] = {
    "plain": (SbatchOptions(), {}),
    "everything": (
        SbatchOptions(
            nodes=3,
            ntasks_per_node=2,
            cpus_per_task=4,
            time="1-12:00:00",
            mem_per_cpu=1500,
            partition="short,long",
            account="physics",
            qos="high",
            constraint="[rack1*2&rack2*1]",
            gres="gpu:2",
            exclusive=True,
            requeue=False,
            mail_type="END,FAIL",
            mail_user="somebody@example.org",
            extra={"nice": "100", "contiguous": None, "signal": "B:USR1@300"},
            preamble="module load mpi\nexport OMP_PROC_BIND=close\n",
        ),
        {},
    ),
    "odd": (
        SbatchOptions(time=30, account='a "b" \\c #d $e', extra={"wckey": "it's"}),
        {
            "name": "root search\nof x, y",
            "command": ["/opt/a b/python", "-m", "it's", "", "$HOME", "*"],
            "log_file": Path("/shared/a b/100%j #1.out"),
            "directory": Path('/shared/it\'s "so" é'),
        },
    ),
    "short": (SbatchOptions(time=datetime.timedelta(minutes=3, seconds=59)), {}),
}


def script(options: SbatchOptions, **changes: Any) -> str:
    """Return a script, with arguments that are the same for all."""
    given: dict[str, Any] = {
        "name": "root_search",
        "token": "3f2a9c1e-0",
        "command": ["/opt/python", "-m", "hyperflow.master.runner", "/shared/runs/1"],
        "log_file": Path("/shared/runs/1/slurm.out"),
        "directory": Path("/shared/runs/1"),
    }
    return batch_script(options, **{**given, **changes})


@pytest.mark.parametrize("name", CASES)
def test_the_text(name: str) -> None:
    """The text is the one that was looked at."""
    options, changes = CASES[name]
    golden = SCRIPTS / f"{name}.sh"
    if os.environ.get("HYPERFLOW_GOLDEN") == "write":
        golden.write_text(script(options, **changes))

    assert script(options, **changes) == golden.read_text()


@pytest.mark.parametrize("name", CASES)
def test_bash_understands_it(name: str) -> None:
    """The text is a valid script for the shell as well."""
    done = subprocess.run(["bash", "-n", SCRIPTS / f"{name}.sh"], capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("given", "kept", "seconds"),
    [
        ("90", "90", 5400),
        (90, "90", 5400),
        ("2:30", "2:30", 150),
        ("2:00:00", "2:00:00", 7200),
        ("1-0", "1-0", 86400),
        ("1-12:30", "1-12:30", 131400),
        ("1-12:30:15", "1-12:30:15", 131415),
        (datetime.timedelta(days=2, seconds=1.5), "48:00:02", 172802),
        ("Unlimited", "UNLIMITED", None),
        (None, None, None),
    ],
)
def test_times(given: Any, kept: str | None, seconds: float | None) -> None:
    """A time is taken in all forms of Slurm and of Python."""
    options = SbatchOptions(time=given)

    assert (options.time, options.time_limit) == (kept, seconds)


@pytest.mark.parametrize(("given", "kept"), [("8G", "8G"), ("8gb", "8G"), (1500, "1500"), ("0", "0"), (None, None)])
def test_memory(given: Any, kept: str | None) -> None:
    """Memory is taken as people write it."""
    assert SbatchOptions(mem=given).mem == SbatchOptions(mem_per_cpu=given).mem_per_cpu == kept


BAD: dict[str, list[Any]] = {
    "nodes": [0, -1, 1.5, True, "two", None, "1-3"],
    "ntasks_per_node": [0],
    "cpus_per_task": [0, "x"],
    "time": [
        "abc",
        0,
        -5,
        True,
        "0:00:00",
        "1:2:3:4",
        "2h",
        1.5,
        datetime.timedelta(0),
        datetime.timedelta(days=-1),
        "",
    ],
    "mem": ["1.5G", "8 G", "much", -1, True, ""],
    "mem_per_cpu": ["8X"],
    "partition": ["", "  ", "a\nb", "a\x1b[0m", 3],
    "account": ["a\n#SBATCH --nodes=9"],
    "exclusive": ["yes", 1],
    "requeue": [None],
    "preamble": ["#SBATCH --nodes=2", "a\r\nb", "a\0b", None],
    "extra": [
        ["nice"],
        {"nodes": "3"},
        {"ntasks-per-node": "3"},
        {"job-name": "x"},
        {"output": "x"},
        {"comment": "x"},
        {"array": "1-3"},
        {"no-requeue": None},
        {"--nice": "1"},
        {"n": "1 2\n3"},
        {"Nice": "1"},
        {3: "1"},
    ],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in BAD.items() for value in values])
def test_what_cannot_be_meant(field: str, value: Any) -> None:
    """The error comes where the options are written, and names the field."""
    with pytest.raises(ConfigurationError, match=rf"SbatchOptions\({field}="):
        SbatchOptions(**{field: value})


def test_changed() -> None:
    """Options are changed as `hyperflow retry` does it, from texts; the old ones stay as they are."""
    options = SbatchOptions(nodes=2, mem="4G", extra={"nice": "1"})

    assert options.changed(time="2:00:00", mem="8G", nodes="3") == SbatchOptions(
        nodes=3, mem="8G", time="2:00:00", extra={"nice": "1"}
    )
    assert options.mem == "4G"
    assert SbatchOptions(mem_per_cpu="1G").changed(mem="8G") == SbatchOptions(mem="8G")
    with pytest.raises(ConfigurationError, match="takes one of the two"):
        SbatchOptions(mem="8G", mem_per_cpu="1G")
    with pytest.raises(ConfigurationError, match="has no memory; it has nodes, "):
        options.changed(memory="8G")
    with pytest.raises(ConfigurationError, match="nodes=0"):
        options.changed(nodes=0)


def test_they_are_plain_values() -> None:
    """Options can be compared, used as keys, and pickled."""
    options = SbatchOptions(nodes=2, extra={"nice": "1"})

    assert pickle.loads(pickle.dumps(options)) == options
    assert len({options, SbatchOptions(nodes=2, extra={"nice": "1"}), SbatchOptions(nodes=2)}) == 2
    assert set(FIELDS) == attrs.asdict(options).keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "short"},
        {"token": "a b c d e f g"},
        {"token": "x" * 65},
        {"log_file": Path("relative/log")},
        {"log_file": Path("/a\nb")},
        {"log_file": Path("/a\\b")},
        {"directory": Path("here")},
    ],
)
def test_what_cannot_stand_in_a_script(changes: dict[str, Any]) -> None:
    """A token or path that Slurm would understand in another way is refused."""
    with pytest.raises(ConfigurationError):
        script(SbatchOptions(), **changes)


def test_a_long_name() -> None:
    """The name is cut, never the token."""
    name = next(line for line in script(SbatchOptions(), name="x" * 1000).splitlines() if "--job-name" in line)

    assert name == f"#SBATCH --job-name={'x' * 60}.3f2a9c1e-0"
