"""What Furlanello et al. (2018) print, one number of each: gains on CIFAR-10, generations on CIFAR-100, one cell twice.

The numbers are read from the claims, where they stand once. White cards and colours as in `kdrepro.plots`.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

import matplotlib
import pandas as pd

from kdrepro.claims import paper
from kdrepro.exhibits.charts import BLUE, CYCLE, GREY, RED, STYLE, Chart, grid, new_chart, once

PAPER = "furlanello2018"
# Table 1 by net, and Table 2 likewise. A net of ours has a claim for each of its two numbers in Table 1.
_TABLE1, _TABLE2 = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8"), ("T1", "T2", "T3", "T4")
_NUMBER = r"(\d+\.?\d*)"


class Gain(NamedTuple):
    """A row of Table 1: a net, its parameters in millions, and the test errors of teacher and student in percent."""

    net: str
    millions: float
    teacher: float
    student: float

    @property
    def points(self) -> float:
        """How many points of error the student has less than its teacher; below 0 it got worse."""
        return round(self.teacher - self.student, 2)


class Generations(NamedTuple):
    """A row of Table 2: a net, and in percent the test errors of its teacher, BAN, and BAN-1, BAN-2 and so on."""

    net: str
    teacher: float
    again: float
    born: tuple[float, ...]

    @property
    def apart(self) -> float:
        """How far BAN and BAN-1 lie apart: two runs of one procedure."""
        return round(abs(self.again - self.born[0]), 2)


def printed_gains() -> list[Gain]:
    """The eight nets of Table 1, CIFAR-10.

    >>> printed_gains()[3]
    Gain(net='WRN-28-10', millions=36.0, teacher=3.77, student=3.86)
    """
    gains = []
    for name in _TABLE1:
        claim = paper(PAPER).claim(name)
        net = _read(rf"([A-Z]\w+-\d+-\d+) \({_NUMBER} million", claim.statement, claim=name)
        if claim.kind == "value":
            errors = [claim.value, paper(PAPER).claim(f"{name}a").value]
        else:
            read = _read(rf"{_NUMBER} to {_NUMBER} %", claim.says, claim=name)
            errors = [float(read[1]), float(read[2])]
        gains.append(Gain(net[1], float(net[2]), *errors))
    return gains


def printed_generations() -> list[Generations]:
    """The four nets of Table 2, CIFAR-100.

    >>> printed_generations()[0]
    Generations(net='DenseNet-112-33', teacher=18.25, again=16.95, born=(17.61, 17.22, 16.59))
    """
    found = []
    for name in _TABLE2:
        claim = paper(PAPER).claim(name)
        net = _read(r"DenseNet-\d+-\d+", claim.statement, claim=name)[0]
        says = _read(
            rf"teacher {_NUMBER}; BAN {_NUMBER},.*generations ((?:{_NUMBER}(?:, )?)+)", claim.says, claim=name
        )
        born = tuple(float(each) for each in says[3].split(", "))
        found.append(Generations(net, float(says[1]), float(says[2]), born))
    return found


def gaps_table() -> pd.DataFrame:
    """How many of the changes in Tables 1 and 2 are larger than the two widest gaps between runs of one procedure."""
    repeated = printed_generations()
    first, second = sorted((each.apart for each in repeated), reverse=True)[:2]
    changes = {
        "teacher to student, CIFAR-10": [each.points for each in printed_gains()],
        "teacher to first generation, CIFAR-100": [each.teacher - each.born[0] for each in repeated],
        "later generations, CIFAR-100": [
            before - after for each in repeated for before, after in pairwise(each.born)
        ],
    }
    records = [
        {
            "Changes": words,
            "How many": len(some),
            f"Larger than {first:g} points": sum(abs(each) > first for each in some),
            f"Larger than {second:g} points": sum(abs(each) > second for each in some),
        }
        for words, some in changes.items()
    ]
    return pd.DataFrame(records)


def _read(pattern: str, text: str, *, claim: str) -> re.Match[str]:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"claim {claim}: got {text!r}, expected something like {pattern}")
    return found


def gains_chart() -> Chart:
    """The gain of each net of Table 1, beside how far two runs of one procedure lie apart in Table 2."""
    gains, repeats = printed_gains(), printed_generations()
    with matplotlib.rc_context(STYLE):
        chart = new_chart(9.0, 5.0)
        axes = chart.subplots()
        axes.axvline(0, color="black", linewidth=1)
        for place, gain in enumerate(gains):
            colour = BLUE if gain.points > 0 else RED
            label = "fewer errors than its teacher" if gain.points > 0 else "more"
            label = once(axes, label)
            axes.plot([0, gain.points], [place, place], color=colour, linewidth=2.5)
            axes.plot(gain.points, place, "o", color=colour, markersize=9, label=label)
            words = f"{gain.teacher:g} → {gain.student:g} %"
            axes.text(1.02, place, words, transform=axes.get_yaxis_transform(), va="center")
        below = len(gains) + 0.4
        for each in repeats:
            axes.plot([-each.apart, each.apart], [below, below], color=GREY, linewidth=5, alpha=0.3)
            axes.plot([-each.apart, each.apart], [below, below], "|", color=GREY, markersize=14, mew=2)
        pairs = ", ".join(f"{each.apart:g}" for each in repeats)
        axes.text(1.02, below, f"± {pairs}", transform=axes.get_yaxis_transform(), va="center", color=GREY)
        names = [f"{each.net} ({each.millions:g} M)" for each in gains]
        axes.set_yticks([*range(len(gains)), below], [*names, "CIFAR-100: the same\nprocedure twice"])
        axes.set_ylim(below + 0.7, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        grid(axes, "x")
        axes.set_xlabel("points of test error that the born-again net is better by")
        chart.legend(*axes.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return chart


def generations_chart() -> Chart:
    """Test errors by generation on CIFAR-100, as printed; the open circle is the second run of the first generation."""
    with matplotlib.rc_context(STYLE):
        chart = new_chart(8.0, 4.4)
        axes = chart.subplots()
        for each, colour in zip(printed_generations(), CYCLE, strict=False):
            values = [each.teacher, *each.born]
            axes.plot(range(len(values)), values, "-o", color=colour, linewidth=2, label=each.net)
            axes.plot(1, each.again, "o", markersize=9, mfc="white", mec=colour, mew=2)
        axes.set_xticks(range(4), ["teacher", "1", "2", "3"])
        axes.set_xlabel("generation")
        axes.set_ylabel("test errors in percent")
        grid(axes, "y")
        axes.plot([], [], "o", markersize=9, mfc="white", mec=GREY, mew=2, label="generation 1, run again")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return chart


def gains_table() -> pd.DataFrame:
    """Table 1 as printed, with the gain, and whether the born-again net got worse."""
    records = [
        {
            "Net": each.net,
            "Parameters (millions)": f"{each.millions:g}",
            "Teacher, % errors": f"{each.teacher:g}",
            "Born again, % errors": f"{each.student:g}",
            "Gain in points": f"{each.points:+.2f}".replace("-", "−"),
            "Worse": "worse" if each.points < 0 else "",
        }
        for each in printed_gains()
    ]
    return pd.DataFrame(records)
