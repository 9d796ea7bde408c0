"""Where the time of an evaluation goes, in head, launcher and workers: `python -m benchmarks.profile`.

py-spy looks from outside at all processes of a run 200 times a second, while it evaluates 20,000 calls over and over.
What is drawn are the moments in which a process was at work; what all of its stacks have in common below is left out.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import attrs
import cyclopts
from cyclopts import Parameter

import hyperflow as hf
from benchmarks.harness import TOP
from benchmarks.work import identity

MANY = 20_000
ROLES = {1: "head", 3: "launcher", 4: "workers"}
"""By the number of processes from the first to the one whose stack it is. The second one, the launcher's keeper, only
waits, and so does the head's thread for the database: py-spy takes that for work."""

COLOURS = {
    "hyperflow": "#7ab0f5",
    "hyperflow/head": "#a5c9f8",
    "hyperflow/launcher": "#a5c9f8",
    "hyperflow/scheduling": "#a5c9f8",
    "hyperflow/worker": "#a5c9f8",
    "asyncio": "#d5dbe1",
}
"""By the directory that the code is in, the longest that fits; the rest is lighter."""
REST, INK = "#e9edf1", "#24292f"

TITLE = (
    f"{MANY:,} evaluations side by side, over and over: who is at work, and in which function "
    "(blue: hyperflow, lighter: its head, launcher, scheduler and worker; grey: others)"
)

NARROWEST = 0.003
"""Share of the whole width below which a frame is left out."""

app = cyclopts.App(name="python -m benchmarks.profile", help=__doc__)


@hf.job
async def work() -> None:
    """Say when everything is warm; then evaluate until somebody closes our stdin."""
    import asyncio

    await hf.replicate_concurrently(1000, hf.remote_eval(identity, 1))
    print("warm", flush=True)
    end = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, end.set)
    while not end.is_set():
        await hf.map_concurrently(lambda x: hf.remote_eval(identity, x), range(MANY))


def record(output: Path, form: str, seconds: int) -> None:
    """Run the work, and py-spy beside it."""
    argv = [sys.executable, "-m", "benchmarks.profile", "--work"]
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--subprocesses", "--function", "--rate", "200"]
    with subprocess.Popen(argv, cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        if running.stdout.readline() != "warm\n":
            sys.exit("the work did not begin")
        where = ["--pid", str(running.pid), "--duration", str(seconds), "--format", form, "--output", str(output)]
        done = subprocess.run([*spy, *where], capture_output=True, text=True, check=False)
        running.communicate()  # closes its stdin
    if done.returncode != 0:
        sys.exit(f"py-spy: {done.stderr.strip()}")


@attrs.define
class Frame:
    """A function with all stacks above it."""

    name: str
    samples: int = 0
    above: dict[str, "Frame"] = attrs.field(factory=dict)

    def add(self, stack: Iterable[str], samples: int) -> None:
        """Put a stack on top of this."""
        self.samples += samples
        frame = self
        for name in stack:
            frame = frame.above.setdefault(name, Frame(name))
            frame.samples += samples

    def trunk(self) -> "Frame":
        """Return where the stacks begin to differ."""
        frame = self
        while frame.above:
            largest = max(frame.above.values(), key=lambda above: above.samples)
            if largest.samples < 0.9 * frame.samples:
                return frame
            frame = largest
        return frame


def roles(lines: Iterable[str]) -> dict[str, Frame]:
    """Return the stacks of each kind of process, from py-spy's raw format."""
    found: dict[str, Frame] = {}
    for line in lines:
        # The command in a process's name may have semicolons of its own.
        stack, _, count = re.sub(r'process (\d+):".*?"(?=;)', r"process \1", line.strip()).rpartition(" ")
        names = stack.split(";")
        depth = sum(name.startswith("process ") for name in names)
        if depth not in ROLES or "Thread._bootstrap" in stack:
            continue
        frames = [name for name in names if not name.startswith(("process ", "thread "))]
        role = ROLES[depth]
        found.setdefault(role, Frame(role)).add(frames, int(count))
    return found


def placed(frame: Frame, left: float, depth: int, least: float) -> Iterator[tuple[Frame, float, int]]:
    """Yield each frame with its left edge and its depth."""
    yield frame, left, depth
    for above in sorted(frame.above.values(), key=lambda above: above.name):
        if above.samples >= least:
            yield from placed(above, left, depth + 1, least)
        left += above.samples


def draw(found: dict[str, Frame], path: Path, title: str) -> None:
    """Draw the processes beside each other, each as wide as it was at work."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "hyperflow", "font.family": "sans-serif"})
    total = sum(frame.samples for frame in found.values())
    gap = total / 200
    boxes: list[tuple[Frame, float, int]] = []
    left = 0.0
    for role in (role for role in ROLES.values() if role in found):
        whole = found[role]
        trunk = whole.trunk()
        share = f"{role}: {whole.samples / total:.0%} of the work"
        boxes += placed(Frame(share, whole.samples, {trunk.name: trunk}), left, 0, total * NARROWEST)
        left += whole.samples + gap
    deepest = max(depth for *_, depth in boxes)
    figure, ax = plt.subplots(figsize=(15, 0.9 + 0.24 * (deepest + 1)))
    scale = left / (15 * 0.97 * 72)  # samples per point
    for frame, x, depth in boxes:
        box(ax, frame, x, depth, scale)
    ax.set_xlim(0, left)
    ax.set_ylim(0, deepest + 1)
    ax.axis("off")
    ax.set_title(title, loc="left", fontsize=11, color=INK)
    figure.subplots_adjust(left=0.015, right=0.985, bottom=0.02, top=1 - 0.45 / figure.get_figheight())
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def box(ax: Any, frame: Frame, x: float, depth: int, scale: float) -> None:
    """Draw one frame, with as much of its name as there is room for."""
    name, _, file = frame.name.partition(" (")
    fitting = [directory for directory in COLOURS if file.startswith(directory)]
    colour = COLOURS[max(fitting, key=len)] if fitting else REST
    if depth == 0:
        name, colour = frame.name, "white"
    ax.barh(depth + 0.5, frame.samples, left=x, height=0.94, color=colour, linewidth=0.6, edgecolor="white")
    room = int(frame.samples / scale / 5.2)  # letters
    if room >= 4:
        said = name if len(name) <= room else name[: room - 1] + "…"
        weight = "bold" if depth == 0 else "normal"
        ax.text(x + 3 * scale, depth + 0.48, said, va="center", fontsize=8.5, color=INK, fontweight=weight)


@app.default
def main(
    *,
    output: Path = TOP / "docs" / "pictures" / "flamegraph.svg",
    seconds: int = 15,
    interactive: bool = False,
    work_only: Annotated[bool, Parameter(name="--work", show=False)] = False,
) -> None:
    """Record, and draw a flame graph.

    Args:
        output: Where to put it.
        seconds: How long to record.
        interactive: Write py-spy's own flame graph: for a browser, with lines of code, to be searched and zoomed.
        work_only: Only do the work that is looked at.
    """
    if work_only:
        hf.run_job_local(work(), cpus=2)
    elif interactive:
        record(output, "flamegraph", seconds)
    else:
        with tempfile.TemporaryDirectory() as place:
            raw = Path(place, "stacks")
            record(raw, "raw", seconds)
            found = roles(raw.read_text().splitlines())
        samples = Counter({role: frame.samples for role, frame in found.items()})
        print(", ".join(f"{role} {count}" for role, count in samples.items()))
        draw(found, output, TITLE)


if __name__ == "__main__":
    app()
