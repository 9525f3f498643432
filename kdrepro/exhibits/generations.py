"""From generation to generation: what born-again nets get wrong, and whether it goes on helping.

All is made from rows of the recipe `born_again`. Its arms come in three families, by the beginning of their names:
pictures of CIFAR-10, all of MNIST, and the few digits that come with the package. White cards and colours as in
`kdrepro.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kdrepro.claims import Side, paper
from kdrepro.exhibits.charts import BLUE, GREEN, RED, STYLE, Chart, grid, new_chart, nothing, once
from kdrepro.judging.judgement import Judgement
from kdrepro.judging.metric_names import SHARES, called
from kdrepro.judging.readings import compare, readings, rows_shown, summary
from kdrepro.judging.wording import from_to
from kdrepro.ledger import Ledger, Row
from kdrepro.verdicts import judge_paper

RECIPE, PAPER = "born_again", "furlanello2018"


class Family(NamedTuple):
    """Arms that are trained on the same data: what they are called, how many generations, and at which protocol."""

    name: str
    generations: int
    protocol: str


FAMILIES = {
    "": Family("CIFAR-10", 3, "reduced"),
    "mnist_": Family("MNIST", 5, "paper"),
    "few_": Family("the embedded digits", 5, "paper"),
}
_PANELS = ("test_error_rate", "train_accuracy", "teacher_agreement", "test_nll", "test_ece")
# A tenth of a point, in which one digit of 60,000 cannot be seen.
_LEAST = 0.001


def generation_arms(prefix: str, count: int) -> list[str]:
    """The arms of a family in the order of their generations, the first teacher being generation 0.

    >>> generation_arms("few_", 2)
    ['few_teacher', 'few_ban1', 'few_ban2']
    """
    return [f"{prefix}teacher", *(f"{prefix}ban{generation}" for generation in range(1, count + 1))]


def steps(prefix: str, count: int) -> dict[str, tuple[str, str]]:
    """The comparisons of each generation with the one before it, and of the last with the first student, by name."""
    arms = generation_arms(prefix, count)
    named = {
        f"generation {place + 1} − {'its teacher' if place == 0 else place}": (student, teacher)
        for place, (teacher, student) in enumerate(pairwise(arms))
    }
    return named | {f"generation {count} − 1": (arms[count], arms[1])}


def by_generation(ledger: Ledger, prefix: str = "few_", *, protocol: str = "paper") -> Chart:
    """Errors, fit, agreement with the teacher, likelihood and calibration, against the generation.

    The mean of the seeds with its 95 % band, and every seed as a thin line. The square is the same net trained on the
    retraining on the labels, from the initial weights of generation 1; triangles are the first two and three born-again
    generations averaged.
    """
    rows = rows_shown(ledger, RECIPE, protocol)
    arms = generation_arms(prefix, FAMILIES[prefix].generations)
    there = {row.arm for row in rows}
    last = max([3, *(place for place, arm in enumerate(arms) if arm in there)])
    with matplotlib.rc_context(STYLE):
        chart = new_chart(11.0, 6.4)
        *panels, corner = chart.subplots(2, 3).flat
        for axes, metric in zip(panels, _PANELS, strict=True):
            axes.set_title(called(metric), loc="left", fontsize=12)
            if not _lines(axes, rows, arms, metric):
                nothing(axes, f"not run at\nprotocol {protocol}")
                continue
            _beside(axes, rows, prefix, metric)
            # The interval of a few seeds may reach below what any of these can be.
            axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
            if metric == "train_accuracy":
                _not_less_than(axes, _LEAST)
            axes.set_xticks(range(last + 1), ["teacher", *map(str, range(1, last + 1))])
            axes.set_xlim(-0.3, last + 0.4)
            axes.set_xlabel("generation")
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
            if metric in SHARES:
                axes.yaxis.set_major_formatter(FuncFormatter(_percent))
            grid(axes, "y")
        corner.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        title = f"{named(prefix, protocol)},\nprotocol {protocol}"
        corner.legend(handles, labels, loc="center", title=title, title_fontsize=12)
    return chart


def _not_less_than(axes: Axes, span: float) -> None:
    """Let the axis of shares span so much at least: a figure that fills itself with one digit says too much."""
    low, high = axes.get_ylim()
    if high - low < span:
        axes.set_ylim(high - span, high + span / 10)


def named(prefix: str, protocol: str) -> str:
    """What the data of a family is called, whether the schedule is a short one, and whether the experiment is ours."""
    ours = ", our experiment" if prefix and protocol == "paper" else ""
    return FAMILIES[prefix].name + (", short schedule" if protocol == "reduced" else ours)


def _percent(share: float, _: int | None) -> str:
    # An interval may reach beyond what a share can be.
    return f"{100 * share:.6g} %" if share <= 1 + 1e-9 else ""


def _lines(axes: Axes, rows: Sequence[Row], arms: Sequence[str], metric: str) -> bool:
    """Draw the generations; whether there was anything to draw."""
    places, means, lows, highs = [], [], [], []
    seeds: dict[int, list[tuple[int, float]]] = {}
    for place, arm in enumerate(arms):
        side = Side.of(arm, metric)
        found = summary(rows, side)
        if found is None:
            continue
        (mean, low, high), _ = found
        places.append(place)
        means.append(mean)
        # Where nothing is known of the spread there is no band.
        lows.append(low if math.isfinite(low) else math.nan)
        highs.append(high if math.isfinite(high) else math.nan)
        for each in readings(rows, side):
            seeds.setdefault(each.seed, []).append((place, each.value))
    for points in seeds.values():
        axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=0.7, alpha=0.25)
    if places:
        axes.fill_between(places, lows, highs, color=BLUE, alpha=0.2, linewidth=0)
        runs = from_to(sum(1 for points in seeds.values() if place in dict(points)) for place in places)
        label = f"generations, {runs} {'seed' if runs == '1' else 'seeds'}"
        axes.plot(places, means, "-o", color=BLUE, linewidth=2.5, markersize=6, label=label)
        if len({each for each in (*means, *lows, *highs) if math.isfinite(each)}) == 1:
            axes.set_ylim(0.99 * means[0], 1.002 * means[0])
    return bool(places)


def _beside(axes: Axes, rows: Sequence[Row], prefix: str, metric: str) -> None:
    """Draw what is no generation: retraining on the labels, and the ensembles."""
    marks = [(f"{prefix}again", 1.12, "s", RED, "retrained on labels")]
    marks += [
        (f"{prefix}ens{count}", count + 0.12, "^", GREEN, "born-again nets averaged") for count in (2, 3)
    ]
    for arm, place, marker, colour, label in marks:
        found = summary(rows, Side.of(arm, metric))
        if found is None:
            continue
        (mean, low, _), _ = found
        half = mean - low if math.isfinite(low) else np.nan
        axes.errorbar(
            place,
            mean,
            yerr=half,
            fmt=marker,
            color=colour,
            markersize=8,
            linewidth=2,
            capsize=4,
            label=once(axes, label),
        )


# On pictures, the first generation against retraining on the labels.
_PICTURES = "S1a"
# The claims on each data: a first generation against retraining on labels, the next ones, the last, and how it fits.
_CLAIMS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("CIFAR-10 in a short schedule", _PICTURES, ("S2", "S2a"), ()),
    ("MNIST", "M1a", ("M2", "M3", "M4", "M5"), ("M6", "M6a")),
    ("the embedded digits", "E1a", ("E2", "E3", "E4", "E5"), ("E6", "E6a")),
)
_FIRST = {
    "reproduced": "the first born-again generation makes fewer errors than retraining on the labels",
    "contradicted": "the first born-again generation makes more errors than retraining on the labels",
    "inconclusive": "the first born-again generation and retraining on the labels cannot be told apart",
}
_LAST = {
    "reproduced": "The last makes more errors than the first.",
    "contradicted": "The last still makes fewer errors than the first.",
    "inconclusive": "Whether the last is worse than the first, these runs do not decide.",
}
# Where one of the generations before was shown to be better than what it learned from.
_TURNED = " So it has turned, as Mobahi et al. say that it must."
_FIT = {
    "reproduced": "the direction that Mobahi et al. derive; it shows no more than that.",
    "contradicted": "against the direction that Mobahi et al. derive.",
    "inconclusive": "which decides nothing.",
}


def answer(ledger: Ledger) -> str:
    """Whether being born again helps, and goes on helping: Markdown made from the verdicts, a paragraph a data set."""
    judged = {each.claim.id: each for each in judge_paper(PAPER, ledger)}
    verdicts = {name: each.verdict for name, each in judged.items()}
    told = []
    for where, first, later, last in _CLAIMS:
        if verdicts[first] == "not run":
            continue
        words = [f"**On {where}** {_FIRST[verdicts[first]]}.", _later([verdicts[each] for each in later])]
        if last and "not run" not in (found := [verdicts[each] for each in last]):
            # Against its teacher; `first` is against retraining on the labels.
            improved = "reproduced" in [verdicts[each] for each in (first.removesuffix("a"), *later)]
            turned = found[0] == "reproduced" and improved
            words += [_LAST[found[0]] + (_TURNED if turned else ""), _fits(judged[last[1]], ledger)]
        if first == _PICTURES:
            words += _how_short(ledger)
        told.append(" ".join(words))
    missing = [where for where, first, *_ in _CLAIMS if verdicts[first] == "not run"]
    return "\n\n".join([*told, *not_yet(missing)])


def _fits(judged: Judgement, ledger: Ledger) -> str:
    """In how many seeds the last generation gets fewer training digits right than the first, and how many fewer."""
    claim = judged.claim
    pairs = compare(rows_shown(ledger, RECIPE, claim.protocol), claim.comparisons[0])
    digits = [round(claim.scale * pair.difference) for pair in pairs]
    if not any(digits):
        many = "all" if {pair.first.value for pair in pairs} == {1.0} else "equally many"
        return f"In each of {len(pairs)} seeds the first and the last get {many} training digits right."
    by = {
        "fewer": [-each for each in digits if each < 0],
        "more": [each for each in digits if each > 0],
    }
    (many, some), *rest = [each for each in by.items() if each[1]]
    digits_of = claim.unit.removesuffix(" digits").replace("of ", "of the ")
    also = "".join(f", and in {len(others)} {word}, by {from_to(others)}" for word, others in rest)
    return (
        f"In {len(some)} of {len(pairs)} seeds the last gets {many} {digits_of} training digits "
        f"right than the first, by {from_to(some)}{also}: {_FIT[judged.verdict]}"
    )


# What the short schedule has to do with it, by what became of the first generation there.
_WRONG_TARGETS = (
    "Such targets would make a student that hears nothing else worse than one with the labels",
    "and that one with labels and teacher makes fewer errors than one with the teacher alone goes with it",
    "These runs do not prove it, and they say nothing of a teacher that fits its pictures",
)


def short_schedule(ledger: Ledger) -> str:
    """How far the teachers on pictures fit what they were trained on, and what that may explain: Markdown from rows."""
    found = _teachers(ledger, "train_accuracy")
    if found is None:
        return "Not run yet."
    right, count = found
    told = (
        f"After so few epochs the teachers ({count} {'seed' if count == 1 else 'seeds'}) get {100 * right:.1f} % of "
        f"their own training pictures right. Of the other {100 * (1 - right):.1f} % they say something wrong, and "
        "that is what a born-again student is told of these pictures."
    )
    verdicts = {each.claim.id: each.verdict for each in judge_paper(PAPER, ledger)}
    if verdicts[_PICTURES] != "contradicted":
        return told
    worse, labels, limit = _WRONG_TARGETS
    beside = f" (S1a), {labels} (S4)" if verdicts["S4"] == "contradicted" else " (S1a)"
    return f"{told} {worse}{beside}. {limit}."


def _how_short(ledger: Ledger) -> list[str]:
    right, errors = (_teachers(ledger, metric) for metric in ("train_accuracy", "test_error_rate"))
    if right is None or errors is None:
        return []
    return [
        f"In so short a schedule the teachers get {100 * right[0]:.0f} % of their training pictures right, and make "
        f"{100 * errors[0]:.1f} % test errors where the paper's smallest net makes {paper(PAPER).claim('B1').value:g}."
    ]


def _teachers(ledger: Ledger, metric: str) -> tuple[float, int] | None:
    """The mean of the teachers on pictures, and how many there are."""
    found = summary(rows_shown(ledger, RECIPE, "reduced"), Side.of("teacher", metric))
    return None if found is None else (found[0].mean, found[1])


def not_yet(missing: Sequence[str]) -> list[str]:
    """The sentence about data on which too little is recorded, or none.

    >>> not_yet(["MNIST", "CIFAR-10"])
    ['Not enough runs are recorded yet on MNIST and on CIFAR-10.']
    """
    return [f"Not enough runs are recorded yet on {' and on '.join(missing)}."] if missing else []


def _later(verdicts: Sequence[str]) -> str:
    counts = {
        name: verdicts.count(name) for name in ("reproduced", "contradicted", "inconclusive", "not run")
    }
    words = {
        "reproduced": "with fewer errors",
        "contradicted": "with more errors",
        "inconclusive": "without a measurable difference",
        "not run": "not run yet",
    }
    told = [f"{count} {words[name]}" for name, count in counts.items() if count]
    return f"Of {len(verdicts)} further generations, each against the one before: {', '.join(told)}."
