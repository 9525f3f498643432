"""A bar for each arm: the mean with its interval, every run as a dot, and the paper's number beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes

from kdrepro.claims import Side
from kdrepro.exhibits.charts import GREY, STYLE, Chart, errors_label, new_chart, once, scattered
from kdrepro.judging.readings import readings, rows_shown, summary
from kdrepro.judging.wording import number
from kdrepro.ledger import Ledger, Row
from kdrepro.protocols import EVIDENCE


class Column(NamedTuple):
    """One bar: what it is called, its arm and colour, and the paper's number, where there is one."""

    name: str
    arm: str
    colour: str
    paper: float | None = None


def draw_bars(
    axes: Axes, rows: Sequence[Row], columns: Sequence[Column], *, metric: str, scale: float = 1.0
) -> None:
    """Draw a bar of `metric`, times `scale`, for each column; a column without rows says that it is not run."""
    values = {
        each: [scale * one.value for one in readings(rows, Side.of(each.arm, metric))] for each in columns
    }
    papers = [each.paper for each in columns if each.paper is not None]
    top = max([value for some in values.values() for value in some] + papers, default=1.0)
    for place, column in enumerate(columns):
        found = summary(rows, Side.of(column.arm, metric))
        if found is None:
            axes.annotate("not run", (place, 0.04 * top), ha="center", color=GREY, fontsize=13)
        else:
            (mean, low, _), count = found
            axes.bar(place, scale * mean, width=0.6, color=column.colour, alpha=0.3)
            if math.isfinite(low):
                half = scale * (mean - low)
                axes.errorbar(place, scale * mean, yerr=half, color=column.colour, linewidth=2, capsize=6)
            label = once(axes, "one run")
            axes.plot(
                place + scattered(count),
                values[column],
                "o",
                color=column.colour,
                alpha=0.8,
                markersize=5,
                label=label,
            )
            words = f"{number(scale * mean)}, n = {count}"
            axes.annotate(words, (place, 0.02 * top), ha="center", va="bottom")
        if column.paper is not None:
            label = once(axes, "the paper")
            # At the right edge of its own bar, beside the dots.
            axes.plot(place + 0.22, column.paper, "D", markersize=9, mfc="white", mec="black", label=label)
            axes.text(place + 0.31, column.paper, f"{column.paper:g}", va="center")
    axes.set_xticks(range(len(columns)), [column.name for column in columns])
    axes.set_xlim(-0.5, len(columns) - 0.3)
    axes.set_ylim(bottom=0)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper right")


def bars(
    ledger: Ledger,
    recipe: str,
    columns: Sequence[Column],
    *,
    metric: str = "test_errors",
    scale: float = 1.0,
    label: str | None = None,
    protocol: str = "paper",
) -> Chart:
    """A bar for each column: the mean of `metric`, times `scale`, its 95 % interval, every run, the paper's number.

    A demonstration is not set beside the paper.
    """
    rows = rows_shown(ledger, recipe, protocol)
    if protocol not in EVIDENCE:
        columns = [column._replace(paper=None) for column in columns]
    with matplotlib.rc_context(STYLE):
        chart = new_chart(max(8.5, 1.7 * len(columns)), 4.8)
        axes = chart.subplots()
        draw_bars(axes, rows, columns, metric=metric, scale=scale)
        axes.set_ylabel(label if label is not None else errors_label(protocol))
        axes.set_title(f"protocol {protocol}", loc="left", fontsize=12)
    return chart
