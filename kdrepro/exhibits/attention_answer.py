"""What the runs say about β of Zagoruyko & Komodakis (2017), in words made from verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from kdrepro.claims import Side
from kdrepro.exhibits.render import typeset
from kdrepro.judging.judgement import Judgement
from kdrepro.judging.readings import rows_shown, summary
from kdrepro.judging.wording import from_to, number
from kdrepro.ledger import Ledger
from kdrepro.verdicts import judge_paper

# What β may mean, or how much its size matters, and the claims about it.
_BULLETS = {
    "β = 0.1 as a mean over the batch": ("N1", "N2"),
    "β by group as a sum over the batch": ("N3", "N4"),
    "Other weights": ("N6", "N7", "N5"),
}
# Who is compared in each claim, and with whom; the sign is that of its difference where it is told the other way round.
_COMPARED = {
    "N1": ("it", "the labels alone", 1),
    "N2": ("it", "the code's form with 1,000", -1),
    "N3": ("it", "0.1 as a mean", 1),
    "N4": ("it", "the code's form with 1,000", 1),
    "N5": ("1,000 in the paper's formula", "in the code's form", -1),
    "N6": ("10 in the code's form", "1,000 in it", -1),
    "N7": ("10 in the code's form", "0.1 as a mean in the paper's, which pulls about as little", 1),
}


def answer(ledger: Ledger) -> str:
    """Which reading of the paper's β the recorded runs agree with, as Markdown made from the verdicts N1 to N7."""
    found = {
        each.claim.id: each for each in judge_paper("zagoruyko2017", ledger) if each.claim.id in _COMPARED
    }
    if all(each.verdict == "not run" for each in found.values()):
        return "**Not run yet.** The arithmetic stands without the runs; what they say will stand here."
    labels = summary(
        rows_shown(ledger, "attention_transfer", "reduced"), Side.of("student_alone", "test_errors")
    )
    told = []
    for name, ids in _BULLETS.items():
        said = [_sentence(found[each], None if labels is None else labels[0].mean) for each in ids]
        told.append(f"- **{name}:** {'; '.join(said)}.")
    return "\n".join([f"**{_headline(found)}**", "", *told, "", how_wide(ledger)]).rstrip()


def how_wide(ledger: Ledger) -> str:
    """How many errors *similar* allows, beside what the maps take off at all: a sentence from rows, or nothing."""
    rows = rows_shown(ledger, "attention_transfer", "reduced")
    maps, names, margins, shares = None, [], [], []
    for judged in judge_paper("zagoruyko2017", ledger):
        claim = judged.claim
        if claim.id == "S1":
            maps = judged.mean
        if claim.kind == "similar" and judged.verdict != "not run":
            names.append(claim.id)
            shares.append(round(100 * claim.margin_relative))
            sides = [summary(rows, Side.of(arm, claim.metric)) for arm in claim.arms]
            margins.append(
                round(claim.margin_relative * fmean(each[0].mean for each in sides if each is not None))
            )
    if not margins or maps is None:
        return ""
    off = f"take off {_rounded(-maps)}" if maps < 0 else "take off none"
    return (
        f"Within {from_to(shares)} % of each other, as *similar* asks, is within {from_to(margins)} errors here, while "
        f"attention maps {off} in all (S1). So these verdicts ({', '.join(names)}) exclude large differences only."
    )


def _rounded(value: float) -> str:
    """Errors are whole, and means of few that differ by less than one are not."""
    return f"{value:,.0f}" if abs(value) >= 1 else number(value)


def _sentence(judged: Judgement, labels: float | None) -> str:
    """Who leaves how many errors more or fewer than whom, with the interval and the verdict."""
    claim = judged.claim
    who, whom, sign = _COMPARED[claim.id]
    if judged.mean is None or judged.interval is None:
        return f"{claim.id} is not run"
    mean, (low, high) = sign * judged.mean, sorted(sign * bound for bound in judged.interval)
    fewer = mean < 0
    ends = (-high, -low) if fewer else (low, high)
    if claim.id == "N1" and labels is not None:
        many = f"the {labels:,.0f} errors of {whom}"
        start = f"it {'takes' if fewer else 'adds'} {_rounded(abs(mean))} {'off' if fewer else 'to'} {many}"
    else:
        start = f"{who} leaves {_rounded(abs(mean))} {'fewer' if fewer else 'more'} errors than {whom}"
    within = f", within {100 * claim.margin_relative:g} %" if claim.kind == "similar" else ""
    also = ", but not the same" if judged.apart else ""
    interval = " to ".join(map(_rounded, ends))
    return typeset(f"{start} (95 % interval {interval}; {claim.id}{within}: {judged.verdict}{also})")


def _headline(found: Mapping[str, Judgement]) -> str:
    mean, total, better = (found[name].verdict for name in ("N2", "N4", "N3"))
    if mean == "contradicted":
        return (
            "In this schedule β = 0.1, as a mean over the batch, does better than the code's form with 1,000."
        )
    if mean != "reproduced" and total == "reproduced":
        return (
            "The paper's formula with β by group, as a sum over the batch, does about as well as the code's form with "
            "1,000; whether β = 0.1 as a mean does worse is open."
        )
    if mean != "reproduced":
        return "The runs do not say yet which reading of the paper's β does what the code's form does."
    if total == "reproduced" and better == "reproduced":
        return (
            "The paper's formula with β by group, as a sum over the batch, does about as well as the code's form with "
            "1,000, and better than with β = 0.1 as a mean."
        )
    start = "The paper's formula with β = 0.1, as a mean, leaves more errors than the code's form with 1,000"
    if total == "contradicted":
        fewer = "fewer" if (found["N4"].mean or 0) < 0 else "more"
        return f"{start}; a sum leaves {fewer} errors than that form."
    if total == "reproduced":
        return f"{start}; a sum does about as well, but whether better than the mean is open."
    return f"{start}; whether a sum does as well as that form is open."
