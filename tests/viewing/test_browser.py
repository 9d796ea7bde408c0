"""The page in a real browser, headless: what is on it, live, by mouse and keyboard, dark, on a phone, for everybody."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from hyperflow.cli import reporting
from tests import pictures
from tests.helpers import block_until
from tests.support import environment, script
from tests.viewing.made import ESCAPE, log_of, make_run

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(120),
    pytest.mark.leaks("the module's browser starts and ends processes as it likes; all of them end with it"),
    pytest.mark.skipif(pictures.CHROMIUM is None, reason="there is no chromium (Debian package chromium)"),
]

HOSTILE, FADING = "20260101-000000-aa", "20260101-000000-bb"

PROGRAM = """
import time
import hyperflow as hf

def step(x):
    time.sleep(0.02)
    return x

def breaks(x):
    print("before it breaks")
    raise RuntimeError("the matrix is singular")

@hf.job
async def grows():
    go_on, turn = hf.ExtVar("go_on", True, type=bool), 0
    while await go_on.get():
        await hf.remote_map(step, range(5), chunk_size=1)
        turn += 1
        hf.plot("growing", x=turn, y=1 / turn)
    return turn

@hf.job
async def bad():
    return await hf.remote_eval(breaks, 1)

@hf.cluster
async def program():
    return await hf.concurrently(hf.remote_eval_job(grows()), hf.remote_eval_job(bad()))

hf.main(program)
"""


@attrs.frozen
class Seen:
    """A browser, and the page of a base directory with a program that runs, with a held job, and old runs."""

    browser: Any
    url: str
    base_dir: Path

    @property
    def live(self) -> str:
        """Which run goes on."""
        return max(it.name for it in self.base_dir.iterdir())


def spawned(directory: Path, *words: str) -> subprocess.Popen[str]:
    """Start Python in a directory, with an index of its own."""
    more = environment(XDG_STATE_HOME=str(directory / "state"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, *words], cwd=directory, env=more, text=True, **pipes)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Start a program, the dashboard and a browser; one for all tests."""
    sync_api = pytest.importorskip("playwright.sync_api")
    directory = tmp_path_factory.mktemp("page")
    base_dir = directory / "hyperflow-runs"
    make_run(base_dir, HOSTILE, *log_of(*range(1, 30), function=ESCAPE), argv=[ESCAPE], error=ESCAPE)
    make_run(base_dir, FADING, *log_of(1, 2))
    program = spawned(directory, str(script(directory, PROGRAM)), "--local")
    dashboard = spawned(directory, "-m", "hyperflow", "dashboard", "--port", "0")
    try:
        assert dashboard.stdout is not None
        url, said = dashboard.stdout.readline().strip(), dashboard.stdout.readline()
        port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=[\w-]{43}", url)
        assert port is not None, url
        assert f"ssh -L {port[1]}:127.0.0.1:{port[1]} " in said
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=pictures.CHROMIUM, args=["--no-sandbox"])
            yield Seen(browser, url, base_dir)
            browser.close()
    finally:
        for process in (dashboard, program):
            process.terminate()
            process.communicate()
    assert dashboard.returncode == 0


@pytest.fixture(scope="module")
def tab(seen: Seen) -> Iterator[tuple[Any, list[str]]]:
    """Return a tab that has been let in, and what is in its console."""
    opened, wrong = seen.browser.new_page(color_scheme="light"), list[str]()
    opened.on("console", lambda it: wrong.append(it.text) if it.type in ("error", "warning") else None)
    opened.on("pageerror", lambda it: wrong.append(str(it)))
    opened.on("dialog", lambda it: (wrong.append(f"dialog: {it.message}"), it.dismiss()))
    opened.set_default_timeout(30_000)
    opened.goto(seen.url)
    yield opened, wrong
    opened.close()


@pytest.fixture
def page(seen: Seen, tab: tuple[Any, list[str]]) -> Iterator[Any]:
    """Return the tab as it shows the list; at the end nothing is in its console."""
    opened, wrong = tab
    opened.set_viewport_size({"width": 1200, "height": 900})
    opened.emulate_media(color_scheme="light")
    opened.goto(f"{seen.url.partition('?')[0]}#from=0")
    opened.get_by_role("link", name=HOSTILE).wait_for()
    yield opened
    assert wrong == []


def look_at(page: Any, seen: Seen, run: str) -> None:
    """Open a run's page, and wait until its charts are drawn."""
    page.goto(f"{seen.url.partition('?')[0]}#run={run}")
    page.locator("#evaluations .js-plotly-plot").wait_for()


def until(page: Any, expression: str) -> None:
    """Wait until something is true on the page. (Playwright's own way needs eval, which the page's policy forbids.)"""
    block_until(lambda: page.evaluate(expression), 30.0, expression)


def chart(page: Any, name: str) -> str:
    """Return what a chart says to those who do not see it."""
    return str(page.locator(f"{name} .chart").first.get_attribute("aria-label"))


def test_what_is_there(page: Any, seen: Seen) -> None:
    """The list has all runs; a run has its parts; the token is not in the address any more."""
    assert "token" not in page.url
    for run in (seen.live, HOSTILE, FADING):
        assert page.get_by_role("link", name=run).is_visible()
    look_at(page, seen, seen.live)
    page.get_by_role("cell", name="the matrix is singular").wait_for()
    until(page, "document.querySelectorAll('#functions tbody tr').length >= 1")
    titles = (
        "Jobs",
        "Utilisation",
        "Evaluations",
        "Functions",
        "Failures",
        "Variables",
        "Slowest evaluations",
        "About",
    )
    for title in titles:
        assert page.get_by_role("heading", name=title, exact=True).is_visible(), title
    assert "CPUs busy over time" in chart(page, "#utilisation")
    assert re.match(r"What \d workers did from 0 s to ", chart(page, "#evaluations"))


def test_it_is_live(page: Any, seen: Seen) -> None:
    """Points, counts and charts grow by themselves while the program draws and evaluates."""
    look_at(page, seen, seen.live)
    page.locator("#drawings .js-plotly-plot").wait_for()
    points = int(re.sub(r"\D", "", chart(page, "#drawings")))
    done = page.locator(".tile dd").first.inner_text()
    until(page, f"parseInt(document.querySelector('#drawings .chart').ariaLabel.replace(/\\D/g, '')) > {points}")
    until(page, f"document.querySelector('.tile dd').innerText !== {done!r}")
    assert page.locator("#link").inner_text() == "live"


def test_hostile_names(page: Any, seen: Seen) -> None:
    """Names, arguments and errors are text on the page, in charts too, and what acts unseen is an escape."""
    look_at(page, seen, HOSTILE)
    page.locator("#failures summary").first.click()
    page.get_by_role("heading", name="Log").wait_for()
    text = page.locator("main").inner_text()
    assert "<script>alert(1)</script>" in text
    assert "\\u202e" in text
    assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert page.locator("main img, main script, .js-plotly-plot img, .js-plotly-plot a").count() == 0
    page.locator("#evaluations .point path").first.hover(force=True)
    page.locator("#evaluations .hoverlayer text").first.wait_for()
    assert "<img" in page.locator("#evaluations .hoverlayer").text_content()


def test_zoom_and_evaluations(page: Any, seen: Seen) -> None:
    """The chart zooms by buttons and by dragging; an evaluation is looked at by its number."""
    look_at(page, seen, HOSTILE)
    whole = chart(page, "#evaluations")
    page.get_by_role("button", name="Zoom in").click()
    until(page, f"document.querySelector('#evaluations .chart').ariaLabel !== {whole!r}")
    assert page.get_by_role("button", name="Later").is_enabled()
    page.get_by_role("button", name="Whole run").click()
    until(page, f"document.querySelector('#evaluations .chart').ariaLabel === {whole!r}")
    box = page.locator("#evaluations .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 10, steps=4)
    page.mouse.up()
    until(page, f"document.querySelector('#evaluations .chart').ariaLabel !== {whole!r}")
    page.get_by_label("Evaluation", exact=True).fill("29")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Evaluation 29").wait_for()
    assert "failed" in page.locator("#evaluations").inner_text()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_everybody_can_read_it(page: Any, seen: Seen, scheme: str, width: int) -> None:
    """By axe's rules there is contrast and a name for everything, dark, too; a phone's width is enough."""
    axe_core = pytest.importorskip("axe_core_python")
    axe = next(Path(axe_core.__file__).parent.rglob("axe.min.js")).read_text()
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for run in (None, HOSTILE, seen.live):
        if run is not None:
            look_at(page, seen, run)
            page.locator("#functions tbody tr").first.wait_for()
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
        assert [(it["id"], it["nodes"][0]["html"], it["nodes"][0]["failureSummary"]) for it in found] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 27)"
    assert dark == (scheme == "dark")
    lines = page.evaluate("getComputedStyle(document.querySelector('#utilisation .xtick text')).fill")
    assert lines == ("rgb(160, 171, 187)" if scheme == "dark" else "rgb(86, 96, 113)")


def test_by_keyboard_only(page: Any, seen: Seen) -> None:
    """Whatever can be done can be reached by Tab, shows that it is there, and is done by Enter; Escape leaves."""
    page.get_by_role("link", name=seen.live).focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Retry job 2").wait_for()
    page.keyboard.press("Tab")
    reached = set[str]()
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "(() => { const it = document.activeElement; "
            "return [it.ariaLabel || it.innerText || it.id, getComputedStyle(it).outlineStyle] })()"
        )
        assert outline != "none", name
        reached.add(name)
        if name == "Set go_on":
            break
    wanted = {"Why is job 2 held", "Retry job 2", "Give up job 2", "Zoom in", "Whole run", "Look at it", "var-go_on"}
    assert wanted - reached == set()
    page.get_by_role("button", name="Retry job 2").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Retry job 2?").wait_for()
    assert page.evaluate("document.activeElement.name") == "time"
    page.keyboard.press("Escape")
    until(page, "document.activeElement.ariaLabel === 'Retry job 2'")


def test_a_run_that_vanishes(page: Any, seen: Seen) -> None:
    """What was seen of it stays on the page, which says that it has gone."""
    look_at(page, seen, FADING)
    (seen.base_dir / FADING).rename(seen.base_dir.parent / "elsewhere")
    page.get_by_text(f"there is no run {FADING} any more").wait_for()
    assert page.get_by_role("heading", name="Functions").is_visible()


def test_orders(page: Any, seen: Seen) -> None:
    """Why, retry with another time, give up, and a variable that ends the program: all from the page."""
    look_at(page, seen, seen.live)
    page.get_by_role("button", name="Why is job 2 held").click()
    page.locator("#jobs pre").wait_for()
    assert "raise RuntimeError" in page.locator("#jobs pre").inner_text()
    page.get_by_role("button", name="Retry job 2").click()
    page.get_by_label("Time, as").fill("soon")
    page.get_by_role("button", name="Retry it").click()
    page.get_by_role("alert").get_by_text("a time is needed").wait_for()
    page.get_by_role("button", name="Never mind").click()
    number = page.locator("#failures summary strong").first.inner_text().strip(" #")
    page.get_by_label("Evaluation", exact=True).fill(number)
    page.get_by_role("button", name="Look at it").click()
    page.locator("#evaluations pre", has_text="before it breaks").wait_for()
    assert "raise RuntimeError" in page.locator("#evaluations pre").first.inner_text()
    page.get_by_label("go_on", exact=True).fill("perhaps")
    page.get_by_role("button", name="Set go_on").click()
    page.get_by_text("perhaps is no JSON").wait_for()
    page.get_by_label("go_on", exact=True).fill("false")
    page.get_by_role("button", name="Set go_on").click()
    page.locator("#jobs tr", has_text="grows").get_by_text("done", exact=True).first.wait_for()
    page.get_by_role("button", name="Give up job 2").click()
    page.get_by_role("button", name="Give up it").click()
    page.locator(".title .badge", has_text="failed").wait_for()


def test_a_report_is_text(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report shows hostile names as text and asks no network; its policy blocks nothing of ours."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    target = tmp_path / "r.html"
    assert reporting.report(HOSTILE, output=target, base_dir=seen.base_dir) == 0
    opened, wrong = seen.browser.new_page(color_scheme="dark"), list[str]()
    opened.on("console", lambda it: wrong.append(it.text))
    opened.on("pageerror", lambda it: wrong.append(str(it)))
    opened.on("dialog", lambda it: (wrong.append(it.message), it.dismiss()))
    opened.on("request", lambda it: wrong.append(it.url) if it.url.startswith(("http", "ws")) else None)
    opened.goto(target.as_uri())
    opened.locator("#evaluations .js-plotly-plot").wait_for()
    text = opened.locator("main").inner_text()
    titles = [it.inner_text() for it in opened.locator("main h2").all()]
    assert wrong == []
    assert "<script>alert(1)</script>" in text
    assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert opened.locator("main img, main script, .js-plotly-plot img, .js-plotly-plot a").count() == 0
    assert {"About", "Parameters", "CPU hours by function", "Computed again", "Slowest evaluations"} <= set(titles)
    opened.close()
