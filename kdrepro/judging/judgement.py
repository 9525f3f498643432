"""A verdict with what it rests on, and the words in which it is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from kdrepro.claims import Claim, Paper, Side
from kdrepro.judging.metric_names import called
from kdrepro.judging.wording import number

# By whose the claims are, what a table calls them.
ORIGINS = {"paper": "Its claims", "stand-in": "Our stand-ins", "addition": "Our additions"}
UNJUDGED = ("not run", "out of reach")
VERDICTS = ("reproduced", "direction holds", "inconclusive", "contradicted", "not run", "out of reach")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict and what it rests on.

    `mean` and `interval` are the claim's quantity in its own unit: the value, the difference `lower` minus `higher`,
    the share of the gap that is closed, or the difference that decides about similarity. `n` counts runs or pairs,
    `units` counts those of one teacher as one, `runs` names them. `apart` says that
    of similar arms one is better all the same. `detail` says it in one sentence;
    `seeds_needed` is the number of seeds that would settle it in four cases of five, if the difference is what it
    seems, or None where it is settled or more seeds would not help. `metric` is what `mean` is a difference in, where
    a claim compares several.
    """

    claim: Claim
    verdict: str
    detail: str
    mean: float | None = None
    interval: tuple[float, float] | None = None
    metric: str = ""
    n: int = 0
    units: int = 0
    apart: bool = False
    protocol: str = "paper"
    seeds_needed: int | None = None
    runs: tuple[str, ...] = ()


def not_run(claim: Claim, *, n: int, runs: Iterable[str]) -> Judgement:
    """The judgement where there are fewer runs than the claim asks for."""
    return Judgement(
        claim=claim,
        verdict="not run",
        detail=f"{few(claim, n)}.{stands_in(claim)}",
        n=n,
        protocol=claim.protocol,
        seeds_needed=claim.seeds,
        runs=tuple(runs),
    )


def named(side: Side, metric: str) -> str:
    """A side of a comparison in words; its metric is named where it is not the claim's.

    >>> named(Side(("no_threes",), "test_errors_on_3"), "test_errors")
    'no_threes (test errors on threes)'
    """
    arms = side.arms[0] if len(side.arms) == 1 else f"the mean of {', '.join(side.arms)}"
    return arms if side.metric == metric else f"{arms} ({called(side.metric)})"


def few(claim: Claim, n: int) -> str:
    """How many of the seeds that a claim asks for are there."""
    return f"{n} of {claim.seeds} seeds at protocol {claim.protocol}"


def stands_in(claim: Claim) -> str:
    """A sentence with a space before it that names the claims standing in for this one, or nothing."""
    return f" In its place: {', '.join(claim.instead)}." if claim.instead else ""


def settle(needed: int | None, *, taught: bool = False) -> str:
    """The end of a sentence that says how many seeds would settle a question, or nothing.

    `taught` says that those who learned from one teacher count once, so that more of them alone would not do.

    >>> settle(12, taught=True)
    '; about 12 seeds, with more teachers for them, would settle it in four cases of five'
    """
    if not needed:
        return ""
    teachers = ", with more teachers for them," if taught else ""
    return f"; about {number(needed)} seeds{teachers} would settle it in four cases of five"


def verdict_counts(paper: Paper, judgements: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """How many claims of each origin have which verdict, in the order of `ORIGINS` and `VERDICTS`."""
    found = Counter((paper.origin(each.claim), each.verdict) for each in judgements)
    return {
        origin: {verdict: found[origin, verdict] for verdict in VERDICTS if found[origin, verdict]}
        for origin in ORIGINS
    }


def unfinished(judgements: Iterable[Judgement]) -> str:
    """Say in a few words how far a paper is of which not all that is planned was run."""
    begun = any(each.verdict not in UNJUDGED for each in judgements)
    return "being recorded, first verdicts in its chapter" if begun else "not yet judged"
