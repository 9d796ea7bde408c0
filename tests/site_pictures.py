"""Pictures of the built documentation: `make site-pictures TARGET=directory`, after `make docs`.

    python -m tests.site_pictures TARGET [PAGE ...]

It needs headless chromium (Debian package chromium). The pages are opened as files, as on a cluster without a network.
"""

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.imports import TOP
from tests.pictures import CHROMIUM

SITE = TOP / "docs" / "_build" / "html" / "dev"


@dataclass(frozen=True)
class Picture:
    """One picture: which page, how wide the window is, and in which light."""

    name: str
    page: str
    width: int = 1280
    height: int = 800
    scheme: str = "light"


PHONE = 390

PICTURES = (
    Picture("landing", "index"),
    Picture("start", "start/laptop"),
    Picture("guide_dark", "guides/pools", scheme="dark"),
    Picture("gallery_phone", "gallery/index", PHONE, 844),
    Picture("error_phone_dark", "reference/errors/WorkerDied", PHONE, 844, "dark"),
)


async def photograph(target: Path, pictures: list[Picture]) -> None:
    """Take the pictures, of what a reader sees first."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for picture in pictures:
            size = {"width": picture.width, "height": picture.height}
            page = await browser.new_page(viewport=size, color_scheme=picture.scheme)  # type: ignore[arg-type]
            await page.goto((SITE / f"{picture.page}.html").as_uri())
            await page.wait_for_load_state("load")
            await page.screenshot(path=target / f"site_{picture.name}.png")
            await page.close()
        await browser.close()


def main(arguments: list[str]) -> None:
    """Take all pictures, or those of the named pages: each of these wide, dark and on a phone."""
    target = Path(arguments[0])
    target.mkdir(parents=True, exist_ok=True)
    pictures = list(PICTURES)
    if arguments[1:]:
        named = [(page, page.replace("/", "_")) for page in arguments[1:]]
        pictures = [Picture(f"{name}_dark", page, scheme="dark") for page, name in named]
        pictures += [Picture(f"{name}_phone", page, PHONE, 844) for page, name in named]
        pictures += [Picture(name, page) for page, name in named]
    asyncio.run(photograph(target, pictures))


if __name__ == "__main__":
    main(sys.argv[1:])
