"""`hyperflow var`: list, get, set, and what is said when something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hyperflow as hf
from tests.support import environment


def hyperflow(*words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, which has to be this exit code."""
    command = [sys.executable, "-m", "hyperflow", *words]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


async def test_list_get_set(tmp_path: Path) -> None:
    """What the program has asked for is listed; what is set there the program sees; a text needs quotes."""
    step = hf.ExtVar("step", 0.5, type=float)
    async with hf.open_cluster(base_dir=tmp_path / "hyperflow-runs", local=True) as env:
        run = env.program.program_id
        assert f"run {run} has no variables" in hyperflow("var", "list", cwd=tmp_path).stdout
        await step.get()
        assert hyperflow("var", "list", run, cwd=tmp_path).stdout == "step  0.5\n"
        hyperflow("var", "set", run[:12], "step", "0.25", cwd=tmp_path)
        assert await step.get() == 0.25
        assert hyperflow("var", "get", run, "step", cwd=tmp_path).stdout == "0.25\n"
        told = json.loads(hyperflow("var", "list", "--json", cwd=tmp_path).stdout)
        assert told["variables"] == {"step": 0.25}
        refused = hyperflow("var", "set", run, "step", "fast", cwd=tmp_path, code=1).stderr
        assert refused.startswith("hyperflow: fast is no JSON")
        assert "a text needs its quotes: '\"fast\"'" in refused
        assert hyperflow("var", "get", "step", "--run", run[:12], cwd=tmp_path).stdout == "0.25\n"
        hyperflow("var", "set", run, "step", "-2", cwd=tmp_path)
        assert await step.get() == -2.0
        assert (
            "has not asked for other so far; it has step"
            in hyperflow("var", "set", run, "other", "1", cwd=tmp_path).stderr
        )
        assert "no variable 'none'" in hyperflow("var", "get", run, "none", cwd=tmp_path, code=1).stderr
        assert "cannot be the name" in hyperflow("var", "set", run, "../x", "1", cwd=tmp_path, code=1).stderr
        assert "is no run" in hyperflow("var", "get", "1999", "step", cwd=tmp_path, code=1).stderr
        hyperflow("var", "set", "step", "-3", cwd=tmp_path)
        assert hyperflow("var", "get", "step", cwd=tmp_path).stdout == "-3\n"
        for words in (["get"], ["get", run, "step", "1"], ["set", "step"], ["set", run, "step", "1", "2"]):
            assert "before them a RUN" in hyperflow("var", *words, cwd=tmp_path, code=1).stderr
        hyperflow("var", "set", run, "step", '"fast"', cwd=tmp_path)
        with pytest.raises(hf.ConfigurationError, match="hyperflow var set"):
            await step.get()


async def test_variables_of_a_job_that_is_run_by_itself(tmp_path: Path) -> None:
    """They are found by the run's id and directory, and by default; commands about Cluster programs say what they are.

    A newer run without variables does not hide them, and that is said.
    """
    step = hf.ExtVar("step", 0.5, type=float)
    base = tmp_path / "hyperflow-runs"
    program = hf.ProgramInfo.new(base)
    home = program.log_dir.parent
    async with hf.open_local_job(cpus=1, program=program):
        await step.get()
        assert hyperflow("var", "list", cwd=tmp_path).stdout == "step  0.5\n"
        hyperflow("var", "set", "step", "0.25", cwd=tmp_path)
        assert await step.get() == 0.25
        for which in (home.name, str(home)):
            assert hyperflow("var", "get", which, "step", cwd=tmp_path).stdout == "0.25\n"
    said = hyperflow("list", cwd=tmp_path, code=1).stderr
    assert f"{home.name} is of run_job_local or run_job_slurm: for it there are `hyperflow show`" in said
    newer = base / "30000101-000000-ffffff"
    (newer / "log").mkdir(parents=True)
    (newer / "log" / "events.jsonl").touch()
    told = hyperflow("var", "get", "step", cwd=tmp_path)
    assert (told.stdout, f"note: this is {home.name}; the newest, {newer.name}, has no" in told.stderr) == (
        "0.25\n",
        True,
    )
