"""How good, how fast and how sure a translator is, greedily and with the beam, and how good with most weights pruned.

Made from rows of the recipe `sequence_kd`. Its arms come in families, by the beginning of their names. White cards and
colours as in `kdrepro.plots`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from kdrepro import checks
from kdrepro.claims import Side
from kdrepro.exhibits.charts import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    STYLE,
    Chart,
    grid,
    new_chart,
    nothing,
    say,
)
from kdrepro.judging.readings import readings, rows_shown, summary
from kdrepro.judging.wording import from_to
from kdrepro.ledger import Ledger, Row
from kdrepro.mode_masses import EDGES, METRICS

RECIPE = "sequence_kd"
# How the rows name the search that stands beside greedy decoding.
_BEAM = "beam5"


class Family(NamedTuple):
    """Arms that translate the same text: what they are called, and the metric that says how good they are."""

    name: str
    metric: str
    words: str


FAMILIES = {
    "ende": Family("English to German", "bleu", "BLEU"),
    "deen": Family("German to English", "bleu", "BLEU"),
    "cmu": Family("spelling to phonemes", "word_accuracy", "words right"),
}
# The end of an arm's name: what it is called in a figure, and its colour everywhere.
ARMS = {
    "teacher": ("teacher", GREY),
    "teacher_inter": ("teacher, Seq-Inter", "black"),
    "student_alone": ("student alone", RED),
    "word_kd": ("word level", ORANGE),
    "seq_kd": ("Seq-KD", BLUE),
    "seq_inter": ("Seq-KD + Seq-Inter", GREEN),
    "seq_word_inter": ("all three", PINK),
}
# The shares of the weights that are gone; the first is trained as long as the others.
PRUNED = (0, 50, 80, 85, 90)
# Parts of the net, from the source to the target, as rows name them and in words.
PARTS = {
    "source_embedding": "source words",
    "encoder_inputs": "encoder, from below",
    "encoder_states": "encoder, from before",
    "target_embedding": "target words",
    "decoder_words": "decoder, from the word",
    "decoder_states": "decoder, from before",
    "score": "where to look",
    "combine": "attentional vector",
    "output": "output",
}


def family(name: str) -> Family:
    """Return a family by name; a wrong one raises `ValueError` with the right ones."""
    return FAMILIES[checks.choice("family", name, FAMILIES)]


def speed_and_quality(ledger: Ledger, name: str = "ende", *, protocol: str = "paper") -> Chart:
    """How good a net is against how many words a second it writes: a line from greedy decoding (a dot) to the beam.

    Means of the seeds, with the 95 % intervals of the quality; every run is a pale dot. To the right and up is better.
    Intervals of two runs, which are nearly thirteen times as wide as the two are apart, may reach beyond the figure.
    Speeds are words a second on the machines of the rows, their mean where there are several. That of a student is what
    was timed in turn with its teacher within one run, as a ratio, times the teacher's; the student alone, which has no
    teacher to be timed with, has the speed of the others, whose net is the same.
    """
    shown = family(name)
    rows = rows_shown(ledger, RECIPE, protocol)
    speeds = _speeds(rows, name)
    with matplotlib.rc_context(STYLE):
        chart = new_chart(9.0, 5.4)
        axes = chart.subplots()
        drawn = [
            _line(axes, rows, f"{name}_{arm}", shown.metric, speeds.get(arm), label, colour)
            for arm, (label, colour) in ARMS.items()
        ]
        if not any(drawn):
            nothing(axes, f"not run at protocol {protocol}")
            return chart
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("words a second (logarithmic): greedy ●, beam ■")
        axes.set_ylabel(shown.words)
        if shown.metric != "bleu":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        grid(axes)
        axes.set_title(f"{shown.name}, protocol {protocol}", loc="left", fontsize=12)
        _fit_height(axes, rows, [f"{name}_{arm}" for arm in ARMS], shown.metric)
        chart.legend(loc="outside right center")
    return chart


def _fit_height(axes: Axes, rows: Sequence[Row], arms: Sequence[str], metric: str) -> None:
    """Let the axis hold all runs, and the intervals of three and more."""
    held: list[float] = []
    for side in (Side.of(arm, f"{metric}_{search}") for arm in arms for search in ("greedy", _BEAM)):
        held += [each.value for each in readings(rows, side)]
        found = summary(rows, side)
        if found is not None and found[1] > 2:
            held += [found[0].low, found[0].high]
    margin = 0.06 * (max(held) - min(held)) or 0.5
    axes.set_ylim(min(held) - margin, max(held) + margin)


def _speeds(rows: Sequence[Row], name: str) -> dict[str, tuple[float, float]]:
    """Words a second of each arm, by the end of its name: in greedy decoding, and with the beam."""
    found: dict[str, tuple[float, float]] = {}
    teacher = summary(rows, Side.of(f"{name}_teacher", f"words_per_second_{_BEAM}"))
    for arm in ARMS:
        ratio = summary(rows, Side.of(f"{name}_{arm}", f"speedup_over_teacher_{_BEAM}"))
        own = summary(rows, Side.of(f"{name}_{arm}", "greedy_speedup"))
        if arm == "teacher" and teacher and own:
            found[arm] = (teacher[0].mean * own[0].mean, teacher[0].mean)
        elif teacher and ratio and own:
            speed = teacher[0].mean * ratio[0].mean
            found[arm] = (speed, speed / own[0].mean)
    students = [each for arm, each in found.items() if not arm.startswith("teacher")]
    if students:
        greedy, with_beam = zip(*students, strict=True)
        found["student_alone"] = (statistics.fmean(greedy), statistics.fmean(with_beam))
        return found
    alone = [
        summary(rows, Side.of(f"{name}_student_alone", f"words_per_second_{search}"))
        for search in ("greedy", _BEAM)
    ]
    if all(alone):
        # No student that was timed beside the teacher is there yet.
        own_greedy, own_beam = (interval.mean for interval, _ in filter(None, alone))
        found["student_alone"] = (own_greedy, own_beam)
    return found


def _line(
    axes: Axes,
    rows: Sequence[Row],
    arm: str,
    metric: str,
    speed: tuple[float, float] | None,
    label: str,
    colour: str,
) -> bool:
    """Draw one arm; whether it was run."""
    sides = [Side.of(arm, f"{metric}_{search}") for search in ("greedy", _BEAM)]
    found = [summary(rows, side) for side in sides]
    if speed is None or any(each is None for each in found):
        return False
    heights = [interval for interval, _ in filter(None, found)]
    for where, side, height, marker in zip(speed, sides, heights, "os", strict=True):
        values = [each.value for each in readings(rows, side)]
        axes.plot([where] * len(values), values, marker, color=colour, alpha=0.25, markersize=4)
        half = height.half if math.isfinite(height.half) else None
        axes.errorbar(where, height.mean, yerr=half, fmt=marker, color=colour, markersize=9, capsize=4)
    axes.plot(speed, [each.mean for each in heights], color=colour, linewidth=2, label=label)
    return True


def mode_mass_histogram(
    ledger: Ledger, arms: Mapping[str, str], *, protocol: str = "paper", title: str = ""
) -> Chart:
    """One histogram over another, an arm each, by what it is called: mean shares of the seeds with 95 % intervals.

    `title` says what it is about. The upright line is the mean mode mass, which claims speak of.
    """
    rows = rows_shown(ledger, RECIPE, protocol)
    places = np.arange(len(METRICS))
    with matplotlib.rc_context(STYLE):
        chart = new_chart(8.0, 0.9 + 1.75 * len(arms))
        panels = np.atleast_1d(chart.subplots(len(arms), 1, sharex=True, sharey=True))
        highest = 0.0
        chart.suptitle(title, x=0.02, ha="left", fontsize=13)
        for axes, (name, arm), colour in zip(panels, arms.items(), cycle(CYCLE), strict=False):
            found = [summary(rows, Side.of(arm, metric)) for metric in METRICS]
            mean = summary(rows, Side.of(arm, "mode_mass"))
            axes.set_title(name, loc="left", fontsize=12)
            axes.set_xlim(0, len(places))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
            if mean is None or any(each is None for each in found):
                say(axes, f"not run at protocol {protocol}")
                continue
            intervals = [interval for interval, _ in filter(None, found)]
            heights = [interval.mean for interval in intervals]
            halves = [interval.half if math.isfinite(interval.half) else 0.0 for interval in intervals]
            axes.bar(places + 0.5, heights, width=0.94, color=colour, alpha=0.75)
            whiskers = [min(half, height) for half, height in zip(halves, heights, strict=True)], halves
            # The whiskers of two runs may reach beyond the figure.
            reached = [
                height + (half if mean[1] > 2 else 0.0) for height, half in zip(heights, halves, strict=True)
            ]
            highest = max(highest, *reached)
            if any(halves):
                axes.errorbar(
                    places + 0.5, heights, yerr=whiskers, fmt="none", ecolor="black", linewidth=1.2, capsize=3
                )
            (middle, *_), count = mean
            where = 2 * (math.log10(max(middle, 1e-9)) - EDGES[0])
            axes.axvline(max(0.0, where), color="black", linestyle="--", linewidth=1.5)
            words = f"mean {100 * middle:.3g} %, {count} run{'s' if count > 1 else ''}"
            axes.text(0.015, 0.82, words, transform=axes.transAxes, fontsize=11)
        if highest:
            panels[0].set_ylim(0, 1.08 * highest)
        labels = ["less", *(f"{100 * 10**edge:.2g} %" for edge in EDGES[1:-1]), "100 %"]
        panels[-1].set_xticks([0, *places + 1], labels)
        panels[-1].set_xlabel("probability of the best translation")
        chart.supylabel("share of the sentences", fontsize=12)
    return chart


def pruning_curve(ledger: Ledger, *, protocol: str = "paper") -> Chart:
    """How good the distilled student is with more and more of its weights pruned, greedily and with the beam.

    Means of the seeds with their 95 % intervals, for each direction of the captions that has any; the dashed line is
    the teacher with the beam.
    """
    rows = rows_shown(ledger, RECIPE, protocol)
    with matplotlib.rc_context(STYLE):
        chart, panels = _panels(rows, height=4.2)
        for name, axes in panels.items():
            axes.set_title(FAMILIES[name].name, loc="left", fontsize=12)
            steps = {share: f"{name}_pruned_{share}" for share in PRUNED}
            drawn = [
                _decline(axes, rows, steps, f"bleu_{search}", label=label, colour=colour)
                for search, label, colour in (("greedy", "greedy", SKY), (_BEAM, "beam", BLUE))
            ]
            if not any(drawn):
                nothing(axes, f"not run at\nprotocol {protocol}")
                continue
            teacher = summary(rows, Side.of(f"{name}_teacher", f"bleu_{_BEAM}"))
            if teacher is not None:
                axes.axhline(teacher[0].mean, color=GREY, linestyle="--", linewidth=2, label="teacher, beam")
            # The last ones are close together.
            axes.set_xticks(PRUNED, [f"{share} %" for share in PRUNED], rotation=45)
            axes.set_xlabel("weights pruned")
            axes.set_ylabel("BLEU")
            grid(axes, "y")
            axes.legend(loc="best")
    return chart


def _panels(rows: Sequence[Row], *, height: float, sharey: bool = False) -> tuple[Chart, dict[str, Axes]]:
    """A panel for each direction of the captions of which a pruned student was run; one if none was."""
    names = [name for name in ("ende", "deen") if any(row.arm.startswith(f"{name}_pruned_") for row in rows)]
    names = names or ["ende"]
    chart = new_chart(10.0 if len(names) > 1 else 7.0, height)
    panels = chart.subplots(1, len(names), sharey=sharey, squeeze=False)
    return chart, dict(zip(names, panels[0], strict=True))


def _decline(
    axes: Axes, rows: Sequence[Row], steps: dict[int, str], metric: str, *, label: str, colour: str
) -> bool:
    """Draw a metric against the share of the weights that is gone; whether anything was run."""
    found = {share: summary(rows, Side.of(arm, metric)) for share, arm in steps.items()}
    means = {share: each[0] for share, each in found.items() if each is not None}
    if not means:
        return False
    halves = [each.half if math.isfinite(each.half) else math.nan for each in means.values()]
    runs = from_to(each[1] for each in found.values() if each is not None)
    axes.errorbar(
        list(means),
        [each.mean for each in means.values()],
        yerr=halves,
        fmt="-o",
        color=colour,
        linewidth=2,
        capsize=4,
        label=f"{label}, n = {runs}",
    )
    return True


def what_is_pruned(ledger: Ledger, *, protocol: str = "paper") -> Chart:
    """What share of each part of the student is left when the smallest weights of all parts together are gone.

    Means of the seeds, for each direction of the captions that has any; a dashed line is what is left of all parts
    together.
    """
    rows = rows_shown(ledger, RECIPE, protocol)
    with matplotlib.rc_context(STYLE):
        chart, panels = _panels(rows, height=4.8, sharey=True)
        places = range(len(PARTS))
        named: dict[str, Artist] = {}
        first = next(iter(panels.values()))
        first.set_yticks(places, list(PARTS.values()))
        first.invert_yaxis()
        for name, axes in panels.items():
            axes.set_title(FAMILIES[name].name, loc="left", fontsize=12)
            for share, colour in zip(PRUNED[1:], (SKY, BLUE, ORANGE, RED), strict=True):
                arm = f"{name}_pruned_{share}"
                found = [summary(rows, Side.of(arm, f"kept_{part}")) for part in PARTS]
                kept = {place: each[0].mean for place, each in enumerate(found) if each is not None}
                if kept:
                    words = f"{share} % pruned"
                    (named[words],) = axes.plot(
                        list(kept.values()), list(kept), "o", color=colour, label=words
                    )
                    axes.axvline(1 - share / 100, color=colour, linestyle="--", linewidth=1)
            if not axes.lines:
                axes.set_xticks([])
                say(axes, f"not run at\nprotocol {protocol}")
                continue
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
            axes.set_xlabel("weights left")
            grid(axes, "y")
        if named:
            chart.legend(named.values(), named, loc="outside lower center", ncols=len(named))
    return chart
