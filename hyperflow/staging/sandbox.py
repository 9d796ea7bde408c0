"""The directory of one command on a node: its inputs are linked there, its outputs are taken from there.

    work/    where the command starts: links to its inputs; what it makes
    tmp/     its TMPDIR

Guarantees: when the scope ends, nothing of it is left, whatever the command did to it. Outputs of a command that has
failed are those that were asked for in that case, and of one that has not, the others. A command that finds no room is
told of as such, so that it is tried on another node.

Inputs are links, and not copies, because they are large and many commands share them: the copy in the node's cache is
read-only, and who removes a link removes nothing else. A program that is an input is copied where its mode does not let
it run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hyperflow.errors import OutputFailed, ScratchFull
from hyperflow.staging.delivery import Delivery
from hyperflow.staging.full_disk import FULL, free_at
from hyperflow.staging.made import Made, Unfit
from hyperflow.staging.naming import Plan, Wanted
from hyperflow.staging.parts import Ticket
from hyperflow.staging.scratch import scratch
from hyperflow.worker.worker import log_line, worker_info

LITTLE = 1 << 20
"""Bytes: where no more are free when a command has failed, that is taken for the reason."""

FULL_TEXTS = tuple(map(os.strerror, FULL[:2]))
"""What programs write where something does not fit."""


class Sandbox:
    """One command's directory; `with Sandbox.opened(plan, ticket) as box`."""

    def __init__(self, plan: Plan, box: Path) -> None:
        self._plan = plan
        self.home = box / "work"
        self.temporary = box / "tmp"
        self.run = ""
        """The name of this try, once its outputs are on their way."""
        self.said = ""
        """The end of what a command wrote that has failed, if it is at hand."""
        self.failed = False
        """Whether the command has failed; an exception says so, too."""

    @classmethod
    @contextmanager
    def opened(cls, plan: Plan, ticket: Ticket | None) -> Iterator[Sandbox]:
        """Make the directory; when the scope ends, bring the outputs to where the ticket says.

        Raises:
            ScratchFull: There is no room for inputs or outputs on this node.
            OutputFailed: An output is missing, is something else, leads out of here, or there is no room for it.
        """
        with scratch() as box:
            made = cls(plan, box)
            with made._told_if_full("the inputs of a command"):
                made._fill()
            try:
                yield made
            except Exception as error:
                made.said, made.failed = made.said or str(error), True
                made._end(ticket)
                raise
            made._end(ticket)

    @property
    def words(self) -> list[str]:
        """The command."""
        return list(self._plan.words)

    @property
    def variables(self) -> dict[str, str]:
        """Variables of the command."""
        return {"TMPDIR": str(self.temporary)}

    @property
    def stdin(self) -> str:
        """The file that it reads; "" for none."""
        return str(self.home / self._plan.stdin) if self._plan.stdin else ""

    @property
    def stdout(self) -> str:
        """The file for its output; "" for none."""
        return str(self.home / self._plan.stdout) if self._plan.stdout else ""

    def _fill(self) -> None:
        self.home.mkdir(0o700)
        self.temporary.mkdir(0o700)
        for name, file in self._plan.inputs.items():
            place = self.home / name
            place.parent.mkdir(parents=True, exist_ok=True)
            here = file.path()
            if self._is_program(name) and not os.access(here, os.X_OK):
                shutil.copyfile(here, place)
                place.chmod(0o700)
            else:
                place.symlink_to(here)
        for wanted in self._plan.outputs:
            (self.home / wanted.name).parent.mkdir(parents=True, exist_ok=True)

    def _is_program(self, name: str) -> bool:
        return os.path.normpath(self._plan.words[0]) == name

    def _end(self, ticket: Ticket | None) -> None:
        """The command has ended: bring what is to come."""
        if self.failed:
            self._check_room()
        due = [wanted for wanted in self._plan.outputs if wanted.on_failure == self.failed]
        if ticket is None or not self._plan.outputs:
            return
        delivery = Delivery(ticket, self._plan.words)
        made = Made(str(self.home), self._plan.inputs, [str(file.path()) for file in self._plan.inputs.values()])
        for wanted in due:
            try:
                self._bring(delivery, made, wanted)
            except OutputFailed as error:
                if not self.failed:
                    raise
                log_line(f"{error}")
        self.run = delivery.end(self.failed)

    def _bring(self, delivery: Delivery, made: Made, wanted: Wanted) -> None:
        try:
            found = made.find(wanted)
        except Unfit as unfit:
            info = worker_info()
            raise OutputFailed(self.words, wanted.asked, str(unfit), info.node, info.log_file) from None
        if wanted.keep == "home":
            delivery.bring(wanted, found)
            return
        with self._told_if_full(f"output {wanted.asked!r}"):
            delivery.keep(wanted, found)

    def _check_room(self) -> None:
        """Raise ScratchFull if that is why the command has failed, as far as can be seen."""
        free, why = free_at(self.home), f"command {self.words!r} has failed there"
        if any(text in self.said for text in FULL_TEXTS):
            why += ", and has written that there is no room (if it writes elsewhere, there may be none in that place)"
        elif not 0 <= free < LITTLE:
            return
        raise ScratchFull(worker_info().node, str(self.home), why, free)

    @contextmanager
    def _told_if_full(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in FULL:
                place = str(self.home.parent)
                raise ScratchFull(
                    worker_info().node, place, f"{what} did not fit", free_at(self.home.parent)
                ) from error
            raise
