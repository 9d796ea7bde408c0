"""The cluster's network: one switch, a card per host, and what can go wrong with the cables.

The switch is a host without an address or programs: a bridge in a network namespace. Each of its ports has the name
of the host that is plugged in.
"""

import subprocess
from collections.abc import Iterable, Mapping

import attrs

from tests.cluster import packages
from tests.cluster.host import CommandError, Host

SUBNET = "10.83.0"
LOGIN = "login"
NOWHERE = "02:00:00:00:00:00"  # no card has this address


def address(name: str) -> str:
    """Return a host's address: the login host is 1, nodes follow from 11."""
    return f"{SUBNET}.1" if name == LOGIN else f"{SUBNET}.{10 + int(name.removeprefix('node'))}"


def hosts_file(names: Iterable[str]) -> str:
    """Return the text of /etc/hosts."""
    return "".join(f"{address(name)} {name}\n" for name in names) + "127.0.0.1 localhost\n::1 localhost\n"


def configure(host: Host, *lines: str, check: bool = True) -> None:
    """Run commands of `ip` in the host's network, up to the first that fails."""
    done = subprocess.run(
        ["nsenter", "--target", str(host.init), "--net", "--", "ip", *([] if check else ["-force"]), "-batch", "-"],
        input="\n".join(lines) + "\n",
        env={"PATH": packages.PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        raise CommandError(f"{host.name}: ip: {lines}: {done.stderr.strip()}")


@attrs.frozen
class Network:
    """The switch, and the hosts that are plugged in."""

    switch: Host
    hosts: Mapping[str, Host]

    def build(self) -> None:
        """Make the switch's bridge."""
        configure(self.switch, "link add br0 type bridge", "link set br0 up")

    def plug_in(self, *names: str) -> None:
        """Connect hosts that have just been booted."""
        # The kernel takes its time to remove the card of a host that has crashed, and with it our end of the cable.
        configure(self.switch, *(f"link del {name}" for name in names), check=False)
        lines: list[str] = []
        for name in names:
            lines += [
                f"link add {name} type veth peer name eth0 netns {self.hosts[name].init}",
                f"link set {name} master br0 up",
            ]
        configure(self.switch, *lines)
        for name in names:
            configure(
                self.hosts[name],
                "link set lo up",
                f"addr add {address(name)}/24 broadcast + dev eth0",
                "link set eth0 up",
            )

    # ---------------------------------------------------------------------------------------- faults

    def cut(self, name: str) -> None:
        """Pull the host's plug out of the switch: nothing arrives, nothing is said about it."""
        configure(self.switch, f"link set {name} down")

    def mend(self, name: str) -> None:
        """Put the plug back."""
        configure(self.switch, f"link set {name} up")

    def lose(self, source: str, target: str) -> None:
        """
        Lose in silence all that one host sends to another; what it sends back arrives.

        The sender is told an address of the card that nobody has. (A blackhole route would give it an error, and
        a filter needs parts of the kernel that are not everywhere.)
        """
        configure(self.hosts[source], f"neigh replace {address(target)} lladdr {NOWHERE} dev eth0 nud permanent")

    def find(self, source: str, target: str) -> None:
        """Deliver again what one host sends to another."""
        configure(self.hosts[source], f"neigh del {address(target)} dev eth0")

    def heal(self) -> None:
        """Undo every fault, on all hosts that are not switched off."""
        here = {name: host for name, host in self.hosts.items() if host.outer is not None}
        configure(self.switch, *(f"link set {name} up" for name in here))
        for host in here.values():
            configure(host, "neigh flush dev eth0 nud permanent")
