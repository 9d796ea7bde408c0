"""The picture of a region in the trap's plane: what was probed, the outline so far, and the exact boundary.

A file is replaced as a whole: a viewer sees the picture before or the one after, never half of one.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from outline import Crossing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".svg", ".png", ".pdf")

PAUSE = 1.0
"""Seconds between two pictures that are drawn on the way. One takes some 0.2 s, in which the Job does nothing else."""

INK, EXACT, ALLOWED, FORBIDDEN, REGION = "#33424f", "#101820", "#178a68", "#d4572a", "#e3f3ec"


@attrs.frozen
class Picture:
    """Where a picture goes, and what does not change in it.

    Args:
        path: Its suffix says which kind it is, one of KINDS.
        title: Above it.
        exact: The exact boundary.
    """

    path: Path
    title: str
    exact: list[complex]

    def due(self) -> bool:
        """Tell whether it is time to draw again: not if somebody, perhaps on another node, has done so just before."""
        try:
            age = time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return True
        return not 0 <= age < PAUSE

    def draw(self, found: Sequence[Crossing]) -> None:
        """Draw what has been found."""
        from matplotlib import rc_context

        part = self.path.with_name(f".{secrets.token_hex(4)}-{self.path.name}")
        look = rc_context(
            {
                "svg.fonttype": "none",  # text stays text
                "svg.hashsalt": "region",  # the same picture is the same file
                "path.simplify": False,  # every point of the outline is there
                "text.color": INK,
                "axes.edgecolor": INK,
                "axes.labelcolor": INK,
                "xtick.color": INK,
                "ytick.color": INK,
            }
        )
        try:
            with look:
                metadata = {"Date": None} if part.suffix == ".svg" else None
                self._figure(found).savefig(part, dpi=150, metadata=metadata)
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)

    def _figure(self, found: Sequence[Crossing]) -> Figure:
        """Put it together: all of the region, and its upper tip enlarged."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 6.2), layout="constrained")
        axes = figure.add_subplot()
        self._plot(axes, found, prefix="")
        axes.set(xlim=(0, 0.86), ylim=(-0.32, 0.32), xlabel="q (alternating voltage)", ylabel="a (constant voltage)")
        axes.set_title(self.title, loc="left", pad=12)
        axes.grid(color=INK, alpha=0.08)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower left", frameon=False, markerscale=1.6)
        tip = max(self.exact, key=lambda point: point.imag)
        zoom = axes.inset_axes((0.045, 0.66, 0.3, 0.32))
        self._plot(zoom, found, prefix="tip-")
        zoom.set(xlim=(tip.real - 0.012, tip.real + 0.012), ylim=(tip.imag - 0.014, tip.imag + 0.006))
        zoom.tick_params(labelsize="x-small")
        zoom.locator_params(nbins=4)
        axes.indicate_inset_zoom(zoom, edgecolor=INK, alpha=0.35)
        return figure

    def _plot(self, axes: Axes, found: Sequence[Crossing], prefix: str) -> None:
        outline = [one.point for one in found]
        axes.fill(*coordinates(outline), color=REGION, zorder=0)
        for allowed, color, name in ((True, ALLOWED, "allowed"), (False, FORBIDDEN, "forbidden")):
            probes = {complex(probe.q, probe.a) for one in found for probe in one.probes if probe.allowed == allowed}
            label = f"{len(probes)} probes: {name}"
            q, a = coordinates(sorted(probes, key=abs))
            axes.scatter(q, a, 7, color, alpha=0.6, linewidths=0, zorder=1, label=label, gid=prefix + name)
        q, a = coordinates(outline + outline[:1])
        label = f"boundary found: {len(outline)} points"
        axes.plot(q, a, "o-", color=ALLOWED, lw=2.2, ms=3.2, alpha=0.75, label=label, gid=prefix + "boundary")
        q, a = coordinates(self.exact + self.exact[:1])
        axes.plot(q, a, color=EXACT, lw=0.7, label="exact boundary", gid=prefix + "exact")


def coordinates(points: Sequence[complex]) -> tuple[list[float], list[float]]:
    """Return all q, and all a."""
    return [point.real for point in points], [point.imag for point in points]
