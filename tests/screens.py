"""Pictures of a terminal: what a command shows on one while it runs, and in the end.

    python -m tests.screens TARGET        # TARGET/progress.png

It needs chromium (Debian package chromium), playwright (none of its own browsers) and pyte, a terminal emulator.
"""

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.pictures import CHROMIUM

LINES, COLUMNS = 22, 100

PROGRAM = """\
import time
import hyperflow as hf


def energy(x: float, y: float) -> float:
    time.sleep(0.03 + 0.05 * abs(x * y))
    return x * x - y


def relax(x: float) -> float:
    time.sleep(0.2)
    if x > 0.8:
        raise ArithmeticError(f"no minimum near {x:.2f}")
    return x / 2


@hf.job
async def edge(x: float) -> float:
    low, high = 0.0, 1.0
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (middle, high) if await hf.remote_eval(energy, x, middle) > 0 else (low, middle)
    return low


@hf.job
async def scan() -> float:
    with hf.using(name="edge of the region"):
        edges = hf.map_concurrently(edge, [i / 20 for i in range(20)]).start()
    minima = await hf.remote_map(relax, [i / 40 for i in range(40)], chunk_size=1, errors="return")
    print("minima:", sum(not isinstance(one, hf.Failed) for one in minima), "of", len(minima))
    return max(await edges)


if __name__ == "__main__":
    print("the furthest edge:", hf.run_job_local(scan(), cpus=2))
"""


def screens(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> list[Text]:
    """Run a command on a terminal of its own; return the screen for each time that it has changed."""
    import pyte

    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    child = subprocess.Popen(command, cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    found: list[Text] = []
    try:
        while True:
            if not select.select([ours], [], [], 0.2)[0]:
                found.append(_drawn(screen))
                continue
            try:
                stream.feed(os.read(ours, 1 << 16))
            except OSError:  # the other side is closed
                break
    finally:
        os.close(ours)
        child.wait()
    return [*found, _drawn(screen)]


def _drawn(screen: Any) -> Text:
    text = Text()
    for number in range(screen.lines):
        line = screen.buffer[number]
        for column in range(screen.columns):
            char = line[column]
            color = "" if char.fg == "default" else _color(char.fg)
            text.append(char.data, f"{'bold ' if char.bold else ''}{color}".strip())
        text.append("\n")
    return text


def _color(name: str) -> str:
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return "yellow" if name == "brown" else name


def save(text: Text, title: str, target: Path) -> None:
    """Save a screen as a picture."""
    from playwright.sync_api import sync_playwright

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    text.rstrip()
    console.print(text, soft_wrap=True, end="")
    svg = console.export_svg(title=title, theme=MONOKAI)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 800}, offline=True)
        page.set_content(f"<body style='margin:0;width:1240px'>{svg}</body>")
        page.locator("svg").screenshot(path=target)
        browser.close()


def main(target: Path) -> None:
    """Take the pictures."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="screens-") as place:
        program = Path(place, "scan.py")
        program.write_text(PROGRAM)
        state = {"XDG_STATE_HOME": place, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        began = time.monotonic()
        found = screens([sys.executable, "scan.py"], program.parent, {**os.environ, **state})
        print(f"{len(found)} screens in {time.monotonic() - began:.1f} s")
    live = [text for text in found if " busy, " in text.plain]
    save(live[-4], "python scan.py", target / "progress.png")
    save(found[-1], "python scan.py", target / "progress_ended.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
