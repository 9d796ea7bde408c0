"""`hyperflow show --suggest`: what stands out in a run, and nothing else."""

from array import array
from pathlib import Path

import hyperflow as hf
from hyperflow.cli.records import Run
from hyperflow.cli.suggestions import suggestions
from hyperflow.events.summary import Function, Summary
from hyperflow.records.record import Figures, Record


def advice(tmp_path: Path, *functions: Function, used: float = 90.0, held: float = 100.0) -> list[str]:
    """Return what is suggested for a run of these functions."""
    record = Record.of_this_process(hf.ProgramInfo.new(tmp_path), "job")
    run = Run(record.run, tmp_path, record._replace(figures=Figures(used=used, held=held)))
    return suggestions(run, Summary({one.name: one for one in functions}))


def function(count: int, seconds: float, *, cpus: int = 1, busy: float = 1.0, memory: int = 0) -> Function:
    """Return one that kept so many CPUs busy."""
    times = array("d", [seconds] * count)
    measured = count if seconds > 0.01 else 0
    cpu = busy * sum(times)
    return Function("f", cpus=cpus, done=count, seconds=times, measured=measured, cpu=cpu, memory=memory)


def test_what_is_well_is_not_told(tmp_path: Path) -> None:
    """Runs that use what they hold, short runs, and few short evaluations get no advice."""
    assert advice(tmp_path, function(100, 1.0), function(10, 1e-5)) == []
    assert advice(tmp_path, used=1.0, held=50.0) == []
    assert advice(tmp_path, function(100, 1.0, cpus=4, busy=3.5), function(5000, 0.02)) == []
    failing = function(100, 1.0, busy=5000.0)  # the CPU time of what has failed is among it, and the seconds are not
    failing.failed = 1
    assert advice(tmp_path, failing) == []


def test_what_stands_out(tmp_path: Path) -> None:
    """CPUs that idle, a wrong number of them, tiny evaluations and large memory."""
    (idle,) = advice(tmp_path, used=20.0)
    assert idle.startswith("evaluations had 20% of the CPU time")
    (tiny,) = advice(tmp_path, function(5000, 2e-5))
    assert "5000 times and mostly took 20 µs" in tiny
    (fewer,) = advice(tmp_path, function(100, 1.0, cpus=4, busy=1.1))
    assert fewer == "f asks for 4 CPUs and uses 1.1: using(cpus=1)"
    (more,) = advice(tmp_path, function(100, 1.0, busy=3.9))
    assert more.startswith("f asks for 1 CPU and uses 3.9: using(cpus=4)")
    (large,) = advice(tmp_path, function(100, 1.0, cpus=2, busy=2.0, memory=3_000_000_000))
    assert large == "f takes up to 3.0 GB of memory: ask for at least that for each 2 CPUs"
