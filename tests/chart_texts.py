"""What a reader sees of a chart: its words, its marked points, and whether it can be read on any page."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure


def written(axes: Axes) -> list[str]:
    """What stands between its axes and in its legend."""
    legend = axes.get_legend()
    return [text.get_text() for text in (*axes.texts, *(legend.get_texts() if legend else ()))]


def texts(chart: Figure) -> list[str]:
    """Everything that is written on it, legends included."""
    found = []
    for axes in chart.axes:
        found += written(axes)
        found += [axes.get_title(), axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
        found += [label.get_text() for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    found += [text.get_text() for legend in chart.legends for text in legend.get_texts()]
    return [text for text in found if text]


def points(axes: Axes, marker: str) -> list[tuple[float, float]]:
    """Where the marks of that kind stand."""
    return [
        (float(x), float(y))
        for line in axes.lines
        if line.get_marker() == marker
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def assert_readable(chart: Figure) -> None:
    """Check that it is a white card, with no letter too small."""
    assert to_rgb(chart.get_facecolor()) == (1, 1, 1)
    for axes in chart.axes:
        assert to_rgb(axes.get_facecolor()) == (1, 1, 1)
        sizes = [text.get_fontsize() for text in (*axes.get_xticklabels(), axes.xaxis.label, *axes.texts)]
        assert min(sizes) >= 9
