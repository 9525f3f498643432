"""How sure a translator is of its best translation: over the sentences of a test set, before and after distillation.

The mode mass of a sentence is the probability of the best translation that beam search finds (Kim & Rush 2016,
section 5). Its mean hides that it goes from next to nothing to nearly 1, so rows keep the shares of the sentences in
bins, half a power of ten wide. White cards and colours as in `kdrepro.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from kdrepro.charts import CYCLE, STYLE, Chart, new_chart, say
from kdrepro.claims import Side
from kdrepro.ledger import Ledger
from kdrepro.pairs import rows_shown, summary

RECIPE = "sequence_kd"
# The powers of ten between which sentences are counted; what is less than the first is counted with the first bin.
EDGES = (-4.0, -3.5, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0)
_METRIC = "mode_mass_share_"


def shares(log_probs: Sequence[float]) -> dict[str, float]:
    """Return the share of the sentences in each bin, as metrics of a row, given log p of each best one, in nats.

    >>> found = shares([math.log(0.5), math.log(0.4), math.log(0.02), -100.0])
    >>> [found[f"mode_mass_share_{place}"] for place in range(8)]
    [0.25, 0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.5]

    Raises `ValueError` for none.
    """
    if len(log_probs) == 0:
        raise ValueError("log_probs: got none, expected one for each sentence")
    powers = [value / math.log(10) for value in log_probs]
    counts = [0] * (len(EDGES) - 1)
    for power in powers:
        counts[sum(power >= edge for edge in EDGES[1:-1])] += 1
    return {f"{_METRIC}{place}": count / len(powers) for place, count in enumerate(counts)}


def histogram(ledger: Ledger, arms: Mapping[str, str], *, protocol: str = "paper") -> Chart:
    """One histogram over another, an arm each, by what it is called: mean shares of the seeds with 95 % intervals.

    The upright line is the mean mode mass, which claims speak of.
    """
    rows = rows_shown(ledger, RECIPE, protocol)
    places = np.arange(len(EDGES) - 1)
    with matplotlib.rc_context(STYLE):
        chart = new_chart(8.0, 0.9 + 1.75 * len(arms))
        panels = np.atleast_1d(chart.subplots(len(arms), 1, sharex=True, sharey=True))
        for axes, (name, arm), colour in zip(panels, arms.items(), CYCLE, strict=False):
            found = [summary(rows, Side.of(arm, f"{_METRIC}{place}")) for place in places]
            mean = summary(rows, Side.of(arm, "mode_mass"))
            axes.set_title(name, loc="left", fontsize=12)
            axes.set_xlim(0, len(places))
            axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
            if mean is None or any(each is None for each in found):
                say(axes, f"not run at protocol {protocol}")
                continue
            intervals = [interval for interval, _ in filter(None, found)]
            heights = [interval.mean for interval in intervals]
            halves = [interval.half if math.isfinite(interval.half) else 0.0 for interval in intervals]
            axes.bar(places + 0.5, heights, width=0.94, color=colour, alpha=0.75)
            whiskers = [min(half, height) for half, height in zip(halves, heights, strict=True)], halves
            if any(halves):
                axes.errorbar(
                    places + 0.5, heights, yerr=whiskers, fmt="none", ecolor="black", linewidth=1.2, capsize=3
                )
            (middle, *_), count = mean
            where = 2 * (math.log10(max(middle, 1e-9)) - EDGES[0])
            axes.axvline(max(0.0, where), color="black", linestyle="--", linewidth=1.5)
            words = f"mean {100 * middle:.3g} %, {count} run{'s' if count > 1 else ''}"
            axes.text(0.015, 0.82, words, transform=axes.transAxes, fontsize=11)
        labels = ["less", *(f"{100 * 10**edge:.2g} %" for edge in EDGES[1:-1]), "100 %"]
        panels[-1].set_xticks([0, *places + 1], labels)
        panels[-1].set_xlabel("probability of the best translation")
        chart.supylabel("share of the sentences", fontsize=12)
    return chart
