"""`hyperflow show --suggest`: what stands out in a run, and nothing else."""

from array import array
from pathlib import Path

import hyperflow as hf
from hyperflow.cli.records import Run
from hyperflow.cli.suggestions import suggestions
from hyperflow.events.summary import Function, Learned, Summary
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


def test_what_was_learned(tmp_path: Path) -> None:
    """What "auto" gives, what came of it, and what to ask Slurm for so that as many fit on a node."""
    record = Record.of_this_process(hf.ProgramInfo.new(tmp_path), "job")
    record = record._replace(figures=Figures(nodes=2, cpus=16), began=1000.0, ended=1000.0 + 3000.0)
    learned = Learned("m:fit", 2, 3 << 30, 60.0, known=40, exceeded=3, given=100.0, used=80.0)
    unknown = Learned("m:other", 1, 0, 0.0, known=1, exceeded=0, given=0.0, used=0.0)
    summary = Summary(learned={one.name: one for one in (learned, unknown)})
    told, ask = suggestions(Run(record.run, tmp_path, record), summary)

    assert told.startswith(
        'm:fit gets 3G by memory="auto" and 60 s by min_time="auto" (learned from 40 evaluations, 3 '
    )
    assert 'using(memory="3100M")' in told
    assert ask.endswith('SbatchOptions(nodes=2, ntasks_per_node=8, mem="12G", time="1:03:00")')

    plain = function(100, 1.0, cpus=4, memory=8 << 30)
    summary = Summary(functions={plain.name: plain}, learned=summary.learned)
    ask = suggestions(Run(record.run, tmp_path, record), summary)[-1]
    assert 'mem="20G"' in ask, "who does not learn needs its place, too: 8G and a quarter, twice on a node"
