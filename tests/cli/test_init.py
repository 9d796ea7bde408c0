"""`hyperflow init` as it is typed: on a machine without Slurm, and with a Slurm of shell scripts, well and ill."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hyperflow.cli import reach
from hyperflow.cli.check import Check, failed
from hyperflow.cli.init import Target
from hyperflow.cli.main import command_line
from hyperflow.config import Settings, read_settings
from tests.slurm.big_site import SCONTROL, SINFO

pytestmark = pytest.mark.process


class Machine:
    """A home, a directory for work, and a PATH that has only what a test puts there."""

    def __init__(self, place: Path, patch: pytest.MonkeyPatch, said: pytest.CaptureFixture[str]) -> None:
        self.home, self.work, self.path = place / "my home", place / "work", place / "path"
        for each in (self.home, self.work, self.path):
            each.mkdir()
        self.env = {"HOME": str(self.home), "PATH": str(self.path), "USER": "me"}
        self.config = self.home / ".config" / "hyperflow" / "config.toml"
        self.script = self.work / "job.sbatch"
        self._patch, self._said = patch, said
        for tool in ("cat", "head", "sleep", "tr"):
            (self.path / tool).symlink_to(str(shutil.which(tool)))

    def command(self, name: str, lines: str) -> None:
        """Put a command into the PATH."""
        (self.path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (self.path / name).chmod(0o755)

    def slurm(self, answer: str = SINFO) -> None:
        """Let there be a Slurm that answers; no node of it can be reached."""
        for name, text in (("nodes", answer), ("rules", SCONTROL)):
            (self.path / name).write_text(text)
        nodes, rules = self.path / "nodes", self.path / "rules"
        self.command("sinfo", f"case $* in *--version) echo slurm 24.11.1;; *%P*) cat '{nodes}';; *) echo nid1;; esac")
        self.command("scontrol", f"case $* in *partition*) cat '{rules}';; *) echo 'TmpFS = /local';; esac")
        self.command("sbatch", "cat >/dev/null; echo 'sbatch: Job 1 to start at once' >&2")

    def init(self, *words: str) -> tuple[int, str, str]:
        """Run the command here; return its exit code, and what it said."""
        with self._patch.context() as patch:
            patch.chdir(self.work)
            for name in os.environ:
                if name.startswith(("HYPERFLOW_CONFIG", "SLURM", "XDG", "HOME", "LOADEDMODULES")):
                    patch.delenv(name)
            for name, value in self.env.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                command_line(["init"])(["init", "--timeout", "1", *words])
        code = ended.value.code
        assert isinstance(code, int)
        out, errors = self._said.readouterr()
        return code, out, errors

    def start(self, *before: str) -> tuple[int, str, str]:
        """Run the command as a user does, as a process of its own, with the whole of the doctor."""
        argv = [*before, sys.executable, "-P", "-m", "hyperflow", "init"]
        done = subprocess.run(argv, cwd=self.work, env=self.env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Machine:
    """Return a machine without Slurm. The doctor looks at no node, and starts no Python: `start()` does that."""

    async def here(node: str, _: reach.Site) -> list[Check]:
        return []

    async def there(node: str, _: reach.Site) -> list[Check]:
        return [failed("ssh", "its name is not known", "", node, cause="unknown name")]

    monkeypatch.setattr(reach, "check_this_machine", here)
    monkeypatch.setattr(reach, "check_node", there)
    return Machine(tmp_path, monkeypatch, capsys)


def test_a_laptop(machine: Machine) -> None:
    """Without Slurm there is a configuration that changes nothing, no script, and no file is left."""
    code, out, errors = machine.start()

    assert (code, errors) == (0, "")
    assert "there is no sinfo in PATH: so no batch script" in out
    assert re.search("^ok +Python ", out, re.MULTILINE)
    assert f"wrote {machine.config}\nnext: `hyperflow doctor`\n" in out
    assert read_settings(machine.env) == Settings()
    assert machine.config.stat().st_mode & 0o077 == 0
    assert list(machine.work.iterdir()) == []

    assert f"{machine.config} is as it would be written" in machine.init()[1]
    code, _, errors = machine.init("--partition", "main")
    assert (code, errors.splitlines()[0]) == (
        1,
        "hyperflow: --partition main: there is no Slurm here: there is no sinfo in PATH",
    )


def test_what_is_there_stays(machine: Machine) -> None:
    """A file that differs is kept, and by how much is said; --dry-run shows it and writes nothing; --force replaces."""
    machine.slurm()
    machine.config.parent.mkdir(parents=True)
    machine.config.write_text('transport = "ssh"\n')
    code, out, errors = machine.init("--partition", "mixed", "--dry-run")

    assert (code, errors) == (0, "")
    assert '-transport = "ssh"' in out
    assert "+#SBATCH --partition=mixed" in out
    assert not machine.script.exists()

    code, out, errors = machine.init("--partition", "mixed")
    assert (code, errors) == (1, "")
    assert f"kept {machine.config}, which differs in " in out
    assert machine.config.read_text() == 'transport = "ssh"\n'
    assert "wrote job.sbatch" in out

    code, out, errors = machine.init("--partition", "mixed", "--force")
    assert (code, errors) == (0, "")
    assert f"wrote {machine.config}\njob.sbatch is as it would be written\nnext: `hyperflow doctor`" in out
    assert read_settings({"HYPERFLOW_CONFIG": str(machine.config)}) == Settings()


def test_a_home_that_cannot_be_written(machine: Machine) -> None:
    """It is said, with what to do; the script is written all the same."""
    machine.slurm()
    machine.config.parent.parent.write_text("a file in the place of a directory")
    code, out, errors = machine.init()

    assert code == 1
    assert errors.startswith(f"hyperflow: cannot read {machine.config}: Not a directory; name another with --config")
    assert out == ""

    machine.config.parent.parent.unlink()
    code, out, errors = machine.init("--config", "/proc/no/config.toml")
    assert code == 1
    assert "cannot write /proc/no/config.toml: No such file or directory; name another place with --config" in errors
    assert "wrote job.sbatch" in out
    assert "next: " not in out


def test_no_home(machine: Machine) -> None:
    """Without HOME there is no place for a configuration, but one can be named."""
    del machine.env["HOME"]
    code, out, errors = machine.init()
    assert (code, out) == (1, "")
    assert errors.startswith("hyperflow: HOME is not set, so there is no place for the configuration: name one with")

    code, out, errors = machine.init("--config", "here.toml")
    assert (code, errors) == (0, "")
    assert f"next: `HYPERFLOW_CONFIG={machine.work}/here.toml hyperflow doctor`" in out


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("sleep 1000 & sleep 1000; wait", "sinfo gave no answer within 1 s"),
        ("cat /dev/zero | tr '\\0' 'x' | head -c 300000", "sinfo names no partition that you may use; it said: xxxx"),
        ("printf '\\033[2J\\377|||'", r"sinfo names no partition that you may use; it said: \x1b[2J"),
        ("exit 0", "sinfo names no partition that you may use; it said: nothing"),
        ("echo 'Socket timed out' >&2; exit 1", "Socket timed out"),
    ],
)
def test_a_sinfo_that_is_ill(machine: Machine, lines: str, said: str) -> None:
    """Whatever it does costs bounded time, is told, and leaves no process; the configuration is written, no script."""
    machine.command("sinfo", lines)
    started = time.monotonic()
    code, out, errors = machine.init()

    assert code == 1
    assert said in errors
    assert "\x1b" not in out + errors
    assert time.monotonic() - started < 30
    assert machine.config.exists()
    assert not machine.script.exists()


def test_what_only_some_commands_tell(machine: Machine) -> None:
    """Accounts come from sacctmgr; a scontrol that fails costs only what it would have told."""
    machine.slurm()
    machine.command("sacctmgr", "echo bio; echo chem_g; echo chem_g; echo 'two words|;'")
    code, out, errors = machine.init("--partition", "gpu", "--dry-run")
    assert (code, errors) == (0, "")
    assert "+#SBATCH --account=chem_g\n" in out
    assert '+#scratch = "/local"' in out

    machine.command("scontrol", "exit 3")
    code, out, errors = machine.init("--partition", "gpu", "--dry-run")
    assert (code, errors) == (0, "")
    assert "+##SBATCH --account=PROJECT\n" in out


def test_a_configuration_that_is_wrong(machine: Machine) -> None:
    """It is kept, and what is wrong with it is said; so is a Slurm without a configuration."""
    machine.command("sinfo", "echo 'sinfo: fatal: Could not establish a configuration source' >&2; exit 1")
    machine.config.parent.mkdir(parents=True)
    machine.config.write_text("transport = 3\n")
    code, out, errors = machine.init()

    assert (code, errors) == (1, "")
    assert "FAILED   configuration" in out
    assert "transport = 3: one of auto, ssh, srun is needed" in out
    assert "its commands are here, but no configuration; SLURM_CONF names it" in out
    assert machine.config.read_text() == "transport = 3\n"


def test_a_script_that_slurm_would_refuse(machine: Machine) -> None:
    """It is asked whether it takes the script; if not, it says why, and the file is there to be corrected."""
    machine.slurm()
    refused = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    machine.command("sbatch", f"cat >/dev/null; echo '{refused}' >&2; exit 1")
    code, _, errors = machine.init("--partition", "mixed")

    assert code == 1
    assert "hyperflow: Slurm would refuse the script: " in errors
    assert "Invalid account" in errors
    assert machine.script.exists()


def test_links(machine: Machine, tmp_path: Path) -> None:
    """A symbolic link is never followed to write: it is kept, and with --force it is refused."""
    machine.slurm()
    victim = tmp_path / "victim"
    for is_there in (False, True):
        if is_there:
            victim.write_text("mine")
        machine.script.unlink(missing_ok=True)
        machine.script.symlink_to(victim)
        code, out, _ = machine.init("--partition", "mixed")
        assert (code, "kept job.sbatch" in out) == (1, True)
        code, _, errors = machine.init("--partition", "mixed", "--force")
        assert (code, "job.sbatch is a symbolic link; name the file itself" in errors) == (1, True)
        assert victim.exists() == is_there
    assert victim.read_text() == "mine"

    code, _, errors = machine.init("--partition", "mixed", "--script", str(tmp_path))
    assert (code, f"cannot read {tmp_path}: no ordinary file" in errors) == (1, True)


def test_hostile_names(machine: Machine) -> None:
    """A program with a line break in its name is refused; one with quotes and blanks is written as it is."""
    machine.slurm()
    code, _, errors = machine.init("a\nb.py")
    assert (code, "cannot be named in a batch script" in errors) == (1, True)

    code, out, errors = machine.init("it's $(mine).py", "--partition", "mixed", "--script", "a 'b'\n.sbatch")
    assert (code, errors) == (0, "")
    assert "wrote a 'b'\\n.sbatch" in out
    assert """'it'"'"'s $(mine).py'\n""" in (machine.work / "a 'b'\n.sbatch").read_text()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv (util-linux)")
def test_a_directory_that_cannot_be_written(machine: Machine) -> None:
    """It is said of the directory itself, and of the script; the configuration is written all the same."""
    machine.slurm()
    before: tuple[str, ...] = ()
    machine.work.chmod(0o555)
    if os.geteuid() == 0:  # without its privileges root may do as little as others
        os.chown(machine.work, 54321, 54321)
        before += (str(shutil.which("setpriv")), "--bounding-set=-all", "--inh-caps=-all")
    code, out, errors = machine.start(*before)

    assert code == 1
    assert re.search(rf"FAILED +directory +cannot write in {re.escape(str(machine.work))}: Permission denied\n", out)
    assert errors == "hyperflow: cannot write job.sbatch: Permission denied; name another place with --script\n"
    assert f"wrote {machine.config}\n" in out
    machine.work.chmod(0o755)


def test_two_at_once(tmp_path: Path) -> None:
    """Of several that write the same, one writes it and the others find it; it is whole, and nothing is beside it."""
    targets = [Target("config", tmp_path / "new" / "config.toml", b"text" * 50_000, None) for _ in range(8)]
    states: list[str] = []
    threads = [threading.Thread(target=lambda one=one: states.append(one.write(False))) for one in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(states) == ["unchanged"] * 7 + ["written"]
    assert targets[0].path.read_bytes() == targets[0].text
    assert os.listdir(targets[0].path.parent) == ["config.toml"]
