"""Pictures of `hyperflow dashboard` and `hyperflow report`, of a Cluster program on three nodes with Slurm.

    python -m tests.page_pictures TARGET        # TARGET/page.png, page_dark.png, page_phone.png, report.png and .html

A node is lost while it runs, and one of its jobs fails and is held. It needs what `tests.pictures` needs.
"""

import asyncio
import re
import shutil
import signal
import sys
from pathlib import Path

from tests.cluster.cluster import Cluster
from tests.cluster.cluster import cluster as held_cluster
from tests.helpers import block_until
from tests.imports import TOP
from tests.pictures import CHROMIUM

PROGRAM = '''\
import math
import random
import time
from pathlib import Path

import hyperflow as hf

STEPS = 24


def lifetime(x: float, y: float) -> float:
    """Follow an ion in the ring until it is lost: a longer way where it is stable."""
    turns = 60 * math.exp(-3 * (x * x + y * y)) * random.uniform(0.8, 1.2)
    time.sleep(0.05 + turns / 60)
    return turns


def match(angle: float) -> float:
    """Fit the optics for one angle."""
    time.sleep(0.5)
    if angle > 0.6:
        raise ArithmeticError(f"the matching does not converge for {angle:.2f} rad")
    return math.sin(angle)


@hf.job
async def region() -> float:
    """Scan the stable region; refine its edge by bisection."""

    @hf.job
    async def point(place: tuple[float, float]) -> float:
        value = await hf.remote_eval(lifetime, *place)
        hf.plot("stable region", x=place[0], y=place[1], value=value)
        return value

    @hf.job
    async def edge(y: float) -> float:
        low, high = 0.0, 1.0
        while high - low > 0.02:
            middle = (low + high) / 2
            low, high = (middle, high) if await hf.remote_eval(lifetime, middle, y) > 20 else (low, middle)
        hf.plot("edge", x=y, y=low)
        return low

    grid = [i / STEPS for i in range(STEPS)]
    with hf.using(name="scan"):
        values = await hf.map_concurrently(point, [(x, y) for x in grid for y in grid])
    with hf.using(name="edge of the region"):
        await hf.map_concurrently(edge, grid)
    return max(values)


@hf.job
async def optics() -> float:
    """Fit the optics for several angles."""
    return sum(await hf.remote_map(match, [i / 10 for i in range(10)], chunk_size=1))


@hf.cluster
async def ring() -> None:
    """A scan on two nodes, beside a fit on a third one."""
    tolerance = hf.ExtVar("tolerance", 0.01)
    await tolerance.get()
    wide = hf.SbatchOptions(nodes=2, ntasks_per_node=3, time="30:00")
    small = hf.SbatchOptions(nodes=1, ntasks_per_node=2, time="10:00")
    found = await hf.concurrently(
        hf.remote_eval_job(region()).using(sbatch=wide),
        hf.remote_eval_job(optics()).using(sbatch=small),
    )
    print(found, await tolerance.get())


if __name__ == "__main__":
    hf.main(ring)
'''


def photographed(cluster: Cluster, target: Path) -> None:
    """Run the program on the cluster; take the pictures while it runs."""
    place = cluster.home / "ring"
    place.mkdir()
    (place / "ring.py").write_text(PROGRAM)
    env: dict[str, str | None] = {"PYTHONPATH": str(TOP), "HYPERFLOW_PROGRESS": "0"}
    with (place / "output").open("wb") as output:
        command = cluster.login.start([sys.executable, "ring.py"], env=env, stdout=output, stderr=output, cwd=place)

    def told() -> str:
        return (place / "output").read_text()

    def logs() -> str:
        return "".join(path.read_text() for path in place.glob("**/jobs/1/**/events.jsonl"))

    with command:
        block_until(lambda: "is held" in told(), 60, "a job is held", state=told)
        block_until(lambda: logs().count('"done"') > 200, 120, "the scan is half done", state=told)
        allocation = re.findall(r'"state": ?"up", ?"node": ?"(node\d)"', logs())
        lost = allocation[-1]  # the first one is where the job itself runs
        for process in cluster.nodes[lost].processes():
            if not process.is_daemon and "python" in process.command:
                process.kill(signal.SIGKILL)
        block_until(lambda: '"lost"' in logs(), 60, "a node is lost", state=told)
        here = [sys.executable, "-m", "tests.page_pictures", "--here", str(place)]
        cluster.login.run(here, cwd=place, env=env, timeout=120)
        command.signal(signal.SIGTERM)
        command.wait(30)
        cluster.login.run([sys.executable, "-m", "hyperflow", "report", "-o", "report.html"], cwd=place, env=env)
        cluster.login.run([*here, "report"], cwd=place, env=env, timeout=120)
    for picture in (*place.glob("*.png"), *place.glob("*.html")):
        shutil.copy(picture, target)


async def photograph_report(place: Path) -> None:
    """Take a picture of report.html."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        await page.goto((place / "report.html").as_uri())
        await page.wait_for_selector(".main-svg", state="attached")
        await page.screenshot(path=place / "report.png", full_page=True)
        await browser.close()


async def photograph(place: Path) -> None:
    """Take pictures of the page of the newest run, in this surrounding, on the login host."""
    from playwright.async_api import async_playwright

    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hyperflow", "dashboard", "--port", "0"), cwd=place, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    address = ""
    while not address:
        found = re.search(rb"http://\S+", await server.stdout.readline())
        address = found[0].decode() if found else ""
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for name, width, scheme in (
                ("page", 1280, "light"),
                ("page_dark", 1280, "dark"),
                ("page_phone", 390, "light"),
            ):
                page = await browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                await page.goto(address)
                await page.locator("main td a").first.click()
                await page.wait_for_selector(".main-svg", state="attached")
                await asyncio.sleep(4)  # for the page to be drawn and to go on once
                await page.screenshot(path=place / f"{name}.png", full_page=True)
                await page.close()
            await browser.close()
    finally:
        server.terminate()
        await server.wait()


def main(arguments: list[str]) -> None:
    """Take the pictures."""
    if arguments[0] == "--here":
        asyncio.run((photograph_report if arguments[2:] == ["report"] else photograph)(Path(arguments[1])))
        return
    target = Path(arguments[0])
    target.mkdir(parents=True, exist_ok=True)
    with held_cluster() as cluster:
        photographed(cluster, target)


if __name__ == "__main__":
    main(sys.argv[1:])
