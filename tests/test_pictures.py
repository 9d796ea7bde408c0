"""What a user sees in a real JupyterLab, in a headless browser."""

from pathlib import Path

import pytest

from tests import pictures

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(240),
    pytest.mark.skipif(bool(pictures.obstacle()), reason=pictures.obstacle() or "there can be pictures"),
]


async def test_tour(tmp_path: Path) -> None:
    """All cells run, the picture grows, and our objects are tables; nothing is left when the kernel is shut down."""
    taken, text = await pictures.photograph("tour", tmp_path, tmp_path)
    assert len({path.read_bytes() for path in taken}) > 3
    for part in ("in force in every cell", "which runs when it is awaited", "3 entries", "nobody has awaited it"):
        assert part in text, part
