"""Which start of an array this is, of which tasks, and what came of it: `RUN/array/start.json`.

Guarantees: two starts that are to run other tasks have other numbers, so that a master does not take the Slurm jobs of
one for those of the other. One whose process was killed goes on under its number, with the jobs that it has at Slurm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs

from hyperflow import files
from hyperflow.commands.tally import Counts
from hyperflow.errors import ConfigurationError

NAME = "start.json"


@attrs.frozen
class Start:
    """One start.

    Args:
        number: From 1.
        chosen: What was asked for: numbers, "failed", or "" for all.
        counts: What came of it; None as long as it has not ended.
        error: What has ended it before its tasks had; "" for nothing.
    """

    number: int = 1
    chosen: str = ""
    counts: Counts | None = None
    error: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it came to its end, or told what ended it."""
        return self.counts is not None or bool(self.error)

    @property
    def exit_code(self) -> int:
        """0 if all that was asked for is done."""
        return 0 if self.counts is not None and self.counts.all_done else 1

    def next(self, chosen: str, takes_over: bool) -> Start:
        """Return the start after this one.

        Args:
            chosen: What is asked for now.
            takes_over: Whether jobs of this one may still be at Slurm.

        Raises:
            ConfigurationError: They may, and something else is asked for.
        """
        if self.has_ended or not takes_over:
            return Start(self.number + 1, chosen)
        if chosen not in ("", self.chosen):
            raise ConfigurationError(
                "it was left before it had ended, and may have jobs at Slurm; let it end first: hyperflow resume"
            )
        return attrs.evolve(self)

    def write(self, directory: Path) -> None:
        """Keep it; raises OSError."""
        files.write_whole(directory / NAME, json.dumps(attrs.asdict(self)).encode() + b"\n")

    @classmethod
    def read(cls, directory: Path) -> Start | None:
        """Return the newest start of the array that is kept there; None if it never was, or cannot be read."""
        try:
            said = json.loads((directory / NAME).read_bytes())
            counts: dict[str, Any] | None = said["counts"]
            if counts is not None:
                counts["failures"] = tuple(counts["failures"])
            found = None if counts is None else Counts(**counts)
            return cls(said["number"], said["chosen"], found, said["error"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
