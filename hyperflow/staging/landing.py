"""Where outputs come home: whole, or not at all.

Before a command is sent, its landing looks at each destination, makes its directory, and puts a marker beside it
(parts.py). What workers bring becomes the destination in one step, when the evaluation has ended: a file by rename, a
directory by exchange with what was there.

Guarantees:
- What cannot be written is refused before anything runs; so is a destination of which another command is on its way.
- When the evaluation fails or is cancelled, nothing of it stays, and what was there before is as it was.
- Whoever is killed when: a destination is the old or the new one. What is left beside it is removed by the next run
  that makes something there (leftovers.py), and by `hyperflow gc`.
- Nothing here blocks the loop: what touches the disk is called in threads, for one landing one after the other.

Of several outputs, all are looked at before the first one gets its name; a crash of the head in between leaves some new
and some old ones.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hyperflow import files
from hyperflow.errors import OutputFailed
from hyperflow.saying import in_words
from hyperflow.staging import destinations, exchange
from hyperflow.staging.arrivals import Arrivals
from hyperflow.staging.full_disk import FULL, no_room
from hyperflow.staging.naming import Plan, Wanted
from hyperflow.staging.parts import Begun, Entry, Manifest, Piece, Post, Ticket, in_tree, part_of
from hyperflow.wire import removal

TRIES = 5
"""How often a directory is made again that another command, which has failed, has removed meanwhile."""


class Landing:
    """The outputs of one command. Methods without `async` touch the disk, and belong in a thread."""

    def __init__(self, plan: Plan, ticket: Ticket) -> None:
        self.argv = list(plan.words)
        self.ticket = ticket
        self.failure: Exception | None = None
        self.on_failure: Callable[[], object] = lambda: None
        self._wanted = {wanted.asked: wanted for wanted in plan.at_home}
        self._made: list[str] = []  # directories, those above first
        self._runs: set[str] = set()
        self._manifests: dict[str, Manifest] = {}
        self._arrivals = Arrivals()
        self._queue: deque[tuple[Piece, asyncio.Future[None]]] = deque()
        self._writing = False

    # ---- before ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make directories and markers; raises ConfigurationError."""
        for wanted in self._wanted.values():
            destinations.check(wanted)
            marker = self.ticket.markers[wanted.asked]
            try:
                self._mark(Path(marker))
            except OSError as error:
                raise destinations.unwritable(wanted, os.path.dirname(marker), error) from error

    def _mark(self, marker: Path) -> None:
        for left in reversed(range(TRIES)):
            self._make_all(marker.parent)
            try:
                number = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                if not left:
                    raise
                continue
            with os.fdopen(number, "w") as file:
                file.write(self.ticket.proof)
            return

    def _make_all(self, directory: Path) -> None:
        missing: list[Path] = []
        while not directory.is_dir():
            missing.append(directory)
            directory = directory.parent
        for each in reversed(missing):
            with suppress(FileExistsError):  # another command was quicker
                each.mkdir()
                self._made.append(str(each))

    # ---- meanwhile ---------------------------------------------------------------------------------------------------

    def received(self, post: Post) -> asyncio.Future[None] | None:
        """A worker says something; the future is done when it may say more."""
        if isinstance(post, Begun):
            self._runs.add(post.run)
        elif isinstance(post, Manifest):
            self._manifests[post.run] = post
        elif self.failure is None and post.asked in self._wanted:
            done = asyncio.get_running_loop().create_future()
            self._queue.append((post, done))
            self._pump()
            return done
        return None

    def _pump(self) -> None:
        if self._writing or not self._queue:
            return
        self._writing = True
        piece, done = self._queue.popleft()

        def written(future: asyncio.Future[None]) -> None:
            self._writing = False
            error = None if future.cancelled() else future.exception()
            if error is not None and self.failure is None:
                self.failure = self._told(piece.asked, error)
                self.on_failure()
            if not done.done():
                done.set_result(None)
            self._pump()

        write = asyncio.get_running_loop().run_in_executor(None, self._write, piece)
        write.add_done_callback(written)

    def _write(self, piece: Piece) -> None:
        if self.failure is None:
            wanted = self._wanted[piece.asked]
            self._arrivals.write(part_of(self.ticket.markers[wanted.asked], piece.run), piece, wanted.kind != "file")

    async def settled(self) -> None:
        """Wait until what has come is written."""
        while self._queue:
            await self._queue[-1][1]
        while self._writing:
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)

    # ---- afterwards --------------------------------------------------------------------------------------------------

    def newest(self, failed: bool) -> Manifest | None:
        """Return what the last try has brought that ended like this."""
        return next((one for one in reversed(self._manifests.values()) if one.failed == failed), None)

    def manifest(self, run: str) -> Manifest | None:
        """Return what a try has brought."""
        return self._manifests.get(run)

    def land(self, manifest: Manifest) -> dict[str, str]:
        """Give what has come its names; return these, by those that the user gave. Raises OutputFailed."""
        if self.failure is not None:
            raise self.failure
        entries: dict[str, list[Entry]] = {}
        for entry in manifest.entries:
            if entry.asked in self._wanted:
                entries.setdefault(entry.asked, []).append(entry)
        for asked, those in entries.items():
            with self._telling(asked):
                self._arrivals.complete(part_of(self.ticket.markers[asked], manifest.run), those)
        landed: dict[str, str] = {}
        for asked, those in entries.items():
            with self._telling(asked):
                part = part_of(self.ticket.markers[asked], manifest.run)
                landed |= give_name(self._wanted[asked], those, part)
        for directory in {os.path.dirname(marker) for marker in self.ticket.markers.values()}:
            with suppress(OSError):
                files.sync_directory(Path(directory))
        return landed

    def clean(self, manifest: Manifest | None) -> None:
        """Remove what is left beside the destinations, and, where nothing came, the directories made for them."""
        self._arrivals.close()
        sought = manifest is None or manifest.again or len(self._runs) != 1
        for marker in self.ticket.markers.values():
            with suppress(OSError):
                os.unlink(marker)
            above, name = os.path.split(marker)
            parts = [f"{name}.{run}" for run in self._runs]
            if sought:
                with suppress(OSError):
                    parts += (found for found in os.listdir(above) if found.startswith(f"{name}."))
            for part in parts:
                removal.remove(os.path.join(above, part))
        for directory in reversed(self._made):
            with suppress(OSError):
                os.rmdir(directory)  # what is in use is not empty

    @contextmanager
    def _telling(self, asked: str) -> Iterator[None]:
        """Tell errors as those of an output."""
        try:
            yield
        except Exception as error:
            raise self._told(asked, error) from error

    def _told(self, asked: str, error: BaseException) -> Exception:
        place = os.path.dirname(self.ticket.markers[asked])
        if isinstance(error, OSError) and error.errno in FULL:
            return OutputFailed(self.argv, asked, no_room(place))
        if isinstance(error, OSError):
            return OutputFailed(self.argv, asked, f"it cannot be written in {place}: {error}")
        if isinstance(error, OutputFailed):
            return error
        return OutputFailed(self.argv, asked, in_words(error))


def give_name(wanted: Wanted, entries: list[Entry], part: str) -> Mapping[str, str]:
    """Give an output its name; return what came where."""
    if wanted.kind == "files":
        landed: dict[str, str] = {}
        for entry in entries:
            place = os.path.join(wanted.place, entry.name)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if os.path.isdir(place) and not os.path.islink(place):
                raise IsADirectoryError(errno.EISDIR, "a directory is in its way", place)
            os.replace(in_tree(part, entry.name), place)
            landed[entry.name] = place
        return landed
    if wanted.kind == "file":
        os.replace(part, wanted.place)
    else:
        exchange.replace_directory(part, wanted.place)
    return {wanted.asked: wanted.place}


def as_post(content: Any) -> Post | None:
    """Return what a worker has posted, if it is one of ours."""
    return content if isinstance(content, (Begun, Manifest, Piece)) else None
