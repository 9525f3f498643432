"""The two forms of the attention term, how hard each pulls, and how many errors each leaves.

Zagoruyko & Komodakis (2017), Eq. 2, has β/2 · ‖Q_S − Q_T‖; the authors' program has β times the mean of
(Q_S − Q_T)² over the H·W positions of a map. White cards and colours as in `kdrepro.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import AutoLocator, FuncFormatter, NullLocator

from kdrepro import checks
from kdrepro.claims import Side, paper
from kdrepro.exhibits.charts import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    STYLE,
    Chart,
    grid,
    new_chart,
    nothing,
    once,
)
from kdrepro.exhibits.forest import forest
from kdrepro.judging.readings import readings, rows_shown, summary
from kdrepro.judging.wording import number
from kdrepro.ledger import Ledger, Row
from kdrepro.protocols import EVIDENCE

RECIPE, PAPER = "attention_transfer", "zagoruyko2017"
# Where the two forms are compared: the maps of the last group on pictures of 32×32, at the distance of the claims.
POSITIONS, DISTANCE = 64, 0.4
GROUP_SIDES = (32, 16, 8)
COLOURS = {"code": GREEN, "paper": ORANGE}
# What β in Eq. 2 may mean: how it is read, and the weight of the norm, in a mean over the batch, for maps of so many
# positions. In the second, 1,000 is divided by positions and pictures, and the sum over the pictures takes these back.
READINGS: dict[str, Callable[[int], float]] = {
    "β = 0.1,\nmean over the batch": lambda positions: 0.05,
    "β by group,\nsum over the batch": lambda positions: 500 / positions,
    "β = 1,000,\nthe code's number": lambda positions: 500.0,
}


def pull(form: str, weight: float, *, distance: float, positions: int) -> float:
    """How hard a term pulls at the student's map: the length of its gradient with respect to Q_S.

    `weight` · 1 for ‖Q_S − Q_T‖ ("paper"), at any distance; `weight` · 2 · distance / positions for the mean of the
    squares ("code"), which lets go as the maps come closer.

    >>> pull("paper", 0.05, distance=0.4, positions=64), pull("code", 1000, distance=0.4, positions=64)
    (0.05, 12.5)
    """
    checks.choice("form", form, COLOURS)
    return weight if form == "paper" else 2 * weight * distance / positions


def code_weight(form: str, weight: float, *, distance: float = DISTANCE, positions: int = POSITIONS) -> float:
    """The weight with which the code's form pulls as hard as this form with this weight, at that distance.

    >>> code_weight("code", 1000.0), code_weight("paper", 6.4)
    (1000.0, 512.0)
    """
    own = pull(form, weight, distance=distance, positions=positions)
    return weight if form == "code" else own / pull("code", 1.0, distance=distance, positions=positions)


def pull_curve(*, sides: Sequence[int] = GROUP_SIDES, measured: Mapping[str, float] | None = None) -> Chart:
    """How hard both forms pull at a map, against the distance that is left: the β question without any training.

    The code's form with 1,000 on maps of each of `sides` squared, the paper's with each reading of its β, once more for
    each of them where it depends on the map. `measured` are distances to mark, by what they are called.
    """
    distances = np.linspace(0.005, math.sqrt(2), 200)
    with matplotlib.rc_context(STYLE):
        chart = new_chart(9.0, 4.8)
        axes = chart.subplots()
        for side, style in zip(sides, ("-", "--", ":"), strict=False):
            values = [pull("code", 1000.0, distance=each, positions=side**2) for each in distances]
            label = f"code, 1,000, maps of {side}×{side}"
            axes.plot(distances, values, style, color=GREEN, linewidth=2, label=label)
        for (words, weight), width in zip(READINGS.items(), (1.2, 2.2, 3.4), strict=True):
            alike = len({weight(side**2) for side in sides}) == 1
            for side, style in zip(sides[:1] if alike else sides, ("-", "--", ":"), strict=False):
                label = f"paper, {words}" + ("" if alike else f", {side}×{side}")
                axes.axhline(weight(side**2), linestyle=style, color=ORANGE, linewidth=width, label=label)
        for place, (name, distance) in enumerate((measured or {}).items()):
            axes.axvline(distance, color=GREY, linewidth=1)
            axes.annotate(
                name,
                (distance, 0.03 + 0.06 * place),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                color=GREY,
                fontsize=10,
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(0, math.sqrt(2))
        axes.set_xlabel("distance of the two maps, ‖Q_S − Q_T‖")
        axes.set_ylabel("length of the gradient by Q_S")
        grid(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return chart


class _Term(NamedTuple):
    """The attention term of an arm: its form, its weight on maps of the size that is shown, and its β in words."""

    form: str
    weight: float
    words: str


def _term(config: Mapping[str, Any], positions: int) -> _Term:
    form, weight = str(config["form"]), float(config["attention_weight"])
    if config.get("by_group"):
        return _Term(form, weight / positions, "β by group")
    return _Term(form, weight, f"β = {weight if form == 'code' else 2 * weight:,g}")


def _attention_arms(rows: Sequence[Row], positions: int) -> dict[str, _Term]:
    """The arms that differ from `at` in form and weight alone."""
    alike = {"objective": "attention", "power": 2, "pool": "sum", "soft_weight": None}
    return {
        row.arm: _term(row.config, positions)
        for row in rows
        if all(row.config.get(key) == value for key, value in alike.items())
        and any(".teacher_wrn16_2." in each for each in row.teachers)
    }


def strength_curve(ledger: Ledger, *, protocol: str = "reduced", positions: int = POSITIONS) -> Chart:
    """Test errors against the strength of the attention term, both forms on one axis.

    The axis is the weight with which the code's form would pull as hard at a distance of 0.4 between maps of
    `positions` (see `code_weight`). A term in the paper's form moves to the right as the maps come closer, because it
    does not let go: its bar runs from a distance of 0.8 to one of 0.2. Every run is a dot, bars up and down are 95 %
    intervals. The student on labels alone, the one on soft targets and the teacher are lines. An arm with more than 1.3
    times the errors of the labels alone is an arrow at the top with its number, so that the others stay apart.
    """
    rows = rows_shown(ledger, RECIPE, protocol)
    arms = _attention_arms(rows, positions)
    with matplotlib.rc_context(STYLE):
        chart = new_chart(9.6, 5.0)
        axes = chart.subplots()
        lines = [_reference(axes, rows, *each) for each in _REFERENCES]
        labels = summary(rows, Side.of("student_alone", "test_error_rate"))
        limit = _FAR * labels[0].mean if labels else math.inf
        for form in COLOURS:
            own = {arm: term for arm, term in arms.items() if term.form == form}
            if own:
                _form(axes, rows, form, own, positions, limit)
        axes.set_title(f"protocol {protocol}", loc="left", fontsize=12)
        side = math.isqrt(positions)
        axes.set_xlabel(
            f"weight in the code's form that pulls as hard (maps of {side}×{side} at a distance of {DISTANCE:g})"
        )
        axes.set_ylabel("test errors")
        if not arms and not any(lines):
            nothing(axes, f"not run at protocol {protocol}")
            return chart
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.08, y=0.15)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        grid(axes, "y")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return chart


# How many times the errors of the labels alone are too many for the axis.
_FAR = 1.3
_REFERENCES = (
    ("student_alone", "labels alone", RED, "--"),
    ("kd", "soft targets", BLUE, "-."),
    ("teacher_wrn16_2", "teacher", GREY, ":"),
)


def _reference(axes: Axes, rows: Sequence[Row], arm: str, name: str, colour: str, style: str) -> bool:
    found = summary(rows, Side.of(arm, "test_error_rate"))
    if found is None:
        return False
    (mean, low, high), _ = found
    axes.axhline(mean, color=colour, linestyle=style, linewidth=2, label=name)
    if math.isfinite(low):
        axes.axhspan(low, high, color=colour, alpha=0.1, linewidth=0)
    return True


def _form(
    axes: Axes, rows: Sequence[Row], form: str, arms: Mapping[str, _Term], positions: int, limit: float
) -> None:
    """The points of one form, with its weights written at them as β; those above the limit at the top of the axes."""
    colour, places, means = COLOURS[form], [], []
    # Weights of the code's form are of one kind; the paper's are readings, between which there is nothing.
    style = "-D" if form == "code" else "D"
    for arm, (_, weight, words) in sorted(arms.items(), key=lambda each: each[1].weight):
        side = Side.of(arm, "test_error_rate")
        found = summary(rows, side)
        assert found is not None
        (mean, low, _), count = found
        place = code_weight(form, weight, positions=positions)
        if mean > limit:
            _far(axes, place, colour, f"{words}\n{100 * mean:.3g} %")
            continue
        values = [each.value for each in readings(rows, side)]
        axes.plot([place] * count, values, "o", color=colour, alpha=0.35)
        if math.isfinite(low):
            axes.errorbar(place, mean, yerr=mean - low, color=colour, linewidth=2, capsize=5)
        if form == "paper":
            axes.plot([place / 2, place * 2], [mean, mean], color=colour, linewidth=6, alpha=0.25)
        # The labels of one form above and of the other below, because their points may meet.
        above = form == "paper"
        ends = [*values, *([low, 2 * mean - low] if math.isfinite(low) else [])]
        offset, anchor = ((0, 6), "bottom") if above else ((0, -6), "top")
        axes.annotate(
            words,
            (place, max(ends) if above else min(ends)),
            xytext=offset,
            textcoords="offset points",
            ha="center",
            va=anchor,
            fontsize=10,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
        )
        places.append(place)
        means.append(mean)
    axes.plot(places, means, style, color=colour, linewidth=2, markersize=7, label=f"the {form}'s form")


def _far(axes: Axes, place: float, colour: str, words: str) -> None:
    """An arrow at the top of the axes for a point that lies far above them."""
    at_top = axes.get_xaxis_transform()
    axes.plot(place, 0.97, "^", color=colour, markersize=10, transform=at_top)
    axes.annotate(
        words,
        (place, 0.97),
        xycoords=at_top,
        xytext=(0, -10),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=10,
    )


def pulls_in_the_end(ledger: Ledger, *, protocol: str = "reduced") -> pd.DataFrame:
    """How far each arm's maps ended from the teacher's, a column for each group, and how hard its term pulls there.

    Means over the runs that kept their distances, which are counted; arms without such a run are left out.
    """
    rows = rows_shown(ledger, RECIPE, protocol)
    records = []
    for arm in _attention_arms(rows, POSITIONS):
        kept = [row for row in rows if row.arm == arm and "map_distance_group0" in row.metrics]
        if not kept:
            continue
        distances, forces = {}, {}
        for place, side in enumerate(GROUP_SIDES):
            distance = fmean(row.metrics[f"map_distance_group{place}"] for row in kept)
            form, weight, _ = _term(kept[0].config, side**2)
            distances[f"apart, {side}×{side}"] = number(distance)
            forces[f"pull, {side}×{side}"] = number(pull(form, weight, distance=distance, positions=side**2))
        records.append({"Arm": arm, **distances, **forces, "Runs": len(kept)})
    return pd.DataFrame(records)


# What stands in the rows of Table 1 and 2, in their order.
GAINS = {
    "attention maps": "at",
    "full activations": "f_at",
    "soft targets": "kd",
    "maps and soft targets": "at_kd",
    "maps, teacher WRN-40-1": "at_from40",
    "full activations, teacher WRN-40-1": "f_at_from40",
    "soft targets, teacher WRN-40-1": "kd_from40",
    "maps and soft targets, teacher WRN-40-1": "at_kd_from40",
    "maps of absolute values": "at_sum1",
    "maps of fourth powers": "at_sum4",
    "maps of the largest value": "at_max1",
}


def gains(ledger: Ledger, *, protocol: str = "reduced") -> Chart:
    """The student of each kind minus the student alone, in test errors of 10,000, beside the paper's differences.

    A square is the paper's difference, filled where its numbers were quoted by others and empty where one of them is
    from memory. A demonstration is not set beside the paper.
    """
    chart = forest(
        ledger, RECIPE, {name: (arm, "student_alone") for name, arm in GAINS.items()}, protocol=protocol
    )
    if protocol not in EVIDENCE:
        return chart
    axes = chart.axes[0]
    values = {each.arm: each for each in paper(PAPER).claims if each.kind == "value"}
    alone = values["student_alone"]
    with matplotlib.rc_context(STYLE):
        for place, arm in enumerate(GAINS.values()):
            difference = (values[arm].value - alone.value) * 100
            known = "M" not in (values[arm].checked, alone.checked)
            label = "the paper, second-hand" if known else "the paper, from memory"
            label = once(axes, label)
            face = "black" if known else "white"
            axes.plot(difference, place + 0.24, "s", markersize=6, mfc=face, mec="black", label=label)
        # Without rows the forest has a tick at zero only.
        axes.xaxis.set_major_locator(AutoLocator())
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -160), max(high, 10))
        axes.set_xlabel("test errors minus those of the student alone, 95 % interval")
        chart.legend(loc="outside lower right", ncols=2)
    return chart
