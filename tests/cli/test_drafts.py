"""What `hyperflow init` writes, from facts: pure."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest

from hyperflow.cli import drafts
from hyperflow.cli.check import failed, ok
from hyperflow.cli.drafts import Choice
from hyperflow.cli.machine import Machine, Slurm
from hyperflow.config import FIELDS, Settings, read_settings
from hyperflow.errors import ConfigurationError
from hyperflow.slurm import partitions
from tests.slurm.big_site import SCONTROL, SINFO

BIG = Slurm("slurm 24.11.1", partitions=partitions.read(SINFO, SCONTROL)[0], accounting=True, tmp="/local")
LAPTOP = Machine("box", Slurm(), Path("/home/me"), "ext4", Path("/home/me/.venv/bin/python"), "ext4")
LOGIN = attrs.evolve(LAPTOP, slurm=BIG, directory_type="lustre", python_type="lustre")
HOSTILE = attrs.evolve(
    LOGIN,
    host="a\nmin_nodes = 7",
    directory=Path("/home/new\nline#SBATCH --nodes=99"),
    python=Path("/home/it's mine/$(touch x)/python"),
    modules=('say "hi"\\', "python/3.11", "$(touch y)"),
    checks=(failed("ssh", "no\r\nmin_nodes = 9", "", "n1", cause="other"),),
    node="n1",
)


def chosen(name: str = "", nodes: int | None = None, cpus: int | None = None, time: str = "") -> Choice:
    """Choose on the large site."""
    choice = drafts.choose(BIG, name, nodes, cpus, time)
    assert choice is not None
    return choice


def options(text: str) -> list[str]:
    """Return the lines that sbatch obeys."""
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


def switched_on(text: str, name: str) -> dict[str, Any]:
    """Return a configuration with one key switched on."""
    return tomllib.loads(re.sub(rf"^#({name} = )", r"\1", text, flags=re.MULTILINE))


@pytest.mark.parametrize("machine", [LAPTOP, LOGIN, HOSTILE], ids=["laptop", "login", "hostile"])
def test_every_key_is_there_and_right(machine: Machine, tmp_path: Path) -> None:
    """A configuration has each key of Settings, described, switched off; each can be switched on as it stands."""
    text = drafts.configuration(machine)
    assert tomllib.loads(text) == {}
    assert re.findall(r"^#(\w+) = ", text, re.MULTILINE) == list(FIELDS)
    for name in FIELDS:
        assert f"# {name}: " in text
        path = tmp_path / f"{name}.toml"
        found = switched_on(text, name)
        assert list(found) == [name]
        path.write_text(re.sub(rf"^#({name} = )", r"\1", text, flags=re.MULTILINE))
        settings = read_settings({"HYPERFLOW_CONFIG": str(path)})
        if name not in drafts.EXAMPLES:  # the default stands there
            assert settings == Settings()


def test_examples_are_of_keys() -> None:
    """Examples and descriptions are those of keys that there are; a description goes on to the end."""
    assert drafts.EXAMPLES.keys() <= FIELDS.keys()
    told = drafts.descriptions()
    assert told.keys() == FIELDS.keys()
    assert told["scratch"].endswith("It has to exist.")
    assert all(said.endswith(".") for said in told.values())


def test_what_was_found_decides() -> None:
    """A node that only srun reaches makes it "srun"; what else was found stands at its key."""
    tried = (failed("ssh", "permission denied", "", "n1"), ok("srun", "a step starts", "n1"))
    text = drafts.configuration(attrs.evolve(LOGIN, checks=tried, node="n1", modules=("python/3.11",)))
    assert tomllib.loads(text) == {"transport": "srun"}
    assert switched_on(text, "prologue")["prologue"] == "module load python/3.11"
    assert switched_on(text, "scratch")["scratch"] == "/local"

    unknown = failed("ssh", "its host key is unknown", "", "n1", cause="host key unknown")
    text = drafts.configuration(attrs.evolve(LOGIN, checks=(unknown,), node="n1"))
    assert tomllib.loads(text) == {}
    assert 'the key of n1 is in no known_hosts file. "accept-new" takes it.' in " ".join(text.replace("# ", "").split())


def test_a_script_for_the_default_partition() -> None:
    """Whole nodes are taken whole; an hour, and the fewest nodes that the partition takes."""
    text = drafts.script(LOGIN, chosen(), None, None)
    assert options(text) == [
        "--partition=regular",
        "--nodes=2",
        "--ntasks-per-node=128",
        "--time=1:00:00",
        "--job-name=hyperflow",
        "--output=%x-%j.out",
    ]
    assert "##SBATCH --mem-per-cpu=4000M" in text
    assert text.endswith("\nexec /home/me/.venv/bin/python -m hyperflow doctor\n")


def test_scripts_for_other_partitions() -> None:
    """Accounts that may use it, GPUs that all its nodes have, and a limit below an hour count."""
    rich = attrs.evolve(BIG, accounts=("bio", "chem_g"))
    text = drafts.script(attrs.evolve(LOGIN, slurm=rich), chosen("gpu", 3, 8, "90"), Path("a b.py"), Path("/c d.toml"))
    assert {"--partition=gpu", "--nodes=3", "--ntasks-per-node=8", "--time=1:30:00"} < set(options(text))
    assert {"--gres=gpu:1", "--account=chem_g"} < set(options(text))
    assert "##SBATCH --qos=gpu_regular" in text
    assert "export HYPERFLOW_CONFIG='/c d.toml'\n" in text
    assert text.endswith("\nexec /home/me/.venv/bin/python 'a b.py'\n")

    assert "--time=0:30:00" in options(drafts.script(LOGIN, chosen("debug"), None, None))
    text = drafts.script(LOGIN, chosen("mixed"), None, None)
    assert "\n##SBATCH --gres=gpu:1\n" in text
    assert "--ntasks-per-node=4" in options(text)
    text = drafts.script(LOGIN, chosen("gpu"), None, None)
    assert "\n##SBATCH --account=phys_g\n" in text


def test_nothing_hostile_gets_out_of_a_comment() -> None:
    """Names with line breaks, quotes and orders stay where they are: no option, no second command."""
    text = drafts.script(HOSTILE, chosen("mixed"), Path("$(touch z).py"), Path("/a'b;c"))
    assert options(text) == options(drafts.script(LOGIN, chosen("mixed"), None, None))
    commands = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [shlex.split(line) for line in commands] == [
        ["cd", "--", "$SLURM_SUBMIT_DIR", "||", "exit", "1"],
        ["export", "HYPERFLOW_CONFIG=/a'b;c"],
        ["exec", str(HOSTILE.python), "$(touch z).py"],
    ]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("no", None, None, ""), "there are debug, regular, gpu"),
        (("debug", 5, None, ""), "gives a job 4 at most"),
        (("gpu", 17, None, ""), "gives a job 16 at most"),
        (("regular", None, 257, ""), "gives a job 256 at most"),
        (("debug", None, None, "31"), "has a limit of 0:30:00"),
        (("", 0, None, ""), "at least 1"),
        (("", None, None, "soon"), "2:00:00"),
        (("", None, None, "0"), "2:00:00"),
    ],
)
def test_what_is_not_to_be_had(wanted: tuple[str, int | None, int | None, str], said: str) -> None:
    """It is refused, with what there is."""
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        drafts.choose(BIG, *wanted)


def test_a_site_without_a_default() -> None:
    """The first partition that works and that all may use is taken; nothing where none is known."""
    some = attrs.evolve(BIG, partitions=tuple(one for one in reversed(BIG.partitions) if not one.default))
    choice = drafts.choose(some, "", None, None, "")
    assert choice is not None
    assert choice.partition.name == "cloud"
    assert drafts.choose(Slurm("slurm", problem="it hangs"), "", None, None, "") is None
