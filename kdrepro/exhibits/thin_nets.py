"""The figures of the chapter on FitNets: the headline, how long a net learns nothing, and how deep it may be.

All are made from rows, and say which are missing. White cards and colours as in `kdrepro.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kdrepro.claims import Side, paper
from kdrepro.exhibits.bars import Column, bars
from kdrepro.exhibits.charts import (
    BLUE,
    GREEN,
    GREY,
    PINK,
    RED,
    SKY,
    STYLE,
    Chart,
    grid,
    new_chart,
    say,
    scattered,
)
from kdrepro.exhibits.run_tables import NOT_RUN, plus_minus
from kdrepro.judging.intervals import mean_interval
from kdrepro.judging.readings import readings, rows_shown, summary
from kdrepro.judging.wording import from_to
from kdrepro.ledger import Ledger, Row
from kdrepro.protocols import EVIDENCE

# The arms on MNIST: what they are called in a figure, and their colour everywhere.
ARMS = {
    "teacher": ("teacher", GREY),
    "student_alone": ("labels alone", RED),
    "kd": ("soft targets", BLUE),
    "fitnet": ("hint, then\nsoft targets", GREEN),
    "fitnet_joint": ("hint and soft\ntargets at once", PINK),
    "fitnet_code": ("three things as\nin the code", "black"),
}
# The nets by depth, and the ends of their arms' names.
DEPTHS = (5, 7, 9, 11)


class Kind(NamedTuple):
    """A way to teach nets of the depth study."""

    name: str
    colour: str
    # Up to how many layers section 4.1 says that nets learn; of one stage section 3.1 says that they do not.
    deepest: int | None
    depths: Sequence[int] = DEPTHS


KINDS = {
    "alone": Kind("labels alone", RED, 5),
    "kd": Kind("soft targets", BLUE, 7),
    "hint": Kind("a hint first", GREEN, 13),
    "joint": Kind("hint and soft targets at once", PINK, None, (5, 11)),
    "joint_labels": Kind("hint and labels at once", SKY, None, (5, 11)),
}
GUESSED = 0.9
# Where the axis of depths ends; room for words after the deepest nets.
_RIGHT = 12.9


def headline(ledger: Ledger, *, protocol: str = "paper") -> Chart:
    """Table 4 of Romero et al. (2015), run again: the test errors of teacher and students on MNIST, in percent.

    Every run is a dot, the bar is the mean with its 95 % interval, the diamond the paper's number. The arms that train
    in one stage have none.
    """
    claims = paper("romero2015")
    told = {"teacher": "F8", "student_alone": "F9", "kd": "F10", "fitnet": "F11"}
    columns = [
        Column(name, arm, colour, claims.claim(told[arm]).value if arm in told else None)
        for arm, (name, colour) in ARMS.items()
        if arm != "fitnet_code"
    ]
    return bars(
        ledger,
        "fitnets",
        columns,
        metric="test_error_rate",
        scale=100.0,
        label="test errors in percent",
        protocol=protocol,
    )


def plateau(errors: Sequence[float]) -> int | None:
    """Count the epochs before the first that gets more than half of the examples right; `None` if none does.

    `errors` are the shares of errors on the held-out examples, epoch by epoch.

    >>> plateau([0.9, 0.9, 0.4, 0.6]), plateau([0.2]), plateau([0.9, 0.9])
    (2, 0, None)
    """
    return next((epoch for epoch, share in enumerate(errors) if share < 0.5), None)


def _curves(rows: Sequence[Row], arm: str, name: str) -> list[list[float]]:
    return [row.curves[name] for row in rows if row.arm == arm and row.curves.get(name)]


def depth_arms(depths: Sequence[int] = DEPTHS) -> list[str]:
    """Return the names of the depth study's students, the shallowest first."""
    return [
        f"depth{depth}_{name}" for depth in depths for name, kind in KINDS.items() if depth in kind.depths
    ]


def _of_depth(arm: str) -> tuple[int, str] | None:
    """The depth and the kind of a net of the depth study; None for another arm."""
    depth, _, kind = arm.removeprefix("depth").partition("_")
    return (int(depth), kind) if depth.isdigit() and kind in KINDS else None


def _epochs(counts: Sequence[int | None]) -> str:
    """How many epochs the runs took, in words: a range, and how many never got there."""
    known = sorted(count for count in counts if count is not None)
    never = len(counts) - len(known)
    words = [f"{known[0]}" if known[0] == known[-1] else f"{known[0]} to {known[-1]}"] if known else []
    words += [f"never in {never} of {len(counts)} runs" if known else "never"] if never else []
    return ", ".join(words)


def plateau_curves(
    ledger: Ledger,
    arms: Sequence[str] = tuple(ARMS),
    *,
    protocol: str = "paper",
    examples: str = "digits",
) -> Chart:
    """Errors on the held-out examples, epoch by epoch, from where the labels come in; and the hint stage before it.

    Every run is a line; those of the deepest nets are dashed. The legend says how many epochs passed before half of
    the examples were right. At the right the distance to the hint, where 100 % is that of the hint's mean at each
    position: what a student reaches that sees no picture.
    """
    rows = rows_shown(ledger, "fitnets", protocol)
    with matplotlib.rc_context(STYLE):
        chart = new_chart(11.0, 5.8)
        left, right = chart.subplots(1, 2, width_ratios=(2, 1))
        # The axis shows twice the longest plateau, and all of a training that is short or never leaves it.
        shown = 6
        for arm in arms:
            curves = _curves(rows, arm, "validation")
            counts = [plateau(curve) for curve in curves]
            name = _named(arm)[0]
            for place, (curve, count) in enumerate(zip(curves, counts, strict=True)):
                _line(left, curve, arm, None if place else f"{name}: {_epochs(counts)}")
                shown = max(shown, len(curve) if count is None else 2 * count, min(12, len(curve)))
        left.set_title(f"protocol {protocol}", loc="left", fontsize=12)
        left.set_xlabel("epoch of training on classes")
        left.set_ylabel(f"errors on the held-out {examples}")
        if left.lines:
            left.axhline(GUESSED, color=GREY, linestyle=":", linewidth=1.2)
            left.text(
                1.0, GUESSED + 0.02, "guessing", ha="right", color=GREY, transform=left.get_yaxis_transform()
            )
            left.set_xlim(0.5, shown + 0.5)
            left.set_ylim(0, 1)
            title = f"epochs before half of the {examples} were right"
            chart.legend(title=title, title_fontsize=11, loc="outside lower center", ncols=2)
        _hint_stage(right, rows, arms)
        # The right one is narrow, and numbers of three digits need their room.
        for axes, marks, words in (
            (left, 9, f"not run at protocol {protocol}"),
            (right, 5, "no hint stage run"),
        ):
            axes.xaxis.set_major_locator(MaxNLocator(marks, integer=True))
            if axes.lines:
                axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
                grid(axes)
            else:
                axes.set_yticks([])
                say(axes, words)
    return chart


def _named(arm: str) -> tuple[str, str, str]:
    """What an arm is called, its colour and the style of its lines."""
    found = _of_depth(arm)
    if found is not None:
        depth, kind = found
        style = "--" if depth == DEPTHS[-1] else "-"
        return f"{depth} layers, {KINDS[kind].name}", KINDS[kind].colour, style
    name, colour = ARMS.get(arm, (arm, GREY))
    return name.replace("\n", " "), colour, "-"


def _line(axes: Axes, curve: Sequence[float], arm: str, label: str | None) -> None:
    _, colour, style = _named(arm)
    # A line of one point is invisible.
    marker = "o" if len(curve) == 1 else None
    epochs = range(1, len(curve) + 1)
    axes.plot(
        epochs, curve, color=colour, linestyle=style, linewidth=1.8, alpha=0.85, marker=marker, label=label
    )


def _hint_stage(axes: Axes, rows: Sequence[Row], arms: Sequence[str]) -> None:
    axes.set_xlabel("epoch of the hint stage")
    axes.set_ylabel("distance to the hint (its mean: 100 %)")
    longest = 0
    for row in rows:
        curve, blind = row.curves.get("hint_stage/validation"), row.metrics.get("hint_distance_blind")
        if row.arm in arms and curve and blind:
            _line(axes, [value / blind for value in curve], row.arm, None)
            longest = max(longest, len(curve))
    if longest:
        axes.axhline(1.0, color=GREY, linestyle=":", linewidth=1.2)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0.5, max(6, longest) + 0.5)


def hint_left(rows: Sequence[Row], when: str = "hint_distance_after") -> list[float]:
    """How far from the hint, in percent of the distance of its mean at each position, in those runs that had one."""
    found = [(row.metrics.get(when), row.metrics.get("hint_distance_blind")) for row in rows]
    return [100 * distance / blind for distance, blind in found if distance is not None and blind]


def plateau_table(
    ledger: Ledger, arms: Sequence[str] = tuple(ARMS), *, protocol: str = "paper"
) -> pd.DataFrame:
    """The epochs of each arm: of the hint before it; on classes until half are right, until the best weights, in all.

    Beside them how far the guided layer is from the hint on the held-out examples (see `hint_left`), with the best
    weights of the hint stage and, from the nearest run to the farthest, with the last ones of all.
    """
    rows = rows_shown(ledger, "fitnets", protocol)
    records = []
    for arm in arms:
        own = [row for row in rows if row.arm == arm]

        def shown(values: Sequence[float], *, own: list[Row] = own) -> str:
            if not own:
                return NOT_RUN
            return plus_minus(mean_interval(list(values)), len(values)) if values else "–"

        def epochs(key: str, *, plus: int = 0, own: list[Row] = own) -> list[float]:
            return [float(row.config[key]) + plus for row in own if isinstance(row.config.get(key), int)]

        counts = [plateau(curve) for curve in _curves(rows, arm, "validation")]
        ends = hint_left(own)
        records.append(
            {
                "Arm": arm,
                "Hint stage": shown(epochs("hint_epochs_run")),
                "Hint left, %": shown(hint_left(own, "hint_distance")),
                # Too far apart for a mean.
                "In the end, %": from_to(map(round, ends)) if ends else shown([]),
                "Before half are right": _epochs(counts) if counts else NOT_RUN,
                "Best weights at": shown(epochs("best_epoch", plus=1)),
                "Epochs on classes": shown(epochs("epochs_run")),
                "Runs": len(own),
            }
        )
    return pd.DataFrame(records)


def depth_curve(ledger: Ledger, *, protocol: str = "reduced") -> Chart:
    """Test errors against depth for nets of 30 million multiplications, by how they were taught.

    Mean and 95 % interval over the seeds, every run as a dot. Above half of the pictures wrong a net counts as one
    that does not learn. The bars at the top are the depths at which Romero et al. (2015), section 4.1, say that a net
    learns; they go beyond the figure where the paper goes beyond it.
    """
    rows = rows_shown(ledger, "fitnets", protocol)
    with matplotlib.rc_context(STYLE):
        chart = new_chart(8.5, 5.2)
        axes = chart.subplots()
        found = [_depths(axes, rows, kind, place) for place, kind in enumerate(KINDS)]
        axes.set_xticks(DEPTHS)
        axes.set_xlim(4.3, _RIGHT)
        axes.set_xlabel("layers, with 30 million multiplications each")
        axes.set_ylabel("test errors")
        axes.set_title(f"protocol {protocol}", loc="left", fontsize=12)
        if not any(found):
            axes.set_yticks([])
            say(axes, f"not run at protocol {protocol}")
            return chart
        for share, words in ((GUESSED, "guessing"), (0.5, "half are right")):
            axes.axhline(share, color=GREY, linestyle=":", linewidth=1.2)
            axes.text(_RIGHT - 0.05, share + 0.01, words, ha="right", va="bottom", color=GREY)
        teacher = summary(rows, Side.of("cifar_teacher", "test_error_rate"))
        if teacher is not None:
            axes.axhline(teacher[0].mean, color="black", linestyle="--", linewidth=1.5, label="teacher")
        axes.set_ylim(0, 1.22 if protocol in EVIDENCE else 1)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        if protocol in EVIDENCE:
            _paper_depths(axes)
        grid(axes, "y")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return chart


def _depths(axes: Axes, rows: Sequence[Row], kind: str, place: int) -> bool:
    """Draw the nets of one kind; whether there was anything to draw."""
    name, colour = KINDS[kind].name, KINDS[kind].colour
    # Beside one another, so that intervals and dots of one depth do not hide each other.
    shift = 0.16 * (place - (len(KINDS) - 1) / 2)
    places, means = [], []
    for depth in DEPTHS:
        side = Side.of(f"depth{depth}_{kind}", "test_error_rate")
        found = summary(rows, side)
        places.append(depth + shift)
        if found is None:
            # A gap: nothing is known of a depth that was not run.
            means.append(math.nan)
            continue
        (mean, low, _), count = found
        values = [each.value for each in readings(rows, side)]
        axes.plot(depth + shift + scattered(count) / 3, values, "o", color=colour, alpha=0.35, markersize=4)
        if math.isfinite(low):
            axes.errorbar(depth + shift, mean, yerr=mean - low, color=colour, linewidth=2, capsize=5)
        means.append(mean)
    drawn = not all(math.isnan(mean) for mean in means)
    if drawn:
        axes.plot(places, means, "-o", color=colour, linewidth=2, markersize=7, label=name)
    return drawn


def _paper_depths(axes: Axes) -> None:
    """Draw, at the top, how deep a net the paper says that each kind trains."""
    axes.text(4.4, 1.19, "the paper: learns at", va="center", ha="left", fontsize=10)
    for place, (_, colour, deepest, _) in enumerate(KINDS.values()):
        if deepest is None:
            continue
        height = 1.14 - 0.045 * place
        axes.plot(
            [4.85, min(deepest + 0.15, _RIGHT)],
            [height] * 2,
            color=colour,
            linewidth=6,
            solid_capstyle="butt",
        )
        if deepest > max(DEPTHS):
            axes.text(_RIGHT - 0.05, height + 0.02, f"to {deepest}", ha="right", va="bottom", fontsize=10)
