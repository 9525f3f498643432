"""From a claim and rows to a verdict, by the rule that the claim was written down with."""

from __future__ import annotations

from collections.abc import Sequence

from kdrepro.claims import Claim, Deviation, Paper, paper, papers
from kdrepro.judging.judgement import VERDICTS, Judgement, stands_in
from kdrepro.judging.orders import judge_order, judge_similar
from kdrepro.judging.readings import admitted
from kdrepro.judging.values import judge_recovery, judge_value
from kdrepro.ledger import Ledger, Row

__all__ = ["VERDICTS", "Claim", "Deviation", "Judgement", "Paper", "judge", "judge_paper", "paper", "papers"]

_RULES = {"value": judge_value, "order": judge_order, "recovery": judge_recovery, "similar": judge_similar}


def judge(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """The verdict on one claim.

    Of the rows given, only those of the claim's recipe and protocol count, measured on the test set by
    committed code. Fewer than the claim asks for read `not run`.
    """
    if claim.kind not in _RULES:
        return Judgement(
            claim=claim,
            verdict=claim.kind,
            detail=claim.reason + stands_in(claim),
            protocol=claim.protocol,
        )
    return _RULES[claim.kind](claim, admitted(rows, recipe=claim.recipe, protocol=claim.protocol))


def judge_paper(key: str, ledger: Ledger) -> list[Judgement]:
    """The verdicts on all claims of a paper such as `hinton2015`, in the order of its claims file."""
    found = paper(key)
    rows = ledger.rows(recipe=found.recipe, clean=True)
    return [judge(claim, rows) for claim in found.claims]
