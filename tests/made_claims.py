"""Claims made up for the tests of the rules and verdicts, about arms a, b, c, or a student and its gap."""

from __future__ import annotations

import dataclasses

from kdrepro.claims import Claim, Comparison, Paper, Side, papers


def errors_of(*arms):
    return Side(arms, "test_errors")


def claim(kind, **fields):
    standard = {
        "id": "X1",
        "statement": "It holds.",
        "where": "section 1",
        "checked": "P",
        "recipe": "hinton_kd",
    }
    return Claim(**(standard | {"kind": kind, "metric": "test_errors"} | fields))


A_BELOW_B = Comparison(errors_of("a"), errors_of("b"))
ORDER = claim("order", seeds=3, comparisons=(A_BELOW_B,))
VALUE = claim("value", seeds=3, arm="a", value=100.0, tolerance=20.0, unit="errors", direction=A_BELOW_B)
RECOVERY = claim("recovery", seeds=3, arm="s", start="alone", end="t", at_least=0.5)
SIMILAR = claim("similar", seeds=3, arms=("a", "b", "c"), margin_relative=0.1)


def papers_with_a_planned_one() -> list[Paper]:
    """The papers, as if the verdicts of Kim & Rush (2016) were still to come."""
    return [
        dataclasses.replace(each, status="planned") if each.key == "kim2016" else each for each in papers()
    ]
