"""The forest plot: paired differences with their intervals, against the line of no difference."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import matplotlib

from kdrepro.claims import Comparison, Side
from kdrepro.exhibits.charts import STYLE, Chart, forest_axes, forest_row, new_chart
from kdrepro.judging.metric_names import called
from kdrepro.judging.readings import compare, difference, differences, labelled, rows_shown
from kdrepro.judging.wording import number
from kdrepro.ledger import Ledger


def forest(
    ledger: Ledger,
    recipe: str,
    comparisons: Sequence[tuple[str, str]] | Mapping[str, tuple[str, str]],
    *,
    metric: str = "test_errors",
    protocol: str = "paper",
    title: str = "",
    one_run: Collection[str] = (),
) -> Chart:
    """The paired differences first minus second, each with every pair as a dot, its mean and its 95 % interval.

    Comparisons are given and paired as in `tables.paired_table`. The diamond is filled where the interval misses
    the zero line. `title` says what it is about. n counts pairs, or teachers where several pairs of one teacher count
    once.
    """
    rows = rows_shown(ledger, recipe, protocol)
    named = labelled(comparisons)
    with matplotlib.rc_context(STYLE):
        chart = new_chart(9.0, 1.5 + 0.55 * max(len(named), 1))
        axes = chart.subplots()
        axes.set_title(f"{title}, protocol {protocol}".removeprefix(", "), loc="left", fontsize=12)
        forest_axes(axes, list(named))
        drawn = 0
        for place, (first, second) in enumerate(named.values()):
            sides = Comparison(Side.of(first, metric), Side.of(second, metric))
            pairs = compare(rows, sides, one_run=one_run)
            found = difference(pairs)
            text = "not run"
            if found is not None:
                drawn += 1
                forest_row(axes, place, [pair.difference for pair in pairs], found)
                text = f"{number(found.mean)}, n = 1"
                if len(pairs) > 1 and math.isfinite(found.half):
                    units = len(differences(pairs))
                    n = f"{units}" if units == len(pairs) else f"{units} teachers"
                    text = f"{number(found.mean)} ({number(found.low)} to {number(found.high)}), n = {n}"
            # Negative numbers as matplotlib writes them on the axis.
            axes.text(1.02, place, text.replace("-", "−"), transform=axes.get_yaxis_transform(), va="center")
        axes.set_xlabel(f"difference in {called(metric)}, first minus second, 95 % interval")
        if not drawn:
            axes.set_xlim(-1, 1)
            axes.set_xticks([0])
    return chart
