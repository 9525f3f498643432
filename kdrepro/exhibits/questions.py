"""What a chapter asks of several data at once, and the verdicts side by side: a line for each question.

The claims on these data ask the same; each column of verdicts is one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from kdrepro.exhibits.generations import not_yet
from kdrepro.judging.judgement import VERDICTS
from kdrepro.ledger import Ledger
from kdrepro.verdicts import judge_paper


class Questions(NamedTuple):
    """Questions about a paper such as `hinton2015`: what the data are called, and the claim on each, or None."""

    paper: str
    data: Sequence[str]
    claims: Mapping[str, Sequence[str | None]]


# The claims on CIFAR-10, MNIST and the embedded digits; the generations on pictures end with the third.
BORN_AGAIN = Questions(
    "furlanello2018",
    ("CIFAR-10, short", "MNIST", "embedded digits"),
    {
        "Does a born-again net make fewer errors than its teacher?": ("S1", "M1", "E1"),
        "Fewer than retraining on the labels, from its own initial weights?": ("S1a", "M1a", "E1a"),
        "Are its probabilities better than theirs (likelihood)?": (None, "M1b", "E1b"),
        "Is the second generation better than the first?": ("S2", "M2", "E2"),
        "The third than the second?": ("S2a", "M3", "E3"),
        "The fourth than the third?": (None, "M4", "E4"),
        "The fifth than the fourth?": (None, "M5", "E5"),
        "Is the fifth worse than the first (it must stop)?": (None, "M6", "E6"),
        "Does the fifth fit its training data less than the first?": (None, "M6a", "E6a"),
        "Are generations averaged better than each of them?": ("S3", "M7", "E7"),
        "Is the teacher alone (BAN) better than teacher and labels (BAN+L)?": ("S4", "M8", "E8"),
        "Are labels weighted by its confidence (CWTM) better than plain ones?": ("S5", "M9", "E9"),
        "Is the teacher permuted (DKPP) better than plain labels?": ("S6", "M9a", "E9a"),
        "Is the teacher as it is better than CWTM and DKPP?": ("S7", "M9b", "E9b"),
        "Are smoothed labels, without a teacher, better than plain ones?": ("N2", "M10", "E10"),
        "Is the teacher better than smoothed labels?": ("N3", "M10a", "E10a"),
        "Do smoothed labels have half of its gain or more?": ("N4", "M10b", "E10b"),
    },
)

# The claims on captions, without the letter of their direction.
_CAPTIONS = {
    "Is the student of Seq-KD better than the undistilled, greedily decoded?": "2",
    "And with the beam of 5?": "2a",
    "Does Seq-KD gain more in greedy decoding than with the beam?": "2b",
    "After Seq-KD, does the beam add less than one point of BLEU?": "2c",
    "Does the teacher after Seq-Inter hardly need its beam?": "2d",
    "Seq-KD, then Seq-Inter: better than the undistilled, greedily decoded?": "1",
    "Better with the beam, too?": "1a",
    "Is the gain larger in greedy decoding than with the beam?": "1b",
    "Is the student of word-level distillation better than the undistilled, greedily decoded?": "9",
    "And is it with the beam?": "9a",
    "Is Seq-KD better than the word level?": "9b",
    "Does Seq-Inter improve the teacher?": "8",
    "Does Seq-Inter improve the undistilled student?": "8a",
    "The teacher more than as many more steps on references do?": "8b",
    "And the undistilled student?": "8c",
    "Is the word level with Seq-Inter better than each of the two?": "10",
    "Is Seq-KD with Seq-Inter better than each of the two?": "10a",
    "Is Seq-KD with the word level better than each of the two?": "10b",
    "Are all three better than any two?": "11",
    "Does Seq-KD make perplexity worse and translations better?": "7",
    "Does the word level make perplexity better?": "7a",
    "Does the word level mend the perplexity of Seq-KD?": "7b",
    "Is the student surer of its best translation after Seq-KD?": "6",
    "Ten times as sure, in odds?": "6a",
    "Is the teacher surer of its best translation than the undistilled student?": "5",
    "Does the teacher's best translation hold less than a tenth of its probability?": "5a",
    "Is the student, greedily, ten times as fast as its teacher with the beam?": "3",
    "Does it close at least half of the gap to the teacher with the beam?": "3a",
    "Is it twice as fast as with its own beam?": "3b",
    "Is it twice as fast as the teacher, both greedily?": "3c",
    "Is it better than the teacher, both greedily?": "3d",
    "Does pruning half of its weights leave BLEU within 3 %?": "4",
    "Does pruning 80 % leave BLEU within 3 %?": "4a",
    "Does pruning 85 % leave BLEU within 5 %?": "4d",
    "Does pruning 90 % leave BLEU within 8 %?": "4b",
    "Does pruning 90 % cost BLEU?": "4c",
}
SEQUENCE_KD = Questions(
    "kim2016",
    ("English to German", "German to English"),
    {question: (f"E{name}", f"D{name}") for question, name in _CAPTIONS.items()},
)


def question_table(asked: Questions, ledger: Ledger) -> pd.DataFrame:
    """A line for each question, with the verdict on each data and the claims that it comes from."""
    verdicts = {each.claim.id: each.verdict for each in judge_paper(asked.paper, ledger)}
    records = [
        {
            "Question": question,
            **{
                f"Verdict, {data}": verdicts[name] if name else "–"
                for data, name in zip(asked.data, names, strict=True)
            },
            "Claims": ", ".join(name for name in names if name),
        }
        for question, names in asked.claims.items()
    ]
    return pd.DataFrame(records)


def tally(asked: Questions, ledger: Ledger) -> str:
    """How the verdicts on each data count up, a sentence each, as Markdown; data without enough runs last."""
    verdicts = {each.claim.id: each.verdict for each in judge_paper(asked.paper, ledger)}
    told, missing = [], []
    for place, data in enumerate(asked.data):
        found = Counter(verdicts[name] for names in asked.claims.values() if (name := names[place]))
        if found.keys() == {"not run"}:
            missing.append(data)
            continue
        counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])
        told.append(f"**{data}**, of {found.total()} questions: {counts}.")
    return " ".join([*told, *not_yet(missing)])
