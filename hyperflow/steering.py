"""What people steer: the pool of nodes of a running program, as its control socket asks for it.

The words between `control/`, which has the requests, `head/`, which has the engine that they reach, and `pools/`, which
carries them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

LIMITS = ("min_allocations", "max_allocations", "max_queued", "idle_timeout", "target_duration")
"""The options of a NodePool that may be changed while it is open."""


class Steered(Protocol):
    """A pool of nodes."""

    def info(self) -> Mapping[str, Any]:
        """Return what people see of it (docs/control-api.md)."""
        ...

    def set(self, **changes: Any) -> None:
        """Change limits; raises ConfigurationError."""

    def pause(self) -> None:
        """Ask for no more allocations."""

    def resume(self, **changes: Any) -> None:
        """Go on, with changes of the SbatchOptions; raises ConfigurationError."""

    def asked(self) -> int:
        """Return how many nodes have been asked for, and are not there."""
        ...

    def keep_away(self, node: str, /) -> None:
        """A person gives this node back: do not use it again by yourself."""

    def take_back(self, node: str, /) -> bool:
        """A person wants a node again that is not there; return whether it is one that can be tried."""
        ...
