"""The look of the figures: a white card, readable letters, and colours that the colour-blind can tell apart."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdrepro.judging.intervals import Interval
from kdrepro.protocols import EVIDENCE

# The palette of Okabe and Ito.
BLUE, ORANGE, GREEN, RED, SKY, PINK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#595959",
)
CYCLE = (BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY)
STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "text.color": "black",
    "axes.labelcolor": "black",
    "xtick.color": "black",
    "ytick.color": "black",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


class Chart(Figure):
    """A figure that a notebook shows once, whichever backend is at work."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def new_chart(width: float, height: float) -> Chart:
    """An empty white card of so many inches."""
    return Chart(figsize=(width, height), layout="constrained", facecolor="white")


def say(axes: Axes, text: str) -> None:
    """Put a text in the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=13)


def nothing(axes: Axes, text: str) -> None:
    """Leave axes without ticks, and say why they are empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    say(axes, text)


def grid(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Draw pale lines behind what is shown."""
    axes.grid(axis=axis, color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def once(axes: Axes, label: str) -> str:
    """The label of what is drawn, the first time only: a legend names what looks alike once."""
    return "_" if label in axes.get_legend_handles_labels()[1] else label


def forest_row(axes: Axes, place: int, values: Sequence[float], found: Interval) -> None:
    """Draw differences as dots, and their mean with its interval; the diamond is filled where the interval misses 0."""
    axes.plot(values, place + scattered(len(values)), "o", color=GREY, alpha=0.35, markersize=4)
    if len(values) > 1 and math.isfinite(found.half):
        axes.plot([found.low, found.high], [place, place], color=BLUE, linewidth=2.5)
    face = BLUE if found.low > 0 or found.high < 0 else "white"
    axes.plot(found.mean, place, "D", markersize=8, markerfacecolor=face, markeredgecolor=BLUE)


def forest_axes(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a forest, from the top, and draw its line of no difference."""
    axes.axvline(0, color="black", linewidth=1)
    for place in range(len(names)):
        axes.axhline(place, color="#eeeeee", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    grid(axes, "x")


def errors_label(protocol: str) -> str:
    """What counts of test errors are called: MNIST and CIFAR-10 have 10,000 examples, a demonstration has fewer."""
    return "test errors of 10,000" if protocol in EVIDENCE else "test errors"


def scattered(count: int) -> np.ndarray:
    """Offsets that keep the dots of a column apart, the same at each drawing."""
    return np.linspace(-0.12, 0.12, count) if count > 1 else np.zeros(count)
