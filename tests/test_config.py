"""The configuration: where settings come from, what wins, and what is refused with the place where it was found."""

from pathlib import Path
from typing import Any

import pytest

from hyperflow.config import Settings, read_settings
from hyperflow.errors import ConfigurationError
from hyperflow.slurm import nodelist


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """An environment with a home directory and nothing else."""
    return {"HOME": str(tmp_path)}


def _write(variables: dict[str, str], text: str, name: str = ".config/hyperflow/config.toml") -> Path:
    path = Path(variables["HOME"]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_is_set(variables: dict[str, str]) -> None:
    """Without a file, variables and arguments the defaults hold; an argument None is none."""
    assert read_settings(variables) == Settings()
    assert read_settings(variables, transport=None) == Settings()
    assert read_settings({}) == Settings()


def test_what_wins(variables: dict[str, str]) -> None:
    """Arguments win over variables, those over the file."""
    _write(variables, 'transport = "ssh"\nmin_nodes = 2\nhandshakes = 3\nheartbeat = 1\n')
    variables |= {"HYPERFLOW_MIN_NODES": "5", "HYPERFLOW_HANDSHAKES": "6"}

    found = read_settings(variables, handshakes=9)

    assert (found.transport, found.heartbeat, found.min_nodes, found.handshakes) == ("ssh", 1.0, 5, 9)


def test_places_of_the_file(variables: dict[str, str]) -> None:
    """HYPERFLOW_CONFIG, else XDG_CONFIG_HOME, else ~/.config."""
    _write(variables, "min_nodes = 1\n")
    assert read_settings(variables).min_nodes == 1
    _write(variables, "min_nodes = 2\n", "xdg/hyperflow/config.toml")
    variables["XDG_CONFIG_HOME"] = f"{variables['HOME']}/xdg"
    assert read_settings(variables).min_nodes == 2
    variables["HYPERFLOW_CONFIG"] = str(_write(variables, "min_nodes = 3\n", "mine.toml"))
    assert read_settings(variables).min_nodes == 3


def test_a_file_that_was_named_has_to_be_there(variables: dict[str, str]) -> None:
    """The default file may be absent, one that HYPERFLOW_CONFIG names may not."""
    variables["HYPERFLOW_CONFIG"] = f"{variables['HOME']}/nothing.toml"
    with pytest.raises(ConfigurationError, match=r"cannot read the configuration .*nothing\.toml"):
        read_settings(variables)


@pytest.mark.parametrize("text", ["min_nodes = = 2", "\x00", "[nodes]\nmin = 2\n", "min_node = 2\n"])
def test_a_file_that_makes_no_sense(variables: dict[str, str], text: str) -> None:
    """It is refused, and the error names it."""
    path = _write(variables, text)
    with pytest.raises(ConfigurationError, match=str(path)):
        read_settings(variables)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("transport", "rsh", "one of auto, ssh, srun"),
        ("host_keys", "no", "one of strict, accept-new"),
        ("node_to_node", "on", "one of auto, off"),
        ("min_nodes", 0, "a positive whole number"),
        ("min_nodes", "two", "a positive whole number"),
        ("min_nodes", True, "a positive whole number"),
        ("min_nodes", 1.5, "a positive whole number"),
        ("min_nodes", "1.5", "a positive whole number"),
        ("heartbeat", -1, "a positive number"),
        ("heartbeat", "nan", "a positive number"),
        ("node_timeout", "inf", "a positive number"),
        ("ssh_port", 0, "a positive whole number"),
        ("ssh_port", 70000, "65535"),
        ("prologue", 3, "a text"),
        ("known_hosts", ["a"], "a text"),
    ],
)
def test_a_value_that_makes_no_sense(variables: dict[str, str], name: str, value: Any, said: str) -> None:
    """It is refused, and the error says what is needed."""
    with pytest.raises(ConfigurationError, match=f"{name}.*{said}"):
        read_settings(variables, **{name: value})


def test_a_misspelt_variable(variables: dict[str, str]) -> None:
    """A variable that looks like a setting is refused, one that does not is somebody else's."""
    variables["HYPERFLOW_SERVICE_ID"] = "worker-1@n"
    assert read_settings(variables) == Settings()
    variables["HYPERFLOW_MIN_NODE"] = "2"
    with pytest.raises(ConfigurationError, match="HYPERFLOW_MIN_NODE: there is no such setting"):
        read_settings(variables)


def test_an_unknown_argument(variables: dict[str, str]) -> None:
    """It is refused with the names that there are."""
    with pytest.raises(ConfigurationError, match=r"nodes: there is no such setting; there are .*min_nodes"):
        read_settings(variables, nodes=3)


def test_settings_that_contradict_each_other(variables: dict[str, str]) -> None:
    """A pinned set takes no new keys; a node has to be heard more often than it is given up."""
    with pytest.raises(ConfigurationError, match="known_hosts"):
        read_settings(variables, known_hosts="~/pinned", host_keys="accept-new")
    with pytest.raises(ConfigurationError, match="node_timeout"):
        read_settings(variables, heartbeat=30, node_timeout=30)
    with pytest.raises(ConfigurationError, match="silence_limit"):
        read_settings(variables, silence_limit=1)


def test_numbers_as_texts(variables: dict[str, str]) -> None:
    """Variables are texts, and stand for numbers where those are wanted."""
    variables |= {"HYPERFLOW_HEARTBEAT": "0.5", "HYPERFLOW_SSH_PORT": "2222", "HYPERFLOW_PROLOGUE": "module load gcc"}
    found = read_settings(variables)
    assert (found.heartbeat, found.ssh_port, found.prologue) == (0.5, 2222, "module load gcc")


def test_excluded_nodes(variables: dict[str, str]) -> None:
    """A list of nodes as Slurm writes it, or names; what is no such list is refused."""
    assert read_settings(variables, exclude_nodes=["a1", "b2"]).exclude_nodes == "a1,b2"
    assert read_settings({**variables, "HYPERFLOW_EXCLUDE_NODES": "n[1-2]"}).exclude_nodes == "n[1-2]"
    assert nodelist.excluded("n[1-2],m") == {"n1", "n2", "m"}
    with pytest.raises(ConfigurationError, match=r"exclude_nodes = 'n\[1-'"):
        nodelist.excluded("n[1-")
    with pytest.raises(ConfigurationError, match="exclude_nodes = 3: a text is needed"):
        read_settings(variables, exclude_nodes=3)
