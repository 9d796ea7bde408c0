"""Pictures of the built documentation: `make site-pictures TARGET=directory`, after `make docs`.

    python -m tests.site_pictures TARGET [PAGE ...]

It needs headless chromium (Debian package chromium). The pages are opened as files, as on a cluster without a network.
Each is also looked at: what it asks another host for, what stands in its console, what is too wide for the window, and
what axe says that some people could not read. Anything of it is printed, and then the exit code is 1.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.imports import TOP
from tests.pictures import CHROMIUM

if TYPE_CHECKING:
    from playwright.async_api import Page

SITE = TOP / "docs" / "_build" / "html" / "dev"


@dataclass(frozen=True)
class Picture:
    """One picture: which page, how wide the window is, and in which light."""

    name: str
    page: str
    width: int = 1280
    height: int = 800
    scheme: str = "light"
    element: str = ""
    """What of the page; all that is seen first if empty."""


PHONE = 390
SERIOUS = ("error", "warning")
LOCAL = ("file:", "data:", "blob:")

PICTURES = (
    Picture("site_landing", "index"),
    Picture("site_start", "start/laptop"),
    Picture("site_guide_dark", "guides/pools", scheme="dark"),
    Picture("site_program", "gallery/bisection"),
    Picture("site_gallery_phone", "gallery/index", PHONE, 844),
    Picture("site_error_phone_dark", "reference/errors/WorkerDied", PHONE, 844, "dark"),
    Picture("gallery", "gallery/index", element=".sphx-glr-thumbnails"),
)


async def _objections(page: Page) -> AsyncIterator[str]:
    """Say what is wrong with an open page for some of its readers."""
    import axe_core_python

    if await page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        yield "it is wider than the window"
    await page.evaluate(next(Path(axe_core_python.__file__).parent.rglob("axe.min.js")).read_text())
    for found in (await page.evaluate("axe.run()"))["violations"]:
        yield f"axe: {found['id']}: {found['help']}: {found['nodes'][0]['html'][:200]}"


def _make_small(file: Path) -> None:
    """Write a picture with fewer colours, so that it fits into git."""
    from PIL import Image

    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(file, optimize=True)


async def photograph(target: Path, pictures: list[Picture]) -> list[str]:
    """Take the pictures, of what a reader sees first; return what is wrong with the pages."""
    from playwright.async_api import async_playwright

    wrong: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for picture in pictures:
            size = {"width": picture.width, "height": picture.height}
            page = await browser.new_page(viewport=size, color_scheme=picture.scheme)  # type: ignore[arg-type]
            seen: list[str] = []
            page.on("console", lambda said, seen=seen: said.type in SERIOUS and seen.append(said.text))
            page.on("pageerror", lambda error, seen=seen: seen.append(f"error: {error}"))
            page.on("request", lambda it, seen=seen: it.url.startswith(LOCAL) or seen.append(f"asks for {it.url}"))
            page.on("requestfailed", lambda it, seen=seen: seen.append(f"is not there: {it.url}"))
            await page.goto((SITE / f"{picture.page}.html").as_uri())
            await page.wait_for_load_state("load")
            file = target / f"{picture.name}.png"
            await (page.locator(picture.element) if picture.element else page).screenshot(path=file)
            _make_small(file)
            seen += [one async for one in _objections(page)]
            wrong += [f"{picture.page} ({picture.name}): {one}" for one in seen]
            await page.close()
        await browser.close()
    return wrong


def main(arguments: list[str]) -> int:
    """Take all pictures, or those of the named pages: each of these wide, dark and on a phone."""
    target = Path(arguments[0])
    target.mkdir(parents=True, exist_ok=True)
    pictures = list(PICTURES)
    if arguments[1:]:
        named = [(page, f"site_{page.replace('/', '_')}") for page in arguments[1:]]
        pictures = [Picture(f"{name}_dark", page, scheme="dark") for page, name in named]
        pictures += [Picture(f"{name}_phone", page, PHONE, 844) for page, name in named]
        pictures += [Picture(name, page) for page, name in named]
    wrong = asyncio.run(photograph(target, pictures))
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
