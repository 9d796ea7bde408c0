"""Where a pool listens, as the user says it."""

import socket

import pytest

from hyperflow.errors import ConfigurationError
from hyperflow.pools.joining import port
from hyperflow.pools.nodepool import NodePool


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (0, ("0.0.0.0", 0)),
        ("7070", ("0.0.0.0", 7070)),
        ("10.0.0.5:7070", ("10.0.0.5", 7070)),
        ("login1.site:0", ("login1.site", 0)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_what_listen_means(said: int | str, meant: tuple[str, int]) -> None:
    """A port by itself is one of all addresses; with an address it is that one."""
    assert port.parse(said) == meant
    assert NodePool(listen=said).listen == said


@pytest.mark.parametrize("said", [True, -1, 65536, "", "x", ":1", "host:", "host:99999", 1.5, "a:b:1"])
def test_what_makes_no_sense(said: object) -> None:
    """Everything else is an error at once."""
    with pytest.raises(ConfigurationError, match="listen="):
        NodePool(listen=said)


def test_a_port_that_is_taken() -> None:
    """The error says which port, and how to get another one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        number = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {number}.*0 takes a free port"):
            port.bind(port.Address("127.0.0.1", number))


@pytest.mark.parametrize("host", ["a..b", "x" * 70])
def test_what_is_no_host(host: str) -> None:
    """What can be no name of a host is refused as one that nobody knows is."""
    with pytest.raises(ConfigurationError, match="cannot listen at"):
        port.bind(port.Address(host, 0))


def test_how_others_call_this_machine() -> None:
    """One address is told as it is; all of them as the machine's name and the address by which one leaves it."""
    assert port.names("10.0.0.5") == ("10.0.0.5",)
    assert port.names(port.ALL)[0] == socket.gethostname()
