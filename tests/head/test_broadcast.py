"""Broadcasts: who gets a block from whom. The nodes are pretended."""

import hashlib
import random
from collections.abc import Iterator
from typing import Any

import pytest

from hyperflow.head import broadcast
from hyperflow.head.broadcast import FAN_OUT, ROOTS, Broadcast
from hyperflow.wire import frames, messages
from hyperflow.wire.frames import Kind
from hyperflow.wire.messages import Fetch, Fetched, Listen, Listening
from hyperflow.wire.numbers import DefinitionNumber
from hyperflow.wire.shared_memory import Block

DATA = b"data" * 1000
NUMBER = DefinitionNumber(7)


class Node:
    """Takes what a link is to send."""

    def __init__(self, name: str, net: "Net", shares_memory: bool = False) -> None:
        self.name = name
        self.shares_memory = shares_memory
        self.net = net
        self.blocks = 0
        self.parent: str | None = None
        self.whole = False
        self.fetches: list[Fetch] = []
        self.listens = False

    def write_block(self, number: int, block: Block) -> None:
        """Get it from the head."""
        self.blocks += 1
        self.parent, self.whole = None, True

    def write(self, parts: list[frames.Bytes]) -> None:
        """Get an order."""
        for kind, _, body in frames.Reader().feed(b"".join(parts)):
            if kind == Kind.FETCH:
                order = messages.read(Fetch, body)
                assert order.digest == hashlib.sha256(DATA).hexdigest()
                self.parent = order.hosts[0] if order.hosts else None
                self.fetches.append(order)
            elif messages.read(Listen, body).open:
                self.listens = True
                self.net.say(self.name, Listening((self.name,), 1000 if self.net.reachable else 0))


class Net:
    """The nodes, and what they have said that the head has not heard yet."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.reachable = True
        self.said: list[tuple[str, messages.Message]] = []
        self.broadcast = Broadcast(self.nodes, enabled=True)  # type: ignore[arg-type]
        self.block = Block.of(memoryview(DATA))

    def add(self, *names: str, **options: Any) -> None:
        """More nodes need the block."""
        for name in names:
            self.nodes[name] = Node(name, self, **options)
            self.broadcast.give(name, NUMBER, self.block)

    def say(self, node: str, message: messages.Message) -> None:
        self.said.append((node, message))

    def hear(self) -> None:
        """Let the head hear all."""
        while self.said:
            node, message = self.said.pop(0)
            ((kind, _, body),) = frames.Reader().feed(messages.framed(message))
            self.broadcast.on_message(node, kind, body)

    def lose(self, name: str) -> None:
        """A node has gone."""
        del self.nodes[name]
        self.broadcast.lost(name)

    @property
    def sent(self) -> int:
        """How often the head has sent the block."""
        return sum(node.blocks for node in self.nodes.values())

    def settle(self) -> None:
        """Let everybody get it whose parent has it; all have it in the end, or somebody waits for himself."""
        self.hear()
        while waiting := [node for node in self.nodes.values() if not node.whole]:
            able = [node for node in waiting if node.parent in self.nodes and self.nodes[node.parent].whole]
            assert able, {node.name: node.parent for node in waiting}
            for node in able:
                node.whole = True
                self.say(node.name, Fetched(NUMBER, ""))
            self.hear()


class _Kept:
    """What a node has, and the head can pass on."""

    is_file = True
    size = len(DATA)
    digest = hashlib.sha256(DATA).hexdigest()

    def __init__(self, net: Net) -> None:
        self.net = net

    def send(self, link: Any, number: DefinitionNumber) -> None:
        """Send it from the head."""
        link.write_block(number, self.net.block)


@pytest.fixture
def net() -> Iterator[Net]:
    """Give a test nodes."""
    made = Net()
    yield made
    made.block.close()


def test_a_thousand_nodes(net: Net) -> None:
    """The head sends to two; no node hands on to more than it should."""
    net.add(*(f"n{at}" for at in range(1000)))
    net.hear()
    children = [node.parent for node in net.nodes.values() if node.blocks == 0]
    assert max(map(children.count, net.nodes)) == FAN_OUT
    net.settle()
    assert net.sent == ROOTS
    assert sum(node.listens for node in net.nodes.values()) < 1000 / FAN_OUT + FAN_OUT


def test_a_parent_is_lost(net: Net) -> None:
    """Its children get another one; nothing is sent twice from here."""
    net.add(*(f"n{at}" for at in range(40)))
    net.hear()
    orphans = [node for node in net.nodes.values() if node.parent == "n0"]
    assert len(orphans) == FAN_OUT
    net.lose("n0")
    net.hear()
    assert all(node.parent not in (None, "n0") for node in orphans)
    net.settle()
    assert net.sent == ROOTS - 1


def test_a_node_that_cannot_be_served(net: Net) -> None:
    """Two parents are tried, then the head sends it; others that could be served do not mind."""
    net.add(*(f"n{at}" for at in range(20)))
    net.hear()
    net.nodes["n2"].whole = True
    net.say("n2", Fetched(NUMBER, ""))
    for _ in range(broadcast.TRIES):
        assert net.nodes["n9"].blocks == 0
        net.say("n9", Fetched(NUMBER, "nobody answers"))
        net.hear()
    assert net.nodes["n9"].blocks == 1
    net.settle()
    assert net.sent == ROOTS + 1
    assert net.broadcast.enabled


def test_a_firewall(net: Net) -> None:
    """Where no node reaches another, the head sends all, and says so once."""
    net.add(*(f"n{at}" for at in range(10)))
    net.hear()
    while waiting := [node for node in net.nodes.values() if not node.whole]:
        for node in waiting:
            net.say(node.name, Fetched(NUMBER, "no route to host"))
        net.hear()
    assert net.sent == 10
    assert not net.broadcast.enabled
    net.add("late")
    assert net.nodes["late"].blocks == 1


def test_nodes_without_an_address(net: Net) -> None:
    """They cannot hand anything on."""
    net.reachable = False
    net.add(*(f"n{at}" for at in range(6)))
    net.hear()
    assert net.sent == 6


def test_a_second_block_without_an_address(net: Net) -> None:
    """Nobody is sent to a node of which it is known already that others cannot find it."""
    net.reachable = False
    net.add("a", "b", "c")
    net.settle()
    second = DefinitionNumber(8)
    net.broadcast.has("a", second, _Kept(net))
    net.broadcast.spread("b", second, _Kept(net))
    assert net.nodes["b"].blocks == 2


def test_who_shares_memory(net: Net) -> None:
    """Such a node gets no content, and nobody is sent to it; switched off, all come from the head."""
    net.add("here", shares_memory=True)
    net.add("n1", "n2", "n3")
    net.settle()
    assert (net.sent, net.nodes["n3"].blocks) == (1 + ROOTS, 0)
    assert net.nodes["n3"].parent in ("n1", "n2")

    net.broadcast.enabled = False
    net.add("n4")
    assert net.nodes["n4"].blocks == 1


def test_what_is_forgotten(net: Net) -> None:
    """What is said about it later is nothing."""
    net.add("n1", "n2", "n3")
    net.broadcast.forget([NUMBER])
    net.say("n3", Fetched(NUMBER, "its parent has forgotten it"))
    net.hear()
    assert net.sent == ROOTS


@pytest.mark.parametrize("seed", range(20))
def test_random_histories(net: Net, seed: int) -> None:
    """Whatever is lost, late or fails in whatever order: all that are left have it in the end."""
    dice = random.Random(seed)
    for at in range(60):
        net.add(f"n{at}")
        if dice.random() < 0.3:
            net.hear()
        if dice.random() < 0.1 and len(net.nodes) > 1:
            net.lose(dice.choice(list(net.nodes)))
        waiting = [node for node in net.nodes.values() if not node.whole]
        for node in waiting:
            if node.parent in net.nodes and net.nodes[node.parent].whole and dice.random() < 0.5:
                node.whole = dice.random() < 0.9
                net.say(node.name, Fetched(NUMBER, "" if node.whole else "bad luck"))
    net.settle()


class OfFile:
    """A file on its way; notes to whom the head sends it."""

    is_file = True
    size = 7
    digest = hashlib.sha256(DATA).hexdigest()

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, link: Any, number: DefinitionNumber) -> None:
        """Send it."""
        assert number == NUMBER
        self.sent.append(link.name)


@pytest.fixture
def file(net: Net) -> OfFile:
    """Give a test a file, and five nodes that want it, of which the first two get it from the head."""
    made = OfFile()
    for name in "abcde":
        net.nodes[name] = Node(name, net)
        net.broadcast.spread(name, NUMBER, made)
    net.hear()
    assert made.sent == ["a", "b"]
    assert all(order.is_file for node in net.nodes.values() for order in node.fetches)
    return made


def test_a_node_that_cannot_have_it(net: Net, file: OfFile) -> None:
    """Its disk is full: nobody else gets it from there, those who did turn to others; it may ask again later."""
    heard: list[tuple[str, str]] = []
    net.broadcast.on_fetched = lambda node, number, cause: heard.append((node, cause))
    full = net.nodes["c"].parent
    assert full in ("a", "b")
    net.say(full, Fetched(NUMBER, "No space left", own=True))
    net.hear()
    assert heard == [(full, "No space left")]
    assert net.nodes["c"].parent not in (full, None)
    assert full not in (net.nodes["d"].parent, net.nodes["e"].parent)
    net.broadcast.spread(full, NUMBER, file)
    assert file.sent[2:] == [full]


def test_where_it_came_from(net: Net, file: OfFile) -> None:
    """Who has got wrong bytes can be told whose they were."""
    parent = net.nodes["c"].parent
    net.say("c", Fetched(NUMBER, ""))
    net.hear()
    assert net.broadcast.source_of("c", NUMBER) == parent
    assert net.broadcast.source_of("a", NUMBER) == ""
    net.broadcast.forget([NUMBER])
    assert net.broadcast.source_of("c", NUMBER) == ""
    assert file.sent == ["a", "b"]


def test_what_a_node_has_kept(net: Net) -> None:
    """It is the root: the head sends nothing, as long as that node is reached."""
    made = OfFile()
    for name in "abc":
        net.nodes[name] = Node(name, net)
    net.broadcast.has("a", NUMBER, made)
    net.broadcast.spread("b", NUMBER, made)
    net.broadcast.spread("c", NUMBER, made)
    net.hear()
    assert {net.nodes["b"].parent, net.nodes["c"].parent} <= {"a", "b"}
    assert not made.sent
