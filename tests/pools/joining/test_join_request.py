"""What a node says of itself when it asks to join, and what of it is believed."""

import attrs
import pytest

from hyperflow.errors import ConfigurationError
from hyperflow.pools.joining.join_request import JOIN, JoinRequest, fit_name, read, unused_name


def test_what_was_said_is_read() -> None:
    """A request arrives as it was made."""
    request = JoinRequest("node-1.site", 4, 3600.0, 300.0, "/tmp/logs")
    assert read(request.command) == request
    assert read(JoinRequest("n").command) == JoinRequest("n")


@pytest.mark.parametrize(
    "changes",
    [
        {"cpus": 0},
        {"cpus": True},
        {"cpus": 1 << 40},
        {"seconds_left": -1.0},
        {"seconds_left": "1h"},
        {"idle_timeout": []},
        {"log_dir": "relative"},
        {"log_dir": "/a\nb"},
        {"log_dir": None},
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    """Values of another kind, or out of range, are errors that say so."""
    with pytest.raises(ConfigurationError, match="makes no sense"):
        read(attrs.evolve(JoinRequest("n"), **changes).command)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", ["", "log", JOIN, JOIN + "null", JOIN + "[1]", JOIN + "x" * 5000, JOIN + "NaN"])
def test_what_is_no_request_is_refused(command: str) -> None:
    """Other texts are errors, too, and nothing else."""
    with pytest.raises(ConfigurationError):
        read(command)


def test_another_version_is_refused() -> None:
    """A node of another version is told both versions."""
    with pytest.raises(ConfigurationError, match=r"0\.0\.7 \(protocol 3\) on the node"):
        read(attrs.evolve(JoinRequest("n"), hyperflow="0.0.7", protocol=3).command)


def test_names_can_be_names_of_files() -> None:
    """Whatever a node calls itself, its name is one word, and none that leads elsewhere."""
    assert [fit_name(name) for name in ("a.b-c_1", "../../etc", "", "-rf", "a b\n", "ü" * 99)] == [
        *("a.b-c_1", "etc", "node", "rf", "a-b-", "node"),
    ]
    assert len(fit_name("x" * 300)) == 63


def test_a_name_is_used_once() -> None:
    """Nodes of one name get numbers."""
    used = {"main", "main-2"}
    assert unused_name("main", used) == "main-3"
    assert unused_name("other", used) == "other"
