"""What the teacher is good for beside the labels: born-again students against the same net trained again on the labels.

The net `again` has the initial weights and the batches of the born-again nets of generation 1, so that nothing but the
targets differs. Label smoothing is the control of Yuan et al. (2020): softer labels without any teacher. All is made
from rows of the recipe `born_again`; white cards and colours as in `kdrepro.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib

from kdrepro.claims import Comparison, Side
from kdrepro.exhibits.charts import (
    BLUE,
    ORANGE,
    STYLE,
    Chart,
    forest_axes,
    forest_row,
    grid,
    new_chart,
    once,
    say,
)
from kdrepro.exhibits.generations import FAMILIES, PAPER, RECIPE, named, not_yet
from kdrepro.judging.intervals import Interval, ratio_interval
from kdrepro.judging.metric_names import called
from kdrepro.judging.readings import compare, difference, independent, rows_shown
from kdrepro.judging.wording import number
from kdrepro.ledger import Ledger, Row
from kdrepro.verdicts import judge_paper

# What a student of the first generation learns from, and the end of its arm's name.
TARGETS = {
    "teacher alone (BAN)": "ban1",
    "teacher and labels (BAN+L)": "ban_l",
    "labels, weighted (CWTM)": "cwtm",
    "teacher, permuted (DKPP)": "dkpp",
    "smoothed labels": "smoothing",
}
_METRICS = ("test_errors", "test_nll", "test_ece")


def against_again(
    ledger: Ledger, prefix: str = "few_", targets: Mapping[str, str] = TARGETS, *, protocol: str = "paper"
) -> Chart:
    """Each kind of targets minus retraining on the labels: errors, likelihood and calibration beside each other.

    Every pair is a dot, with the mean and its 95 % interval; a filled diamond has an interval that misses zero. Left is
    better in all three.
    """
    rows = rows_shown(ledger, RECIPE, protocol)
    with matplotlib.rc_context(STYLE):
        chart = new_chart(11.0, 1.6 + 0.55 * len(targets))
        panels = chart.subplots(1, len(_METRICS), sharey=True)
        for axes, metric in zip(panels, _METRICS, strict=True):
            forest_axes(axes, list(targets))
            drawn = 0
            for place, arm in enumerate(targets.values()):
                sides = Comparison(Side.of(f"{prefix}{arm}", metric), Side.of(f"{prefix}again", metric))
                pairs = compare(rows, sides)
                found = difference(pairs)
                if found is None:
                    continue
                drawn += 1
                forest_row(axes, place, [pair.difference for pair in pairs], found)
            axes.locator_params(axis="x", nbins=3)
            axes.set_xlabel(called(metric))
            if not drawn:
                axes.set_xticks([])
                say(axes, f"not run at\nprotocol {protocol}")
        where = f"{named(prefix, protocol)}, protocol {protocol}"
        title = f"{where}: difference to retraining on the labels (left is better)"
        chart.suptitle(title, x=0.01, ha="left", fontsize=12)
    return chart


def relative_gain(rows: list[Row], arm: str, control: str) -> tuple[Interval, int] | None:
    """Which share of the errors of `control` the arm does without, with its interval, and the number of pairs."""
    pairs = compare(rows, Comparison(Side.of(arm, "test_errors"), Side.of(control, "test_errors")))
    whole = [pair.second.value for pair in pairs if pair.second is not None]
    if not whole or not sum(whole):
        return None
    teachers = [pair.teachers for pair in pairs]
    saved = independent([-pair.difference for pair in pairs], teachers)
    return ratio_interval(saved, independent(whole, teachers)), len(pairs)


def relative_gains(ledger: Ledger) -> Chart:
    """On all data: which part of the errors of retraining on labels the teacher saves, and which smoothed labels."""
    with matplotlib.rc_context(STYLE):
        chart = new_chart(9.0, 4.4)
        axes = chart.subplots()
        axes.axvline(0, color="black", linewidth=1)
        drawn = False
        for place, (prefix, family) in enumerate(FAMILIES.items()):
            rows = rows_shown(ledger, RECIPE, family.protocol)
            for shift, arm, colour, label in (
                (-0.17, "ban1", BLUE, "teacher alone (BAN)"),
                (0.17, "smoothing", ORANGE, "smoothed labels, no teacher"),
            ):
                height = place + shift
                found = relative_gain(rows, f"{prefix}{arm}", f"{prefix}again")
                text = "not run"
                if found is not None:
                    (mean, low, high), count = found
                    text = f"{number(100 * mean)} %, n = {count}" + (", no interval" if count > 1 else "")
                    if math.isfinite(low):
                        axes.plot([low, high], [height, height], color=colour, linewidth=2.5)
                        text = f"{number(100 * mean)} ({number(100 * low)} to {number(100 * high)}) %, n = {count}"
                    axes.plot(mean, height, "D", color=colour, markersize=9, label=once(axes, label))
                    drawn = True
                axes.text(
                    1.02, height, text.replace("-", "−"), transform=axes.get_yaxis_transform(), va="center"
                )
        names = [named(prefix, each.protocol).replace(", ", ",\n") for prefix, each in FAMILIES.items()]
        axes.set_yticks(range(len(FAMILIES)), names)
        axes.set_ylim(len(FAMILIES) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("share of the errors of retraining on the labels that is gone")
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0, symbol=" %"))
        if drawn:
            grid(axes, "x")
            chart.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2)
        else:
            axes.set_xticks([0])
    return chart


# The claims about each data: smoothing against retraining on the labels, and the teacher against smoothing.
_CLAIMS = {
    "CIFAR-10 in a short schedule": ("N2", "N3"),
    "MNIST": ("M10", "M10a"),
    "the embedded digits": ("E10", "E10a"),
}
_SMOOTHED = {
    "reproduced": "smoothed labels leave fewer errors than plain ones",
    "contradicted": "smoothed labels leave more errors than plain ones",
    "inconclusive": "smoothed and plain labels cannot be told apart",
}
_TEACHER = {
    "reproduced": "and the teacher fewer still",
    "contradicted": "and fewer than the teacher",
    "inconclusive": "and whether fewer or more than the teacher, the runs do not decide",
}
_PLAIN_TEACHER = {
    "reproduced": "and the teacher leaves fewer than smoothing",
    "contradicted": "and the teacher leaves more than smoothing",
    "inconclusive": "and smoothing and the teacher cannot be told apart",
}


def answer(ledger: Ledger) -> str:
    """What softer labels do without any teacher, as Markdown made from the verdicts, a sentence for each data."""
    verdicts = {each.claim.id: each.verdict for each in judge_paper(PAPER, ledger)}
    told, missing = [], []
    for where, (smoothed, teacher) in _CLAIMS.items():
        if "not run" in (verdicts[smoothed], verdicts[teacher]):
            missing.append(where)
            continue
        beside = _TEACHER if verdicts[smoothed] == "reproduced" else _PLAIN_TEACHER
        end = beside[verdicts[teacher]]
        if verdicts[smoothed] == verdicts[teacher] == "inconclusive":
            end = "nor can smoothing and the teacher"
        told.append(f"On {where} {_SMOOTHED[verdicts[smoothed]]}, {end}.")
    return " ".join([*told, *not_yet(missing)])
