"""Pictures of notebooks in a real JupyterLab, in a headless browser.

    python -m tests.pictures TARGET [NAME ...]     # TARGET/NAME-1.png, ...: one each second while all cells run
    python -m tests.pictures --here TARGET NAME    # in this surrounding: what runs within an allocation

Those that need Slurm run on the cluster of `tests/cluster`, browser and all.

It needs chromium (Debian package chromium), playwright (the Python package; none of its own browsers) and JupyterLab
(`make notebook` installs it).
"""

import asyncio
import importlib.util
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests import notebooks
from tests.cluster.cluster import cluster as held_cluster
from tests.helpers import wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

WIDTH, HEIGHT = 1100, 4600
"""High enough for a whole notebook: JupyterLab draws only what is in sight."""

SECONDS = 60

KERNEL_IS_IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"

NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}


def obstacle() -> str:
    """Return why there can be no picture; "" if there can."""
    if CHROMIUM is None:
        return "there is no chromium (Debian package chromium)"
    for name in ("playwright", "jupyterlab"):
        if importlib.util.find_spec(name) is None:
            return f"there is no {name} (pip install {name})"
    return ""


@asynccontextmanager
async def lab(directory: Path) -> AsyncIterator[str]:
    """Run JupyterLab on a directory, on a port of this machine's own; give its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = os.urandom(16).hex()
    place = directory.parent / "jupyter"
    settings = place / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(NO_NEWS))
    surroundings = {"JUPYTER_TOKEN": token, "JUPYTERLAB_SETTINGS_DIR": str(place / "settings")}
    with (place / "log").open("wb") as log:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"),
            *(f"--notebook-dir={directory}", "--LabApp.expose_app_in_browser=True"),
            env=notebooks.environment(place) | surroundings,
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


async def photograph(name: str, target: Path, within: Path) -> tuple[list[Path], str]:
    """Run all cells of a notebook in JupyterLab; return a picture for each second, and the text in the end."""
    from playwright.async_api import async_playwright

    directory = within / "notebooks"
    directory.mkdir()
    source: Any = json.loads((notebooks.DIRECTORY / f"{name}.ipynb").read_text())
    code = [cell for cell in source["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        cell |= {"outputs": [], "execution_count": None}
    (directory / f"{name}.ipynb").write_text(json.dumps(source))
    taken: list[Path] = []
    async with lab(directory) as address, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        await page.goto(address.format(name=name), timeout=60_000)
        await page.wait_for_function(KERNEL_IS_IDLE, timeout=60_000)
        await page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        running = asyncio.ensure_future(page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')"))
        for number in range(1, SECONDS):  # while it runs: the picture that grows
            ended, _ = await asyncio.wait([running], timeout=1)
            taken.append(target / f"{name}-{number}.png")
            await page.screenshot(path=taken[-1])
            if ended:
                break
        text = await page.inner_text(".jp-Notebook")
        await page.evaluate("window.jupyterapp.serviceManager.sessions.shutdownAll()")
        await browser.close()
    return taken, text


def on_cluster(name: str, target: Path) -> None:
    """Take pictures where a notebook belongs on a cluster."""
    with held_cluster() as cluster:
        directory = cluster.home / name
        directory.mkdir()
        command = (sys.executable, "-m", "tests.pictures", "--here", str(directory), name)
        notebooks.run_on_cluster(command, name, directory, cluster)
        for picture in sorted(directory.glob("*.png")):
            shutil.copy(picture, target)


def main(arguments: Sequence[str]) -> None:
    """Take pictures."""
    if arguments[0] == "--here":
        target, name = Path(arguments[1]), arguments[2]
        asyncio.run(photograph(name, target, target))
        return
    target = Path(arguments[0])
    target.mkdir(parents=True, exist_ok=True)
    for name in arguments[1:] or (*notebooks.LOCAL, *notebooks.SLURM):
        if name in notebooks.SLURM:
            on_cluster(name, target)
        else:
            with tempfile.TemporaryDirectory(prefix="pictures-") as within:
                asyncio.run(photograph(name, target, Path(within)))
    print(*sorted(target.glob("*.png")), sep="\n")


if __name__ == "__main__":
    if reason := obstacle():
        sys.exit(reason)
    main(sys.argv[1:])
