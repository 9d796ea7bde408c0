"""Pictures of notebooks in a real JupyterLab, in a headless browser.

    python -m tests.pictures TARGET [NAME ...]     # TARGET/NAME-1.png, ...: screen by screen, after "run all cells"

It needs chromium (Debian package chromium) and playwright (the Python package; no browser of its own).
"""

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests import notebooks
from tests.helpers import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

WIDTH, HEIGHT = 1200, 1000


def obstacle() -> str:
    """Return why there can be no picture; "" if there can."""
    if CHROMIUM is None:
        return "there is no chromium (Debian package chromium)"
    try:
        import playwright.async_api  # noqa: F401
    except ImportError:
        return "there is no playwright (pip install playwright)"
    return ""


@asynccontextmanager
async def lab(directory: Path) -> AsyncIterator[str]:
    """Run JupyterLab on a directory, on a port of this machine's own; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = os.urandom(16).hex()
    place = directory.parent / "jupyter"
    place.mkdir()
    with (place / "log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"),
            *("--ip=127.0.0.1", f"--notebook-dir={directory}"),
            env={**notebooks.environment(place), "JUPYTER_TOKEN": token},
            stdout=log,
            stderr=log,
        )
        try:
            runtime = place / "runtime"
            await wait_until(lambda: list(runtime.glob("jpserver-*.json")), 60, "JupyterLab has started")
            yield f"http://127.0.0.1:{port}/lab/tree/{{name}}.ipynb?token={token}"
        finally:
            server.terminate()
            await server.wait()


async def photograph(name: str, target: Path, within: Path) -> list[Path]:
    """Run all cells of a notebook in JupyterLab, and take pictures of it from its beginning to its end."""
    from playwright.async_api import async_playwright

    directory = within / "notebooks"
    directory.mkdir()
    source: Any = json.loads((notebooks.DIRECTORY / f"{name}.ipynb").read_text())
    for cell in source["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    (directory / f"{name}.ipynb").write_text(json.dumps(source))
    taken: list[Path] = []
    async with lab(directory) as address, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        await page.goto(address.format(name=name), timeout=60_000)
        await page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        await page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=60_000)
        await page.keyboard.press("Escape")
        await page.click("text=Run >> nth=0")
        await page.click("text=Run All Cells")
        last = len([cell for cell in source["cells"] if cell["cell_type"] == "code"])
        for number in range(1, 1000):  # while it runs: the picture that grows
            path = target / f"{name}-{number}.png"
            await page.screenshot(path=path)
            taken.append(path)
            if await page.locator(f".jp-InputPrompt:has-text('[{last}]:')").count() or number > 100:
                break
            await asyncio.sleep(1)
        await browser.close()
    return taken


async def main(arguments: Sequence[str]) -> None:
    """Take pictures."""
    import tempfile

    target = Path(arguments[0])
    target.mkdir(parents=True, exist_ok=True)
    for name in arguments[1:] or notebooks.LOCAL:
        with tempfile.TemporaryDirectory(prefix="pictures-") as within:
            for path in await photograph(name, target, Path(within)):
                print(path)


if __name__ == "__main__":
    if reason := obstacle():
        sys.exit(reason)
    asyncio.run(main(sys.argv[1:]))
