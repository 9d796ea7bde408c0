"""A Cluster program all of whose jobs run on this machine (`--local`): its master is the head, and needs no Slurm."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hyperflow import files
from tests.chaos.run import Run
from tests.imports import TOP


class HereRun(Run):
    """A run of such a program. Started again, it resumes, after jobs that have failed were told to be retried."""

    patience = 60.0

    def start(self) -> None:
        """Start the program, or resume it."""
        if self.home is not None:
            self.environment["CHAOS_RESUME"] = str(self.home)
            words = [sys.executable, "-m", "hyperflow", "retry", "--all", "--run", str(self.home)]
            subprocess.run(words, cwd=TOP, check=False, capture_output=True)
        super().start()

    def _launch(self, command: list[str], variables: Mapping[str, str]) -> None:
        # Not to be inherited by jobs, which may run on into the next turn: they read the file.
        super()._launch(command, {name: value for name, value in variables.items() if name != "CHAOS_TURN"})

    @property
    def home(self) -> Path | None:
        """The run directory, once there is one."""
        return next((path.parent for path in (self.disk / "runs").glob("*/jobs")), None)

    def reports(self) -> str:
        """Return what the jobs have printed."""
        outputs = sorted(self.home.glob("jobs/*/slurm.out")) if self.home else []
        return "\n".join(f"{path}:\n{files.tail(path, lines=30)}" for path in outputs)
