"""What is sent once to a node and once to a worker, and named by a number from then on."""

from __future__ import annotations

from hyperflow.wire.shared_memory import Block


class Definition:
    """A pickled function or class.

    Attributes:
        number: Its name on the wire.
        data: The pickle.
        is_class: Classes are made as soon as they arrive, functions when they are first called.
        users: Tasks under way that use it.
        name: For logs.
    """

    __slots__ = ("data", "is_class", "name", "number", "users")

    def __init__(self, number: int, data: bytes, is_class: bool, name: str) -> None:
        self.number = number
        self.data = data
        self.is_class = is_class
        self.users = 0
        self.name = name


class Attachment:
    """A large buffer of an argument.

    Attributes:
        number: Its name on the wire.
        block: Where it is.
        users: Tasks under way that use it.
    """

    __slots__ = ("block", "number", "users")

    def __init__(self, number: int, block: Block) -> None:
        self.number = number
        self.block = block
        self.users = 0
