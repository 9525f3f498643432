"""What the runs say about β of Zagoruyko & Komodakis (2017), in words made from verdicts."""

from __future__ import annotations

from collections.abc import Mapping

from kdrepro.judgement import Judgement
from kdrepro.ledger import Ledger
from kdrepro.verdicts import judge_paper

# What each verdict says in words; "fewer" and "more" follow the sign where a similarity is contradicted.
_SENTENCES = {
    "N1": {
        "reproduced": "As a mean over the batch, 0.1 in the paper's formula leaves an error rate within 5 % of that "
        "with the labels alone, as if the term were not there.",
        "contradicted": "As a mean over the batch, 0.1 in the paper's formula leaves {fewer} errors than the labels "
        "alone, by more than 5 %.",
        "inconclusive": "Whether 0.1 in the paper's formula, as a mean over the batch, does anything beside the "
        "labels, these runs cannot tell.",
    },
    "N2": {
        "reproduced": "The code's form with 1,000 leaves fewer errors than that reading.",
        "contradicted": "The code's form with 1,000 leaves more errors than that reading.",
        "inconclusive": "Between that reading and the code's form with 1,000 the runs do not decide.",
    },
    "N3": {
        "reproduced": "With its β for each group, summed, the formula leaves fewer errors than with that mean.",
        "contradicted": "With its β for each group, summed, the formula leaves more errors than with that mean.",
        "inconclusive": "Whether its β for each group, summed over the batch, does better than that mean, the runs do "
        "not decide.",
    },
    "N4": {
        "reproduced": "Summed, its error rate is within 5 % of that of the code's form.",
        "contradicted": "Summed, it leaves {fewer} errors than the code's form, by more than 5 %.",
        "inconclusive": "How close the sum comes to the code's form, the runs do not decide.",
    },
    "N5": {
        "reproduced": "The code's 1,000 put into the paper's formula leaves more errors than in its own form.",
        "contradicted": "The code's 1,000 put into the paper's formula leaves fewer errors than in its own form.",
        "inconclusive": "Whether the code's 1,000 does harm in the paper's formula, the runs do not decide.",
    },
    "N6": {
        "reproduced": "Strength counts: in the code's own form 10 leaves more errors than 1,000.",
        "contradicted": "In the code's form 10 leaves fewer errors than 1,000.",
        "inconclusive": "Whether 1,000 does better than 10 in the code's form itself, the runs do not decide.",
    },
    "N7": {
        "reproduced": "With 10 it is within 5 % of the formula with that mean, which pulls about as little.",
        "contradicted": "With 10 it leaves {fewer} errors than the formula with that mean, by more than 5 %.",
        "inconclusive": "How close 10 in the code's form comes to the formula with that mean, the runs do not decide.",
    },
}


def answer(ledger: Ledger) -> str:
    """Which reading of the paper's β the recorded runs agree with, as Markdown made from the verdicts N1 to N7."""
    found = {
        each.claim.id: each for each in judge_paper("zagoruyko2017", ledger) if each.claim.id in _SENTENCES
    }
    known = {name: each for name, each in found.items() if each.verdict != "not run"}
    if not known:
        return "**Not run yet.** The arithmetic stands without the runs; what they say will stand here."
    told = [
        _SENTENCES[name][each.verdict].format(fewer="fewer" if (each.mean or 0) < 0 else "more")
        for name, each in known.items()
    ]
    if len(known) < len(found):
        told.append(f"Not enough runs yet for {', '.join(name for name in found if name not in known)}.")
    return f"**{_headline(found)}** {' '.join(told)}"


def _headline(found: Mapping[str, Judgement]) -> str:
    mean, total, better = (found[name].verdict for name in ("N2", "N4", "N3"))
    if mean == "contradicted":
        return (
            "In this schedule β = 0.1, as a mean over the batch, does better than the code's form with 1,000."
        )
    if mean != "reproduced":
        return "The runs do not say yet which reading of the paper's β does what the code's form does."
    if total == "reproduced" and better == "reproduced":
        return (
            "With the paper's β a sum over the batch does about as well as the code's form with 1,000, and a mean "
            "over it does not."
        )
    start = "With the paper's β a mean over the batch does not do as well as the code's form with 1,000"
    if total == "contradicted":
        fewer = "fewer" if (found["N4"].mean or 0) < 0 else "more"
        return f"{start}; a sum leaves {fewer} errors than that form."
    return f"{start}; whether a sum does is open."
