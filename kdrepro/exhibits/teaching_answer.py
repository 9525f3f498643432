"""Which way to teach won, by the recorded runs of Kim & Rush (2016), in words made from rows."""

from __future__ import annotations

import re

from kdrepro.claims import Comparison, Side, paper
from kdrepro.judging.intervals import Interval
from kdrepro.judging.readings import compare, difference, rows_shown, summary
from kdrepro.judging.wording import number, span
from kdrepro.ledger import Ledger

_METRIC = "bleu_greedy"
_PAIRS = ("from English to German", "from Thai to English")


def printed_differences() -> dict[str, float]:
    """By how many BLEU Seq-KD is above the word level in the paper, greedily decoded, as claim E9b quotes it."""
    quoted = re.findall(r"([\d.]+) against ([\d.]+)", paper("kim2016").claim("E9b").says)
    return {where: float(seq) - float(word) for where, (seq, word) in zip(_PAIRS, quoted, strict=True)}


def answer(ledger: Ledger, family: str, direction: str) -> str:
    """Word level against Seq-KD and their teacher on one direction, a few sentences; empty before all three are there.

    `family` begins the names of the arms (`ende`), `direction` says it in words.
    """
    rows = rows_shown(ledger, "sequence_kd", "paper")
    sides = {kind: Side((f"{family}_{kind}",), _METRIC) for kind in ("word_kd", "seq_kd", "teacher")}
    found = {kind: summary(rows, side) for kind, side in sides.items()}
    ours = difference(compare(rows, Comparison(sides["seq_kd"], sides["word_kd"])))
    if ours is None or not all(found.values()):
        return ""
    word, seq, teacher = (number(each[0].mean) for each in found.values() if each)
    return (
        f"**{direction}.** Greedily decoded, the student of word-level distillation has {word} BLEU, that of Seq-KD "
        f"{seq}, and their teacher {teacher}. Seq-KD minus word level is {number(ours.mean)} "
        f"({span(ours.low, ours.high)}); {_beside_the_paper(ours)}."
    )


def _beside_the_paper(ours: Interval) -> str:
    """Which of the paper's differences our interval holds."""
    said = [
        f"{number(gain)} {where} lies {'inside' if ours.low <= gain <= ours.high else 'outside'} of that interval"
        for where, gain in printed_differences().items()
    ]
    return f"the paper's {', its '.join(said)}"
