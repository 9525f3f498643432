"""The rules that compare arms: an order, and similar arms, with numbers that were worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_claims import A_BELOW_B, ORDER, SIMILAR, errors_of
from recorded_rows import make_row, make_rows, teacher_run
from scipy import stats

from kdrepro.claims import Comparison, Side
from kdrepro.judging.readings import independent
from kdrepro.verdicts import judge

# An order


def test_an_order_agrees_with_the_paired_test_of_scipy():
    a, b = [70.0, 75.0, 71.0, 78.0], [80.0, 79.0, 83.0, 81.0]
    judgement = judge(ORDER, make_rows("a", a) + make_rows("b", b))
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert judgement.verdict == "reproduced"
    assert judgement.mean == pytest.approx(-7.25)
    assert judgement.interval == pytest.approx((low, high))
    assert (judgement.n, judgement.seeds_needed) == (4, None)
    assert judgement.runs[0] == "hinton_kd.paper.a.s0"
    assert len(judgement.runs) == 8


def test_an_order_by_hand():
    # Differences -1, -2, -3: mean -2, sd 1, half-width 4.3027 / sqrt(3) = 2.484: the interval holds zero.
    rows = make_rows("a", [9.0, 8.0, 7.0]) + make_rows("b", [10.0, 10.0, 10.0])
    judgement = judge(ORDER, rows)
    assert judgement.verdict == "inconclusive"
    assert judgement.interval == pytest.approx((-4.4841, 0.4841), abs=1e-4)
    # (3.1824 + 0.8416) / sqrt(4) = 2.01 and (2.7764 + 0.8416) / sqrt(5) = 1.62 < 2
    assert judgement.seeds_needed == 5
    assert judgement.detail == (
        "a minus b: -2 test errors, 95 % interval -4.48 to 0.48, 3 pairs; "
        "about 5 seeds would settle it in four cases of five."
    )
    assert judge(replace(ORDER, comparisons=(Comparison(errors_of("b"), errors_of("a")),)), rows).mean == 2


def test_of_several_orders_the_first_that_may_be_reversed_would_settle_it():
    both = replace(
        ORDER,
        comparisons=(Comparison(errors_of("a"), errors_of("b")), Comparison(errors_of("c"), errors_of("b"))),
    )
    b = make_rows("b", [10.0, 10.0, 10.0])
    leans_here = make_rows("a", [9.0, 8.0, 11.0])
    leans_there = make_rows("c", [11.0, 12.0, 13.0])
    first, second = (
        judge(replace(both, comparisons=(each,)), [*b, *leans_here, *leans_there])
        for each in both.comparisons
    )
    assert first.verdict == second.verdict == "inconclusive"
    assert first.seeds_needed > second.seeds_needed
    assert judge(both, [*b, *leans_here, *leans_there]).seeds_needed == second.seeds_needed
    # Where none leans there, all have to be settled.
    turned = make_rows("c", [9.0, 8.0, 7.0])
    assert judge(both, [*b, *leans_here, *turned]).seeds_needed == first.seeds_needed


def test_equal_arms_stay_inconclusive_and_no_number_of_seeds_helps():
    judgement = judge(ORDER, make_rows("a", [1.0, 2.0, 3.0]) + make_rows("b", [1.0, 2.0, 3.0]))
    assert (judgement.verdict, judgement.seeds_needed) == ("inconclusive", None)


def test_the_same_difference_at_every_seed_is_certain():
    judgement = judge(ORDER, make_rows("a", [1.0, 2.0, 3.0]) + make_rows("b", [2.0, 3.0, 4.0]))
    assert (judgement.verdict, judgement.interval) == ("reproduced", (-1.0, -1.0))


COUNTS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=3, max_size=8)
MIRROR = {"reproduced": "contradicted", "contradicted": "reproduced", "inconclusive": "inconclusive"}


@settings(deadline=None, max_examples=60)
@given(COUNTS)
def test_swapping_the_sides_turns_the_verdict_round(counts):
    rows = make_rows("a", [a for a, _ in counts]) + make_rows("b", [b for _, b in counts])
    swapped = replace(ORDER, comparisons=(Comparison(errors_of("b"), errors_of("a")),))
    one, other = judge(ORDER, rows), judge(swapped, rows)
    assert other.verdict == MIRROR[one.verdict]
    assert other.mean == pytest.approx(-one.mean)
    assert other.seeds_needed == one.seeds_needed


@settings(deadline=None, max_examples=60)
@given(COUNTS, st.integers(1, 1000), st.randoms())
def test_shifting_both_arms_or_shuffling_the_rows_changes_nothing(counts, shift, chance):
    rows = make_rows("a", [a for a, _ in counts]) + make_rows("b", [b for _, b in counts])
    moved = make_rows("a", [a + shift for a, _ in counts]) + make_rows("b", [b + shift for _, b in counts])
    chance.shuffle(moved)
    one, other = judge(ORDER, rows), judge(ORDER, moved)
    assert (one.verdict, one.interval, one.seeds_needed) == (
        other.verdict,
        other.interval,
        other.seeds_needed,
    )


def test_several_comparisons_must_all_hold():
    both = replace(ORDER, comparisons=(A_BELOW_B, Comparison(errors_of("a"), errors_of("c"))))
    a, far = make_rows("a", [1.0, 2.0, 3.0]), [51.0, 52.5, 53.0]
    assert judge(both, a + make_rows("b", far) + make_rows("c", far)).verdict == "reproduced"
    open_ = judge(both, a + make_rows("b", far) + make_rows("c", [2.0, 1.0, 4.0]))
    assert open_.verdict == "inconclusive"
    assert open_.mean == pytest.approx(-1 / 3)
    against = judge(both, a + make_rows("b", far) + make_rows("c", [-51.0, -52.5, -53.0]))
    assert against.verdict == "contradicted"
    assert judge(both, a + make_rows("b", far)).detail == "0 of 3 seeds at protocol paper."


def test_an_order_is_judged_only_where_its_premise_is_shown():
    supposed = replace(ORDER, premise=(Comparison(errors_of("a"), errors_of("c")),))
    rows = make_rows("a", [1.0, 2.0, 3.0]) + make_rows("b", [51.0, 52.5, 53.0])
    assert supposed.needs == ("a", "b", "c")
    shown = judge(supposed, rows + make_rows("c", [11.0, 12.5, 13.0]))
    assert (shown.verdict, shown.mean) == ("reproduced", judge(ORDER, rows).mean)
    assert "hinton_kd.paper.c.s0" in shown.runs
    assert shown.detail.endswith(
        "; it supposes that a is below c, and the difference is -10.2 test errors, "
        "95 % interval -10.9 to -9.45, 3 pairs."
    )
    for others in ([-11.0, -12.5, -13.0], [1.5, 1.5, 3.5]):
        open_ = judge(supposed, rows + make_rows("c", others))
        assert (open_.verdict, open_.mean, open_.n) == ("inconclusive", None, 3)
    assert open_.detail == (
        "Cannot be judged: it supposes that a is below c, and the difference is -0.17 test errors, "
        "95 % interval -1.6 to 1.27, 3 pairs."
    )
    fewer = judge(supposed, rows + make_rows("c", [11.0, 12.5]))
    assert (fewer.verdict, fewer.n) == ("not run", 2)


def test_a_side_of_several_arms_is_their_mean_at_each_seed():
    mean = replace(ORDER, comparisons=(Comparison(errors_of("a", "b"), errors_of("c")),))
    rows = make_rows("a", [10.0, 20.0, 30.0, 1.0]) + make_rows("b", [20.0, 30.0, 41.0])
    rows += make_rows("c", [30.0, 41.0, 50.0, 0.0])
    judgement = judge(mean, rows)
    assert judgement.n == 3
    assert judgement.mean == pytest.approx((-15 - 16 - 14.5) / 3)
    assert judgement.detail.startswith("the mean of a, b minus c: -15.2")


def test_a_side_may_be_a_number_or_another_metric_of_the_same_arm():
    below = replace(ORDER, comparisons=(Comparison(errors_of("a"), 50.0),))
    assert judge(below, make_rows("a", [10.0, 11.0, 12.0])).verdict == "reproduced"
    assert judge(below, make_rows("a", [90.0, 91.0, 92.0])).verdict == "contradicted"
    above = replace(ORDER, comparisons=(Comparison(50.0, errors_of("a")),))
    assert judge(above, make_rows("a", [90.0, 91.0, 92.0])).verdict == "reproduced"
    other = replace(ORDER, comparisons=(Comparison(Side(("a",), "test_errors_bias_train"), errors_of("a")),))
    rows = [make_row("a", s, 200.0 + s, metrics={"test_errors_bias_train": 110.0}) for s in range(3)]
    assert judge(other, rows).mean == pytest.approx(-91)
    assert judge(other, make_rows("a", [1.0, 2.0, 3.0])).verdict == "not run"


def test_a_student_is_compared_with_its_own_teacher():
    # Student s learned from teacher s // 2; paired by seed instead, the difference would vary.
    teachers = make_rows("t", [10.0, 20.0, 30.0])
    names = [row.run for row in teachers]
    students = [make_row("a", s, [10.0, 20.0, 30.0][s // 2] + 5, teacher=names[s // 2]) for s in range(6)]
    judgement = judge(
        replace(ORDER, comparisons=(Comparison(errors_of("t"), errors_of("a")),)), students + teachers
    )
    assert (judgement.n, judgement.interval) == (6, (-5.0, -5.0))
    missing = judge(
        replace(ORDER, comparisons=(Comparison(errors_of("a"), errors_of("t")),)), students + teachers[:1]
    )
    assert (missing.n, missing.verdict) == (2, "not run")


def test_students_of_one_teacher_are_averaged_before_the_interval():
    students = [
        make_row("a", s, value, teacher=teacher_run(s // 2)) for s, value in enumerate([8, 6, 3, 5, 2, 0])
    ]
    judgement = judge(ORDER, students + make_rows("b", [10.0] * 6))
    low, high = stats.ttest_1samp([-3.0, -6.0, -9.0], 0.0).confidence_interval(0.95)
    assert judgement.n == 6
    assert judgement.interval == pytest.approx((low, high))


def test_students_who_all_share_a_teacher_count_each():
    students = [make_row("a", s, value, teacher=teacher_run(0)) for s, value in enumerate([7.0, 4.0, 1.0])]
    low, high = stats.ttest_1samp([-3.0, -6.0, -9.0], 0.0).confidence_interval(0.95)
    assert judge(ORDER, students + make_rows("b", [10.0] * 3)).interval == pytest.approx((low, high))
    assert independent([1.0, 2.0], [(), ()]) == [1.0, 2.0]


def test_the_seeds_needed_count_students_where_two_share_a_teacher():
    students = [
        make_row("a", s, value, teacher=teacher_run(s // 2)) for s, value in enumerate([9, 9, 8, 8, 7, 7])
    ]
    judgement = judge(ORDER, students + make_rows("b", [10.0] * 6))
    # By hand as above: five teachers settle it, with two students each.
    assert (judgement.verdict, judgement.seeds_needed) == ("inconclusive", 10)
    assert judgement.detail.endswith(
        "6 pairs of 3 teachers; about 10 seeds, with more teachers for them, would settle it in four cases of five."
    )


def test_of_an_arm_that_exists_once_the_first_run_counts():
    members = [f"hinton_kd.paper.b.s{seed}" for seed in range(4)]
    once = make_row("a", 0, 100.0, teacher=members)
    others = make_rows("b", [110.0, 112.0, 111.0, 113.0])
    claim = replace(ORDER, one_run=("a",))
    again = [make_row("a", seed, 100.0, teacher=members) for seed in range(1, 4)]
    one, several = judge(claim, [once, *others]), judge(claim, [once, *again, *others])
    assert (one.verdict, one.n) == (several.verdict, several.n) == ("reproduced", 4)
    assert one.interval == several.interval


def test_a_single_run_is_compared_with_every_run_of_the_other_side():
    members = [f"hinton_kd.paper.b.s{seed}" for seed in range(4)]
    rows = [make_row("a", 0, 100.0, teacher=members), *make_rows("b", [110.0, 112.0, 111.0, 113.0])]
    assert judge(ORDER, rows).verdict == "not run"
    judgement = judge(replace(ORDER, one_run=("a",)), rows)
    assert (judgement.verdict, judgement.n, judgement.mean) == ("reproduced", 4, -11.5)


# Similar arms


def test_similar_arms_lie_within_the_margin_of_each_other():
    rows = make_rows("a", [100.0, 101.0, 99.0]) + make_rows("b", [101.0, 101.5, 100.0])
    judgement = judge(SIMILAR, rows + make_rows("c", [99.0, 100.5, 98.0]))
    assert judgement.verdict == "reproduced"
    assert judgement.mean == pytest.approx(5 / 3)
    assert "10 % of the mean 100" in judgement.detail
    assert judgement.interval[0] > 0
    assert judgement.detail.endswith("; so similar, but not the same.")


def test_arms_that_differ_by_more_than_the_margin_contradict():
    rows = make_rows("a", [100.0, 101.0, 99.0]) + make_rows("b", [140.0, 141.5, 139.0])
    judgement = judge(SIMILAR, rows + make_rows("c", [99.0, 100.5, 98.0]))
    assert judgement.verdict == "contradicted"
    assert judgement.mean > 40
    assert judgement.detail.startswith("b minus c decides")


def test_an_arm_that_lies_above_the_others_contradicts_wherever_it_stands():
    levels = {"a": 100.0, "b": 101.0, "c": 140.0}
    rows = [row for arm, level in levels.items() for row in make_rows(arm, [level, level + 1, level - 1])]
    judgement = judge(SIMILAR, rows)
    assert judgement.verdict == "contradicted"
    assert judgement.detail.startswith("a minus c decides: -40")


def test_where_one_of_several_cannot_be_settled_no_number_is_promised():
    both = replace(
        ORDER,
        comparisons=(Comparison(errors_of("a"), errors_of("b")), Comparison(errors_of("c"), errors_of("b"))),
    )
    rows = (
        make_rows("a", [9.0, 8.0, 11.0])
        + make_rows("b", [10.0, 10.0, 10.0])
        + make_rows("c", [9.0, 10.0, 11.0])
    )
    assert judge(both, rows).verdict == "inconclusive"
    assert judge(both, rows).seeds_needed is None
    assert judge(replace(both, comparisons=both.comparisons[:1]), rows).seeds_needed is not None


def test_noisy_arms_are_neither_and_more_seeds_would_tell():
    rows = make_rows("a", [100.0, 120.0, 80.0]) + make_rows("b", [95.0, 100.0, 105.0])
    judgement = judge(SIMILAR, rows + make_rows("c", [99.0, 100.5, 98.0]))
    assert judgement.verdict == "inconclusive"
    # The widest: a minus b is 5, 20, -25: mean 0, sd 22.9, to come below a margin of 9.97.
    spread = np.std([5.0, 20.0, -25.0], ddof=1)
    margin = 0.1 * (100 + 100 + 99.1667) / 3
    n = judgement.seeds_needed
    power = stats.norm.ppf(0.8)
    assert (stats.t.ppf(0.975, n - 1) + power) * spread / math.sqrt(n) < margin
    assert (stats.t.ppf(0.975, n - 2) + power) * spread / math.sqrt(n - 1) >= margin
    assert judge(SIMILAR, rows).verdict == "not run"


def test_one_comparison_that_is_reversed_contradicts_and_no_seeds_are_asked_for():
    both = replace(ORDER, comparisons=(A_BELOW_B, Comparison(errors_of("a"), errors_of("c"))))
    rows = make_rows("a", [1.0, 2.0, 3.0]) + make_rows("b", [2.0, 1.0, 4.0])
    judgement = judge(both, rows + make_rows("c", [-51.0, -52.5, -53.0]))
    assert (judgement.verdict, judgement.seeds_needed) == ("contradicted", None)
    assert judgement.mean > 50


# Against the same b: arm a is open by its spread, arm c by more than its own.
def test_of_several_open_comparisons_the_one_that_is_nearest_to_contradict_says_how_many_seeds():
    each = [Comparison(errors_of(arm), errors_of("b")) for arm in ("a", "c")]
    rows = make_rows("a", [11.0, 8.0, 14.0]) + make_rows("b", [10.0] * 3) + make_rows("c", [11.0, 12.0, 13.0])
    needed = [judge(replace(ORDER, comparisons=(one,)), rows).seeds_needed for one in each]
    assert needed[0] > needed[1]
    assert judge(replace(ORDER, comparisons=tuple(each)), rows).seeds_needed == needed[1]


def test_the_comparison_that_is_least_settled_is_shown():
    each = [Comparison(errors_of(arm), errors_of("b")) for arm in ("a", "c")]
    rows = make_rows("a", [9.0, 9.5, 9.9]) + make_rows("b", [10.0] * 3) + make_rows("c", [1.0, 19.0, 4.0])
    assert judge(replace(ORDER, comparisons=tuple(each)), rows).mean == pytest.approx(-2)
