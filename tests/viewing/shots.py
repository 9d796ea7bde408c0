"""Takes pictures of the dashboard: `python -m tests.viewing.shots URL RUN DIRECTORY`, with the URL that it has printed.

It writes list.png, run.png, run_dark.png and run_phone.png. It needs what the tests of the page need: chromium (Debian
package chromium) and playwright. Start a dashboard beside a run that has something to show, such as a Slurm run that
has lost a node and holds a job, and take them while it goes on.
"""

import sys
from pathlib import Path
from typing import Any

from tests import pictures


def main(url: str, run: str, directory: Path) -> None:
    """Take all pictures."""
    from playwright.sync_api import sync_playwright

    directory.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=pictures.CHROMIUM, args=["--no-sandbox"])
        for name, scheme, width in (("run", "light", 1200), ("run_dark", "dark", 1200), ("run_phone", "light", 400)):
            page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 860})
            page.goto(url)
            page.get_by_role("link", name=run).wait_for()
            if name == "run":
                page.screenshot(path=directory / "list.png")
            page.get_by_role("link", name=run).click()
            page.locator("#evaluations .js-plotly-plot").wait_for()
            page.locator("#functions tbody tr").first.wait_for()
            page.screenshot(path=directory / f"{name}.png", full_page=name != "run_phone")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
