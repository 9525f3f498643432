"""What is asked of born-again networks on all data, and the verdicts side by side.

The claims on pictures, on MNIST and on the embedded digits ask the same; a table has a line for each question.
"""

from __future__ import annotations

import pandas as pd

from kdrepro.generations import PAPER
from kdrepro.ledger import Ledger
from kdrepro.verdicts import judge_paper

DATA = ("CIFAR-10, short", "MNIST", "embedded digits")
# The claims on CIFAR-10, MNIST and the embedded digits; the generations on pictures end with the third.
QUESTIONS: dict[str, tuple[str | None, str, str]] = {
    "Does a born-again net make fewer errors than its teacher?": ("S1", "M1", "E1"),
    "Fewer than the labels once more, from its own first weights?": ("S1a", "M1a", "E1a"),
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
}


def question_table(ledger: Ledger) -> pd.DataFrame:
    """A line for each question, with the verdict on each data and the claims that it comes from."""
    verdicts = {each.claim.id: each.verdict for each in judge_paper(PAPER, ledger)}
    records = [
        {
            "Question": question,
            **{
                f"Verdict, {data}": verdicts[name] if name else "–"
                for data, name in zip(DATA, names, strict=True)
            },
            "Claims": ", ".join(name for name in names if name),
        }
        for question, names in QUESTIONS.items()
    ]
    return pd.DataFrame(records)
