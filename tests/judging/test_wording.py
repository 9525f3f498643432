"""The words in which comparisons are told: units, numbers beside a side, premises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_claims import ORDER, errors_of
from recorded_rows import make_rows

from kdrepro.claims import Comparison, Side
from kdrepro.verdicts import judge


def test_an_order_may_be_told_in_a_unit_of_its_own():
    rows = make_rows("a", [0.09, 0.08, 0.07]) + make_rows("b", [0.10, 0.10, 0.10])
    plain, scaled = judge(ORDER, rows), judge(replace(ORDER, scale=100.0, unit="points"), rows)
    assert (scaled.verdict, scaled.seeds_needed) == (plain.verdict, plain.seeds_needed)
    assert scaled.mean == pytest.approx(100 * plain.mean)
    assert scaled.detail == (
        "a minus b: -2 points, 95 % interval -4.48 to 0.48, 3 pairs; "
        "about 5 seeds would settle it in four cases of five."
    )


def test_a_premise_and_a_constant_are_told_in_the_unit_of_the_claim():
    claim = replace(
        ORDER,
        scale=100.0,
        unit="points",
        comparisons=(Comparison(errors_of("a"), 0.5),),
        premise=(Comparison(errors_of("a"), errors_of("b")),),
    )
    rows = make_rows("a", [0.08, 0.08, 0.081]) + make_rows("b", [0.10, 0.10, 0.10])
    assert judge(claim, rows).detail.startswith(
        "a: 8.03 points, 95 % interval 7.89 to 8.18, 3 runs; below 50 asked; "
    )
    assert "a is below b, and the difference is -1.97 points, " in judge(claim, rows).detail


def test_what_is_compared_with_a_number_is_told_itself():
    rows = make_rows("a", [9.0, 10.0, 11.0])
    below = replace(ORDER, comparisons=(Comparison(errors_of("a"), 20.0),))
    above = replace(ORDER, comparisons=(Comparison(5.0, errors_of("a")),))
    told = "a: 10 test errors, 95 % interval 7.52 to 12.5, 3 runs"
    assert judge(below, rows).detail == f"{told}; below 20 asked."
    assert judge(above, rows).detail == f"{told}; above 5 asked."
    # What is judged is the difference all the same.
    assert (judge(below, rows).mean, judge(above, rows).mean) == (-10.0, -5.0)
    supposed = replace(ORDER, comparisons=below.comparisons, premise=above.comparisons)
    assert judge(supposed, rows).detail.endswith(
        "; it supposes that a is above 5, and it is 10 test errors, 95 % interval 7.52 to 12.5, 3 runs."
    )


def test_values_that_are_all_alike_have_no_interval():
    judgement = judge(ORDER, make_rows("a", [1.0, 1.0, 1.0]) + make_rows("b", [2.0, 2.0, 2.0]))
    assert judgement.detail == "a minus b: -1 test errors, all alike, 3 pairs."


def test_a_corrected_metric_has_the_unit_of_the_claim():
    claim = replace(
        ORDER,
        metric="test_error_rate_bias_test",
        scale=100.0,
        unit="points",
        comparisons=(
            Comparison(Side(("a",), "test_error_rate_bias_train"), Side(("a",), "test_error_rate")),
        ),
    )
    rows = [
        replace(row, metrics={"test_error_rate": 0.2, "test_error_rate_bias_train": 0.1})
        for row in make_rows("a", [1.0, 1.0, 1.0])
    ]
    assert ": -10 points, " in judge(claim, rows).detail
    assert ": -10 points, " in judge(replace(claim, unit="% test errors"), rows).detail


def test_a_share_is_told_in_per_cent():
    claim = replace(ORDER, premise=(Comparison(Side(("a",), "test_error_rate"), 0.5),))
    rows = [
        replace(row, metrics=row.metrics | {"test_error_rate": 0.25})
        for row in make_rows("a", [1.0, 1.0, 1.0])
    ] + make_rows("b", [2.0, 2.0, 2.0])
    judged = judge(claim, rows)
    assert judged.verdict == "reproduced"
    assert judged.detail.endswith(
        "; it supposes that a (test error rate) is below 50, and it is 25 %, all alike, 3 runs."
    )
