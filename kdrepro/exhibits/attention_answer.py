"""What the runs say about β of Zagoruyko & Komodakis (2017), in words made from verdicts."""

from __future__ import annotations

from collections.abc import Mapping

from kdrepro.claims import Side
from kdrepro.judgement import Judgement
from kdrepro.ledger import Ledger
from kdrepro.pairs import rows_shown, summary
from kdrepro.verdicts import judge_paper

# What each verdict says in words; "fewer" and "more" follow the sign where a similarity is contradicted.
_SENTENCES = {
    "N1": {
        "reproduced": "As a mean over the batch, 0.1 in the paper's formula leaves an error rate within 5 % of that "
        "with the labels alone.",
        "contradicted": "As a mean over the batch, 0.1 in the paper's formula leaves {fewer} errors than the labels "
        "alone, by more than 5 %.",
    },
    "N2": {
        "reproduced": "The code's form with 1,000 leaves fewer errors than 0.1 as a mean over the batch.",
        "contradicted": "The code's form with 1,000 leaves more errors than 0.1 as a mean over the batch.",
    },
    "N3": {
        "reproduced": "With its β for each group, summed over the batch, the formula leaves fewer errors than with "
        "the mean.",
        "contradicted": "With its β for each group, summed over the batch, the formula leaves more errors than with "
        "the mean.",
    },
    "N4": {
        "reproduced": "The formula with β for each group, summed, has an error rate within 5 % of that of the "
        "code's form.",
        "contradicted": "The formula with β for each group, summed, leaves {fewer} errors than the code's form, by "
        "more than 5 %.",
    },
    "N5": {
        "reproduced": "The code's 1,000 put into the paper's formula leaves more errors than in its own form.",
        "contradicted": "The code's 1,000 put into the paper's formula leaves fewer errors than in its own form.",
    },
    "N6": {
        "reproduced": "Strength counts: in the code's own form 10 leaves more errors than 1,000.",
        "contradicted": "In the code's form 10 leaves fewer errors than 1,000.",
    },
    "N7": {
        "reproduced": "The code's form with 10 is within 5 % of the formula with 0.1 as a mean, which pulls about "
        "as little.",
        "contradicted": "The code's form with 10 leaves {fewer} errors than the formula with 0.1 as a mean, by more "
        "than 5 %.",
    },
}
# What is not settled, in few words.
_QUESTIONS = {
    "N1": "0.1 as a mean over the batch against the labels alone",
    "N2": "the code's form with 1,000 against that mean",
    "N3": "its β for each group, summed over the batch, against that mean",
    "N4": "that sum against the code's form",
    "N5": "1,000 in the paper's formula against the code's form",
    "N6": "1,000 against 10 in the code's form",
    "N7": "10 in the code's form against that mean",
}
_ARMS = {
    "student_alone": "labels alone",
    "at": "the code's form with 1,000",
    "at_10": "the code's form with 10",
    "at_norm_0.1": "the paper's formula with 0.1 as a mean",
    "at_norm_by_group": "its β for each group as a sum",
    "at_norm_1000": "the paper's formula with 1,000",
}


def answer(ledger: Ledger) -> str:
    """Which reading of the paper's β the recorded runs agree with, as Markdown made from the verdicts N1 to N7."""
    found = {
        each.claim.id: each for each in judge_paper("zagoruyko2017", ledger) if each.claim.id in _SENTENCES
    }
    known = {name: each for name, each in found.items() if each.verdict != "not run"}
    if not known:
        return "**Not run yet.** The arithmetic stands without the runs; what they say will stand here."
    told = [_sentence(name, each) for name, each in known.items() if each.verdict != "inconclusive"]
    open_ones = [_QUESTIONS[name] for name, each in known.items() if each.verdict == "inconclusive"]
    if open_ones:
        told.append(f"Not settled by these runs: {'; '.join(open_ones)}. {_means(ledger)}")
    if len(known) < len(found):
        told.append(f"Not enough runs yet for {', '.join(name for name in found if name not in known)}.")
    return f"**{_headline(found)}** {' '.join(told)}"


def _sentence(name: str, judged: Judgement) -> str:
    fewer = "fewer" if (judged.mean or 0) < 0 else "more"
    low, high = judged.interval or (0.0, 0.0)
    # Two arms may be similar and one of them be better all the same.
    apart = judged.claim.kind == "similar" and judged.verdict == "reproduced" and (low > 0 or high < 0)
    also = f" It leaves measurably {fewer} errors all the same." if apart else ""
    return _SENTENCES[name][judged.verdict].format(fewer=fewer) + also


def _means(ledger: Ledger) -> str:
    """The mean errors of the arms that the questions are about, in order."""
    rows = rows_shown(ledger, "attention_transfer", "reduced")
    found = {name: summary(rows, Side.of(arm, "test_errors")) for arm, name in _ARMS.items()}
    means = sorted((each[0].mean, name) for name, each in found.items() if each is not None)
    return f"Their mean errors, fewest first: {', '.join(f'{name} ({mean:,.0f})' for mean, name in means)}."


def _headline(found: Mapping[str, Judgement]) -> str:
    mean, total, better = (found[name].verdict for name in ("N2", "N4", "N3"))
    if mean == "contradicted":
        return (
            "In this schedule β = 0.1, as a mean over the batch, does better than the code's form with 1,000."
        )
    if mean != "reproduced" and total == "reproduced":
        return (
            "With the paper's β a sum over the batch does about as well as the code's form with 1,000; whether a mean "
            "over it does worse is open."
        )
    if mean != "reproduced":
        return "The runs do not say yet which reading of the paper's β does what the code's form does."
    if total == "reproduced" and better == "reproduced":
        return (
            "With the paper's β a sum over the batch does about as well as the code's form with 1,000, and better "
            "than a mean over it."
        )
    start = "With the paper's β a mean over the batch leaves more errors than the code's form with 1,000"
    if total == "contradicted":
        fewer = "fewer" if (found["N4"].mean or 0) < 0 else "more"
        return f"{start}; a sum leaves {fewer} errors than that form."
    if total == "reproduced":
        return f"{start}; a sum does about as well, but whether better than the mean is open."
    return f"{start}; whether a sum does as well as that form is open."
