"""Which way to teach won, by the recorded runs of Kim & Rush (2016), in words made from rows."""

from __future__ import annotations

from kdrepro.claims import Comparison, Side
from kdrepro.intervals import Interval
from kdrepro.judgement import number, span
from kdrepro.ledger import Ledger
from kdrepro.pairs import compare, difference, rows_shown, summary

_METRIC = "bleu_greedy"
# By how many points of BLEU Seq-KD is above the word level in the paper, greedily decoded (its Table 1, second-hand):
# 18.9 and 15.4 from English to German with students of 2 × 500, 12.8 and 11.8 from Thai to English with 2 × 100.
PAPER = {"from English to German": 18.9 - 15.4, "from Thai to English": 12.8 - 11.8}


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
        for where, gain in PAPER.items()
    ]
    return f"the paper's {', its '.join(said)}"
