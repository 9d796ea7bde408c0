"""Where the logs of nodes are: in the run's directory, or on a node that does not share it."""

from __future__ import annotations

from pathlib import Path


class LogPlaces:
    """The directories of logs, by node; also of nodes that have gone, because errors name their logs."""

    def __init__(self, log_dir: Path) -> None:
        self.here = log_dir
        self._elsewhere: dict[str, str] = {}

    def add(self, node: str, directory: str) -> None:
        """A node has its logs in a directory of its own; "" for that of the run, also if its name was there before."""
        if directory:
            self._elsewhere[node] = directory
        else:
            self._elsewhere.pop(node, None)

    def path(self, node: str, name: str) -> str:
        """Return the path of a log, as the node knows it."""
        return f"{self._elsewhere.get(node) or self.here}/{name}"

    def for_people(self, node: str, name: str) -> str:
        """Return where a log is: with the node, if nobody else can see it."""
        path = self.path(node, name)
        return f"{node}:{path}" if node in self._elsewhere else path
