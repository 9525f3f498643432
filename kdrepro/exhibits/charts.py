"""The look of the figures: a white card, readable letters, and colours that the colour-blind can tell apart."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


def scattered(count: int) -> np.ndarray:
    """Offsets that keep the dots of a column apart, the same at each drawing."""
    return np.linspace(-0.12, 0.12, count) if count > 1 else np.zeros(count)
