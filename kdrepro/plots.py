"""The figures of the book, from rows: differences with intervals, curves, and what the soft targets say.

Every function returns a matplotlib figure on a white card, which stays legible on a dark page; colours are those of
Okabe and Ito, which the colour-blind can tell apart. Without rows a figure says so instead of failing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from kdrepro.claims import Side, paper
from kdrepro.exhibits.bars import Column, bars
from kdrepro.exhibits.charts import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    RED,
    STYLE,
    Chart,
    errors_label,
    grid,
    new_chart,
    say,
)
from kdrepro.exhibits.digits import dark_knowledge
from kdrepro.exhibits.forest import forest
from kdrepro.exhibits.slider import temperature_slider
from kdrepro.judging.intervals import mean_interval
from kdrepro.judging.readings import readings, rows_shown, summary
from kdrepro.judging.wording import counted, number
from kdrepro.ledger import Ledger, Row
from kdrepro.protocols import EVIDENCE
from kdrepro.verdicts import judge

__all__ = [
    "Chart",
    "dark_knowledge",
    "forest",
    "gap",
    "learning_curves",
    "temperature_curve",
    "temperature_slider",
]


def _curve_of(axes: Axes, rows: Sequence[Row], units: int) -> bool:
    """Errors against temperature for one width; whether there was anything to draw."""
    arms = {row.arm: re.fullmatch(rf"units{units}_T(\d+(?:\.\d+)?)", row.arm) for row in rows}
    by_temperature = sorted((float(match[1]), arm) for arm, match in arms.items() if match)
    alone = summary(rows, Side.of(f"units{units}_alone", "test_errors"))
    if alone:
        mean, low, high = alone[0]
        axes.axhline(mean, color=RED, linestyle="--", linewidth=2, label="labels alone")
        if math.isfinite(low):
            axes.axhspan(low, high, color=RED, alpha=0.15, linewidth=0)
    temperatures, means, lows, highs = [], [], [], []
    for temperature, arm in by_temperature:
        side = Side.of(arm, "test_errors")
        errors, found = [each.value for each in readings(rows, side)], summary(rows, side)
        if found is None:
            continue
        axes.plot([temperature] * len(errors), errors, "o", color=BLUE, alpha=0.3, markersize=4)
        temperatures.append(temperature)
        interval = found[0]
        bounded = math.isfinite(interval.half)
        means.append(interval.mean)
        # Where nothing is known of the spread there is no band.
        lows.append(interval.low if bounded else math.nan)
        highs.append(interval.high if bounded else math.nan)
    if temperatures:
        axes.fill_between(temperatures, lows, highs, color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(temperatures, means, "-o", color=BLUE, linewidth=2, markersize=5, label="soft targets")
    return bool(temperatures or alone)


def temperature_curve(ledger: Ledger, *, protocol: str = "paper") -> Chart:
    """Test errors against the temperature of the soft targets, for students of 300 and of 30 units per layer.

    Mean and 95 % band over the seeds, every run as a dot, the student on labels alone as a dashed line. Shaded is
    where Hinton et al. (2015), section 3, see no difference (300 units) and where they see the best (30 units);
    a demonstration is not set beside the paper.
    """
    rows = rows_shown(ledger, "hinton_kd", protocol)
    regions = {300: (8.0, 33.0, "paper: all similar above 8"), 30: (2.5, 4.0, "paper: best from 2.5 to 4")}
    with matplotlib.rc_context(STYLE):
        chart = new_chart(9.6, 4.7)
        for axes, (units, (start, end, words)) in zip(chart.subplots(1, 2), regions.items(), strict=True):
            axes.set_xscale("log")
            if protocol in EVIDENCE:
                axes.axvspan(start, end, color=GREEN, alpha=0.14, linewidth=0, label=words)
            known = _curve_of(axes, rows, units)
            axes.set_xlim(0.92, 33)
            axes.set_xticks([1, 2, 3, 4, 6, 8, 10, 14, 20, 30])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(f"{units} units per hidden layer")
            axes.set_xlabel("temperature T of the soft targets")
            axes.set_ylabel(errors_label(protocol))
            if known:
                # Below, as the bands leave no corner free.
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, columnspacing=1.5)
                grid(axes, "y")
            else:
                axes.set_yticks([])
                say(axes, f"not run at protocol {protocol}")
    return chart


def learning_curves(
    rows: Sequence[Row], curve: str, *, label: str = "", names: Mapping[str, str] | None = None
) -> Chart:
    """A curve of the rows, such as `loss`, against the epoch: the mean of each arm's seeds with its 95 % band.

    `label` is what the axis says, the name of the curve unless given, and `names` what arms are called. Rows without
    that curve are left out. Where the values span more than a factor of 20 the axis is logarithmic, and mean and band
    are those of the logarithms: a band of the values themselves could reach below zero.
    """
    by_arm: dict[str, list[list[float]]] = {}
    for row in rows:
        if row.curves.get(curve):
            by_arm.setdefault(row.arm, []).append(row.curves[curve])
    with matplotlib.rc_context(STYLE):
        chart = new_chart(8.0, 4.4)
        axes = chart.subplots()
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(label or curve)
        if not by_arm:
            axes.set_yticks([])
            say(axes, f"no rows with a curve named {curve}")
            return chart
        values = [value for curves in by_arm.values() for each in curves for value in each]
        logarithmic = min(values) > 0 and max(values) > 20 * min(values)
        there, back = (np.log, np.exp) if logarithmic else (np.asarray, np.asarray)
        for place, (arm, curves) in enumerate(sorted(by_arm.items())):
            # Runs that stopped early leave the mean where they stop.
            longest = max(len(each) for each in curves)
            bands = [
                mean_interval([float(there(each[at])) for each in curves if at < len(each)])
                for at in range(longest)
            ]
            epochs = np.arange(1, longest + 1)
            colour = CYCLE[place % len(CYCLE)]
            who = f"{(names or {}).get(arm, arm)} ({len(curves)} {'run' if len(curves) == 1 else 'runs'})"
            # A line of one point is invisible.
            marker = "o" if longest == 1 else None
            means = back([each.mean for each in bands])
            axes.plot(epochs, means, color=colour, linewidth=2, marker=marker, label=who)
            lows, highs = back([each.low for each in bands]), back([each.high for each in bands])
            known = np.isfinite(highs)
            axes.fill_between(epochs, lows, highs, where=known, color=colour, alpha=0.2, linewidth=0)
        if logarithmic:
            axes.set_yscale("log")
        grid(axes)
        axes.legend()
    return chart


def gap(ledger: Ledger, *, protocol: str = "paper") -> Chart:
    """The headline of Hinton et al. (2015): test errors of the student alone, the distilled student, the teacher.

    Every run is a dot, the bar is the mean with its 95 % interval, the diamond the paper's figure (which is not
    set beside a demonstration). The title says how much of the gap is closed.
    """
    rows = rows_shown(ledger, "hinton_kd", protocol)
    claims = paper("hinton2015")
    columns = [
        Column("student alone", "student_alone", RED, claims.claim("H2").value),
        Column("student with\nsoft targets, T = 20", "soft_targets_T20", BLUE, claims.claim("H3a").value),
        Column("teacher", "teacher", GREY, claims.claim("H1").value),
    ]
    chart = bars(ledger, "hinton_kd", columns, protocol=protocol)
    with matplotlib.rc_context(STYLE):
        chart.axes[0].set_title(_share(rows, protocol), loc="left", fontsize=12)
    return chart


def _share(rows: Sequence[Row], protocol: str) -> str:
    """How much of the gap is closed, in words, where the claim about it can be judged."""
    judgement = judge(paper("hinton2015").claim("H3"), rows)
    if protocol != "paper" or judgement.mean is None or judgement.interval is None:
        return f"protocol {protocol}"
    low, high = judgement.interval
    return (
        f"soft targets close {number(judgement.mean)} of the gap "
        f"(95 % interval {number(low)} to {number(high)}, {counted(judgement.n, judgement.units)})"
    )
