"""What a login prints before the launcher's first line."""

from pathlib import Path

import pytest

from hyperflow.config import Settings
from hyperflow.errors import LauncherError
from hyperflow.head.link import Link
from hyperflow.transports.process import Local
from hyperflow.wire import frames
from hyperflow.wire.frames import Kind

MEGABYTE = b"welcome " * (1 << 17)


@pytest.fixture
async def link(tmp_path: Path) -> Link:
    """A link whose launcher has not said anything."""
    return Link(Local("n"), Settings(), tmp_path, lambda *_: None, lambda *_: None)


async def test_megabytes_are_skipped(link: Link) -> None:
    """However much comes, the launcher's first line is found, also in two pieces."""
    for _ in range(8):
        link.data_received(MEGABYTE)
    link.data_received(frames.HELLO[:3])
    link.data_received(frames.HELLO[3:] + frames.frame(Kind.GREETING, body=b"hello"))

    assert await link._next(1.0) == (Kind.GREETING, b"hello")


async def test_its_end_is_told(link: Link) -> None:
    """If no launcher comes, the error has the last of it, and not all of it."""
    for _ in range(8):
        link.data_received(MEGABYTE)
    link.data_received(b"and that was all")
    link.connection_lost(None)

    with pytest.raises(LauncherError, match="and that was all") as raised:
        await link._next(1.0)
    assert len(str(raised.value)) < 10_000
