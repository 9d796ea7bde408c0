"""
Live scan: steered to a resonance by an ExtVar
==============================================

Where is a narrow resonance, and how wide is it? A scan of the whole range is too coarse to say, and a fine one would
take too long. So somebody looks at the points that are there, and says where the next ones shall be, while the program
runs. That range is an `hf.ExtVar`, a variable of a running program, which can be set in a shell::

    hyperflow var set window '[1.2, 1.3]'
    hyperflow var set window '[]'              # that is all

With `--by-hand` the program waits for you; `hf.plot` shows the points on the dashboard. Without it `looker` sits in
your chair, so that this page can be made: it looks at the points, and types these commands.

The resonance is that of an oscillator with a drive and with damping. The program knows neither its frequency nor its
damping: it fits the points. It ends with an error if what it finds is wrong.
"""

import asyncio
import json
import sys
from math import cos, hypot, pi, sqrt
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import hyperflow as hf

FREQUENCY, DAMPING = 1.2345, 0.004  # what is to be found

window = hf.ExtVar("window", [0.5, 2.0], type=list[float])

# %%
# **The evaluation** integrates the oscillator through one period of the drive, from three states. Since it is linear,
# that tells in which state it comes back to where it was.


def amplitude(frequency: float) -> float:
    """Return the amplitude that the oscillator has when it has settled."""
    from_rest = period(frequency, 0, 0)
    columns = [np.subtract(period(frequency, *state), from_rest) for state in ((1, 0), (0, 1))]
    place, speed = np.linalg.solve(np.eye(2) - np.transpose(columns), from_rest)
    return hypot(place, speed / frequency)


def period(frequency: float, place: float, speed: float, steps: int = 100) -> tuple[float, float]:
    """Integrate through one period of the drive by the method of Runge and Kutta."""
    step = 2 * pi / frequency / steps

    def force(time: float, x: float, v: float) -> float:
        return cos(frequency * time) - DAMPING * v - FREQUENCY**2 * x

    for number in range(steps):
        time, x, v = number * step, place, speed
        v1, f1 = v, force(time, x, v)
        v2, f2 = v + step / 2 * f1, force(time + step / 2, x + step / 2 * v1, v + step / 2 * f1)
        v3, f3 = v + step / 2 * f2, force(time + step / 2, x + step / 2 * v2, v + step / 2 * f2)
        v4, f4 = v + step * f3, force(time + step, x + step * v3, v + step * f3)
        place, speed = x + step / 6 * (v1 + 2 * v2 + 2 * v3 + v4), v + step / 6 * (f1 + 2 * f2 + 2 * f3 + f4)
    return place, speed


# %%
# **The Job** follows the variable: `changes` gives its value, and then each new one.

Scan = dict[float, float]


@hf.job
async def followed(points: int, by_hand: bool) -> list[Scan]:
    """Scan each window that is wanted, until that is an empty one."""
    run = (await hf.ask()).program.data_dir.parent
    scans: list[Scan] = []
    async for wanted in window.changes():
        if not wanted:
            break
        low, high = wanted
        frequencies = [low + (high - low) * number / (points - 1) for number in range(points)]
        found = await hf.map_concurrently(lambda frequency: hf.remote_eval(amplitude, frequency), frequencies)
        scans.append(dict(zip(frequencies, found, strict=True)))
        for frequency, height in scans[-1].items():
            hf.plot("resonance", x=frequency, y=height)
        if not by_hand:
            await looker(scans[-1], run)
    return scans


async def looker(scan: Scan, run: Path) -> None:
    """Do as somebody would who looks at the points: set a window around the highest one, or say that it is enough."""
    top = max(scan, key=lambda frequency: scan[frequency])
    spacing = (max(scan) - min(scan)) / (len(scan) - 1)
    high = [frequency for frequency, height in scan.items() if height > scan[top] / sqrt(2)]
    wanted = [] if len(high) > 6 else [top - 3 * spacing, top + 3 * spacing]
    words = ["-m", "hyperflow", "var", "set", str(run), window.name, json.dumps(wanted)]
    typed = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.DEVNULL)
    if await typed.wait():
        raise RuntimeError("the window could not be set")


# %%
# **The Master** fits: the inverse square of the amplitude is a polynomial of the square of the frequency.


@hf.cluster
async def live_scan(*, points: int = 25, by_hand: bool = False) -> None:
    """Find a resonance, in windows that are chosen while the program runs.

    Args:
        points: How many points there are in a window.
        by_hand: Wait until the variable `window` is set from outside.
    """
    scans = await hf.remote_eval_job(followed(points, by_hand))
    squares = np.square(list(scans[-1]))
    slope, constant = np.polyfit(squares, 1 / np.square(list(scans[-1].values())) - squares**2, 1)
    frequency, damping = constant**0.25, sqrt(max(slope + 2 * sqrt(constant), 0))
    picture = (await hf.ask()).program.data_dir / "live_scan.png"
    draw(scans, picture)
    for scan in scans:
        print(f"window     {min(scan):.4f} to {max(scan):.4f}")
    print(f"frequency  {frequency:.6f}, exact {FREQUENCY}\ndamping    {damping:.6f}, exact {DAMPING}")
    print(f"picture    {picture}")
    if abs(frequency - FREQUENCY) > 1e-5 or abs(damping - DAMPING) > 1e-5:
        raise ArithmeticError("frequency or damping are wrong by more than 0.00001")


def draw(scans: list[Scan], path: Path) -> None:
    """Draw the points of each window over the exact curve, from afar and from near."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, shown in zip(figure.subplots(1, 2), (scans[0], scans[-1]), strict=True):
        low, high = min(shown), max(shown)
        curve = np.sort([*np.linspace(low, high, 999), *np.linspace(FREQUENCY - 0.01, FREQUENCY + 0.01, 501)])
        exact = 1 / np.hypot(FREQUENCY**2 - curve**2, DAMPING * curve)
        axes.semilogy(curve, exact, color="#33424f", lw=0.8, label="exact")
        for number, scan in enumerate(scans, 1):
            inside = {frequency: height for frequency, height in scan.items() if low <= frequency <= high}
            axes.plot(inside.keys(), inside.values(), "o", ms=4, label=f"window {number}")
        axes.set(xlim=(low, high), xlabel="frequency of the drive  (1 / s)", ylabel="amplitude  (m)")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.axes[1].set(yscale="linear", ylim=(0, None))
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    hf.main(live_scan)
