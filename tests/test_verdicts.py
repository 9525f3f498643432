"""Tests of the claims files and of the verdicts, with numbers that were worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_rows import TEMPERATURES, hinton_rows, make_row, make_rows, teacher_run, write_ledger
from scipy import stats

from kdrepro.claims import CLAIMS, Claim, Comparison, Fixed, Side, read_paper
from kdrepro.intervals import enough, mean_interval, ratio_interval
from kdrepro.pairs import independent
from kdrepro.verdicts import VERDICTS, judge, judge_paper, paper, papers


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


# Intervals


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=12))
def test_the_interval_of_a_mean_is_students(values):
    if np.std(values) < 1e-3:
        return
    interval = mean_interval(values)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval.low == pytest.approx(low, rel=1e-6, abs=1e-3)
    assert interval.high == pytest.approx(high, rel=1e-6, abs=1e-3)


def test_one_value_has_no_interval():
    assert mean_interval([3.0]) == (3.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="values: got none"):
        mean_interval([])


def test_fiellers_bounds_are_where_the_paired_test_turns():
    tops, bottoms = [70.0, 66.0, 75.0, 72.0, 68.0], [80.0, 76.0, 79.0, 83.0, 77.0]
    interval = ratio_interval(tops, bottoms)
    assert interval.mean == pytest.approx(351 / 395)
    for bound in (interval.low, interval.high):
        excess = [top - bound * bottom for top, bottom in zip(tops, bottoms, strict=True)]
        assert stats.ttest_1samp(excess, 0.0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert interval.low < interval.mean < interval.high


def test_fiellers_interval_covers_the_true_ratio_as_often_as_it_says():
    chance = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        gap = chance.normal(10.0, 3.0, size=6)
        closed = 0.7 * gap + chance.normal(0.0, 2.0, size=6)
        interval = ratio_interval(list(closed), list(gap))
        inside += interval.low <= 0.7 <= interval.high
    assert 0.935 < inside / 2000 < 0.965


def test_a_gap_that_may_be_none_has_no_share():
    assert ratio_interval([1.0, 2.0, 3.0], [1.0, -1.0, 0.5])[1:] == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="denominators: got 1"):
        ratio_interval([1.0, 2.0], [1.0])


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8), st.floats(0.5, 40))
def test_enough_is_the_least_number_that_settles(values, distance):
    spread = float(np.std(values, ddof=1))
    n = enough([float(value) for value in values], distance=distance)

    def half(count):
        return stats.t.ppf(0.975, count - 1) * spread / math.sqrt(count)

    assert n is not None
    assert half(n) < distance
    assert n == 2 or half(n - 1) >= distance


def test_nothing_is_enough_at_no_distance():
    assert enough([1.0, 2.0], distance=0.0) is None
    assert enough([1.0], distance=1.0) is None
    assert enough([0.0, 1e9], distance=1e-9) is None


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
    # 3.1824 / sqrt(4) = 1.59 < 2
    assert judgement.seeds_needed == 4
    assert judgement.detail == (
        "a minus b: -2, 95 % interval -4.48 to 0.48, 3 pairs; about 4 seeds would settle it."
    )
    assert judge(replace(ORDER, comparisons=(Comparison(errors_of("b"), errors_of("a")),)), rows).mean == 2


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
    # By hand as above: four teachers settle it, with two students each.
    assert (judgement.verdict, judgement.seeds_needed) == ("inconclusive", 8)


def test_a_single_run_is_compared_with_every_run_of_the_other_side():
    members = [f"hinton_kd.paper.b.s{seed}" for seed in range(4)]
    rows = [make_row("a", 0, 100.0, teacher=members), *make_rows("b", [110.0, 112.0, 111.0, 113.0])]
    assert judge(ORDER, rows).verdict == "not run"
    judgement = judge(replace(ORDER, one_run=("a",)), rows)
    assert (judgement.verdict, judgement.n, judgement.mean) == ("reproduced", 4, -11.5)


# A value


def test_a_value_within_its_tolerance_is_reproduced():
    judgement = judge(VALUE, make_rows("a", [118.0, 120.0, 122.0]))
    assert judgement.verdict == "reproduced"
    assert judgement.mean == 120
    # sd 2, half-width 4.3027 * 2 / sqrt(3) = 4.968
    assert judgement.interval == pytest.approx((115.032, 124.968), abs=1e-3)
    assert judgement.detail == (
        "Mean 120 errors, 95 % interval 115 to 125, 3 runs; the paper's 100 is 20 away, 20 allowed."
    )


@pytest.mark.parametrize(
    ("b", "verdict", "needed"),
    [
        ([180.0, 182.0, 184.0], "direction holds", None),
        ([80.0, 82.0, 84.0], "contradicted", None),
        # Differences -1, -2, -3, as worked out above.
        ([120.0, 123.0, 126.0], "inconclusive", 4),
        ([180.0, 182.0], "not run", 3),
    ],
)
def test_a_missed_value_is_judged_by_its_direction(b, verdict, needed):
    judgement = judge(VALUE, make_rows("a", [119.0, 121.0, 123.0]) + make_rows("b", b))
    assert (judgement.verdict, judgement.seeds_needed, judgement.mean) == (verdict, needed, 121.0)
    assert len(judgement.runs) == 3 + len(b)


def test_a_value_may_be_scaled_or_count_what_is_right():
    percent = replace(VALUE, scale=100.0, metric="test_error_rate", value=1.0, tolerance=0.25)
    judgement = judge(percent, make_rows("a", [118.0, 120.0, 122.0]))
    assert (judgement.verdict, judgement.mean) == ("reproduced", pytest.approx(1.2))
    right = replace(VALUE, correct_out_of=1010, value=98.6, tolerance=0.5)
    judgement = judge(right, make_rows("a", [14.0, 14.0, 14.0]))
    assert (judgement.verdict, judgement.mean) == ("reproduced", pytest.approx(98.6139, abs=1e-4))
    assert judge(right, make_rows("a", [24.0, 24.0, 24.0])).verdict == "not run"


def test_a_setup_is_judged_from_the_configuration_of_the_rows():
    setup = replace(
        VALUE,
        metric="config.jitter",
        value=2.0,
        tolerance=0.0,
        also=(Fixed("b", "config.jitter", 0.0),),
        direction=Comparison(Side(("b",), "config.jitter"), Side(("a",), "config.jitter")),
    )
    a = make_rows("a", [1.0, 2.0, 3.0], config={"jitter": 2})
    assert judge(setup, a + make_rows("b", [1.0, 2.0, 3.0])).verdict == "reproduced"
    moved = judge(setup, a + make_rows("b", [1.0, 2.0, 3.0], config={"jitter": 1}))
    assert moved.verdict == "contradicted"
    assert "config.jitter of b is 1, not 0" in moved.detail
    assert judge(setup, a).verdict == "not run"
    unsaid = judge(setup, a + make_rows("b", [1.0, 2.0, 3.0], config={"jitter": None}))
    assert unsaid.verdict == "not run"
    text = judge(setup, make_rows("a", [1.0, 2.0, 3.0], config={"jitter": "2"}))
    assert text.detail == "0 of 3 seeds at protocol paper."


# A share of a gap


def share_rows(students, alone=(140.0, 150.0, 148.0), teacher=(60.0, 66.0, 70.0)):
    return make_rows("s", students) + make_rows("alone", list(alone)) + make_rows("t", list(teacher))


def test_a_share_of_the_gap_by_hand():
    # Gaps 80, 84, 78; closed 70, 76, 73: the share of the means is 219 / 242.
    judgement = judge(RECOVERY, share_rows([70.0, 74.0, 75.0]))
    assert judgement.verdict == "reproduced"
    assert judgement.mean == pytest.approx(219 / 242)
    expected = ratio_interval([70.0, 76.0, 73.0], [80.0, 84.0, 78.0])
    assert judgement.interval == pytest.approx(expected[1:])
    assert judgement.interval[0] > 0.5
    assert "s closes 0.9 of the gap of 80.7" in judgement.detail


def test_each_side_of_a_share_may_have_a_metric_of_its_own():
    rows = share_rows([70.0, 74.0, 75.0])
    other = claim("recovery", seeds=3, arm="s", start="alone", end="t:elsewhere", at_least=0.5)
    assert judge(other, rows).verdict == "not run"
    assert other.needs == RECOVERY.needs
    moved = [
        dataclasses.replace(row, metrics={"elsewhere": row.metrics["test_errors"]}) if row.arm == "t" else row
        for row in rows
    ]
    assert judge(other, moved).interval == judge(RECOVERY, rows).interval


def test_a_share_below_what_is_claimed_is_contradicted_and_around_it_inconclusive():
    assert judge(RECOVERY, share_rows([135.0, 144.0, 140.0])).verdict == "contradicted"
    judgement = judge(RECOVERY, share_rows([85.0, 100.0, 115.0]))
    assert judgement.verdict == "inconclusive"
    low, high = judgement.interval
    assert low < 0.5 < high
    # Closed minus half of the gap: 15, 8, -6; mean 5.667, sd 10.69.
    spread = np.std([15.0, 8.0, -6.0], ddof=1)
    n = judgement.seeds_needed
    assert stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) < 17 / 3
    assert stats.t.ppf(0.975, n - 2) * spread / math.sqrt(n - 1) >= 17 / 3


def test_the_share_is_reproduced_exactly_when_the_paired_test_says_so():
    chance = np.random.default_rng(1)
    for _ in range(50):
        students = [float(value) for value in chance.normal(106, 8, size=3)]
        judgement = judge(RECOVERY, share_rows(students))
        closed = [
            start - s - 0.5 * (start - t)
            for s, start, t in zip(students, (140, 150, 148), (60, 66, 70), strict=True)
        ]
        low, high = stats.ttest_1samp(closed, 0.0).confidence_interval(0.95)
        expected = "reproduced" if low >= 0 else "contradicted" if high < 0 else "inconclusive"
        assert judgement.verdict == expected


def test_no_share_is_told_of_a_gap_that_may_be_none_or_runs_the_other_way():
    may_be_none = judge(
        RECOVERY, share_rows([60.0, 60.0, 60.0], alone=(70.0, 72.0, 60.0), teacher=(66.0,) * 3)
    )
    assert may_be_none.verdict == "inconclusive"
    assert (may_be_none.mean, may_be_none.interval) == (None, None)
    assert may_be_none.seeds_needed is not None
    reversed_ = judge(RECOVERY, share_rows([160.0, 161.0, 162.0], teacher=(160.0, 170.0, 168.0)))
    assert (reversed_.verdict, reversed_.seeds_needed) == ("inconclusive", None)
    assert "which may be none" in reversed_.detail


def test_a_share_is_joined_with_the_students_own_teacher():
    teachers = make_rows("t", [10.0, 50.0, 20.0])
    rows = list(teachers) + make_rows("alone", [110.0, 111.0, 152.0, 150.0, 120.0, 122.0])
    for seed in range(6):
        own = teachers[seed // 2]
        rows.append(make_row("s", seed, own.metrics["test_errors"] + 10, teacher=own.run))
    judgement = judge(RECOVERY, rows)
    assert judgement.n == 6
    gaps = [100.5, 101.0, 101.0]
    assert judgement.mean == pytest.approx((sum(gaps) - 30) / sum(gaps))
    fewer = judge(RECOVERY, [row for row in rows if row.run != teachers[2].run])
    assert (fewer.verdict, fewer.n) == ("reproduced", 4)
    assert fewer.mean == pytest.approx((sum(gaps[:2]) - 20) / sum(gaps[:2]))


def test_a_share_of_the_gap_to_a_single_run():
    once = replace(RECOVERY, one_run=("t",))
    rows = [row for row in share_rows([75.0, 80.0, 78.0]) if row.arm != "t"] + [make_row("t", 0, 60.0)]
    judgement = judge(once, rows)
    assert (judgement.verdict, judgement.n) == ("reproduced", 3)
    assert judgement.mean == pytest.approx((65 + 70 + 70) / (80 + 90 + 88))


# Similar arms


def test_similar_arms_lie_within_the_margin_of_each_other():
    rows = make_rows("a", [100.0, 101.0, 99.0]) + make_rows("b", [101.0, 101.5, 100.0])
    judgement = judge(SIMILAR, rows + make_rows("c", [99.0, 100.5, 98.0]))
    assert judgement.verdict == "reproduced"
    assert judgement.mean == pytest.approx(5 / 3)
    assert "10% of the mean 100" in judgement.detail


def test_arms_that_differ_by_more_than_the_margin_contradict():
    rows = make_rows("a", [100.0, 101.0, 99.0]) + make_rows("b", [140.0, 141.5, 139.0])
    judgement = judge(SIMILAR, rows + make_rows("c", [99.0, 100.5, 98.0]))
    assert judgement.verdict == "contradicted"
    assert judgement.mean > 40
    assert judgement.detail.startswith("b minus c decides")


def test_noisy_arms_are_neither_and_more_seeds_would_tell():
    rows = make_rows("a", [100.0, 120.0, 80.0]) + make_rows("b", [95.0, 100.0, 105.0])
    judgement = judge(SIMILAR, rows + make_rows("c", [99.0, 100.5, 98.0]))
    assert judgement.verdict == "inconclusive"
    # The widest: a minus b is 5, 20, -25: mean 0, sd 22.9, to come below a margin of 9.97.
    spread = np.std([5.0, 20.0, -25.0], ddof=1)
    margin = 0.1 * (100 + 100 + 99.1667) / 3
    n = judgement.seeds_needed
    assert stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) < margin
    assert stats.t.ppf(0.975, n - 2) * spread / math.sqrt(n - 1) >= margin
    assert judge(SIMILAR, rows).verdict == "not run"


# Which rows count


@pytest.mark.parametrize(
    "change",
    [
        {"dirty": True},
        {"protocol": "reduced"},
        {"protocol": "quick"},
        {"split": "select"},
        {"recipe": "fitnets"},
    ],
)
@pytest.mark.parametrize("base", [ORDER, VALUE, SIMILAR, RECOVERY])
def test_rows_that_do_not_count(base, change):
    rows = [
        make_row(arm, seed, 100.0 - 20 * seed + ord(arm[0]))
        for arm in ("a", "b", "c", "s", "t", "alone")
        for seed in range(3)
    ]
    before = judge(base, rows)
    assert before.verdict != "not run"
    more = [make_row(arm, seed, 5000.0, **change) for arm in "abcst" for seed in range(3, 9)]
    assert judge(base, rows + more) == before
    short = judge(base, [replace(row, **change) if row.seed == 2 else row for row in rows])
    assert (short.verdict, short.seeds_needed) == ("not run", 3)
    assert short.detail == "2 of 3 seeds at protocol paper."


def test_a_claim_may_be_judged_at_another_protocol_but_never_at_two():
    reduced = replace(ORDER, protocol="reduced")
    a, b = [1.0, 2.0, 3.0], [51.0, 52.0, 53.5]
    rows = make_rows("a", a, protocol="reduced") + make_rows("b", b, protocol="reduced")
    assert judge(reduced, rows).verdict == "reproduced"
    assert judge(reduced, rows).protocol == "reduced"
    mixed = make_rows("a", a, protocol="reduced") + make_rows("b", b)
    assert {judge(each, mixed).verdict for each in (ORDER, reduced)} == {"not run"}


def test_what_is_out_of_reach_stays_so_and_names_what_ran_instead():
    judgement = judge(claim("out of reach", reason="No data.", instead=("S1",)), hinton_rows())
    assert (judgement.verdict, judgement.detail) == ("out of reach", "No data. What ran instead: S1.")
    assert judge(claim("not run", reason="Future work."), []).verdict == "not run"


# Hinton's claims

ARMS = {
    *("teacher", "student_alone", "soft_targets_T20", "no_threes", "sevens_eights"),
    *("ensemble", "ensemble_student", "few_digits_hard", "few_digits_soft"),
    *(f"units{units}_{rest}" for units in (30, 300) for rest in ("alone", *(f"T{t}" for t in TEMPERATURES))),
}


def test_hintons_claims_are_all_there_and_read_arms_that_exist():
    found = paper("hinton2015")
    ids = [each.id for each in found.claims]
    assert {f"H{number}" for number in range(1, 27)} <= set(ids)
    assert {arm for each in found.claims for arm in each.needs} <= ARMS
    assert found.claim("H1").tolerance == pytest.approx(13.4)
    assert found.claim("H12").tolerance == pytest.approx(2.64)
    assert found.claim("H3").seeds >= 10
    assert all(each.reason for each in found.claims if each.kind in ("out of reach", "not run"))
    assert all(each.direction for each in found.claims if each.kind == "value")
    with pytest.raises(ValueError, match="claim: got 'H99', expected one of H1, H2"):
        found.claim("H99")


def test_hintons_own_figures_reproduce_his_claims(tmp_path):
    judgements = {
        each.claim.id: each for each in judge_paper("hinton2015", write_ledger(tmp_path, hinton_rows()))
    }
    expected_reproduced = {
        *(
            "H1",
            "H2",
            "H3",
            "H3a",
            "H3b",
            "H4",
            "H5",
            "H6",
            "H7",
            "H8",
            "H9",
            "H9a",
            "H9t",
            "H10",
            "H11",
            "H12",
        ),
        *("H12t", "S14", "S20", "S21"),
    }
    assert {key for key, each in judgements.items() if each.verdict == "reproduced"} == expected_reproduced
    assert judgements["H26"].verdict == "not run"
    assert {each.verdict for each in judgements.values()} <= set(VERDICTS)
    # One claim for each out of reach, by number.
    far = {*range(13, 20), *range(20, 26)}
    assert {key for key, each in judgements.items() if each.verdict == "out of reach"} == {
        f"H{n}" for n in far
    }


def test_without_rows_nothing_is_claimed():
    verdicts = [judge(each, []).verdict for each in paper("hinton2015").claims]
    assert set(verdicts) == {"not run", "out of reach"}


def test_papers_come_in_reading_order_and_a_wrong_key_lists_them():
    assert [each.key for each in papers()] == [
        *("hinton2015", "romero2015", "zagoruyko2017", "furlanello2018", "kim2016"),
    ]
    assert [each.status for each in papers()] == ["judged", "planned", "planned", "judged", "planned"]
    assert paper("kim2016").cited_as == "Kim & Rush (2016)"
    with pytest.raises(ValueError, match="paper: got 'hinton', expected one of hinton2015, romero2015"):
        paper("hinton")


# Claims files

HEAD = """
[paper]
key = "short"
position = 1
title = "T"
authors = ["A B"]
year = 2020
venue = "V"
arxiv = "0000.00000"
recipe = "r"
notebook = "r"
status = "judged"
"""
ENTRY = """
[[claim]]
id = "C1"
statement = "S"
where = "section 1"
checked = "P"
"""
A_VALUE = (
    ENTRY
    + """kind = "value"
arm = "a"
metric = "m"
value = 1
tolerance = 0.5
seeds = 3
direction = { lower = "a", higher = "b" }
"""
)
AN_ORDER = (
    ENTRY
    + """kind = "order"
metric = "m"
comparisons = [{ lower = "a:x", higher = ["b", "c"] }]
seeds = 3
"""
)
A_SHARE = (
    ENTRY
    + """kind = "recovery"
metric = "m"
arm = "a"
from = "b"
to = "c"
at_least = 0.5
seeds = 3
"""
)
SIMILAR_ARMS = (
    ENTRY
    + """kind = "similar"
metric = "m"
arms = ["a", "b"]
margin_relative = 0.1
seeds = 3
"""
)
FAR = ENTRY + 'kind = "out of reach"\nreason = "R"\ninstead = ["C2"]\n'


def file_of(tmp_path: Path, text: str, name: str = "short.toml") -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_claims_file_is_read(tmp_path):
    second = AN_ORDER.replace("C1", "C2")
    deviation = '[[deviation]]\ntopic = "t"\npaper = "p"\ncode = "c"\nours = "{a.epochs}"\n'
    found = read_paper(file_of(tmp_path, HEAD + A_VALUE + second + deviation))
    assert found.claims[0].direction == Comparison(Side(("a",), "m"), Side(("b",), "m"))
    assert found.claims[1].comparisons == (Comparison(Side(("a",), "x"), Side(("b", "c"), "m")),)
    assert found.claims[1].needs == ("a", "b", "c")
    assert found.deviations[0].ours == "{a.epochs}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "x = [", "short.toml: not TOML"),
        (A_VALUE, "short.toml: paper: missing"),
        (HEAD, "short.toml: paper: status: got 'judged', expected judged with claims"),
        (HEAD.replace("judged", "done") + A_VALUE, "short.toml: paper: status: got 'done', expected one of"),
        (
            HEAD.replace('"short"', '"long"') + A_VALUE,
            "short.toml: paper: key: got 'long', expected the name",
        ),
        (HEAD.replace("2020", "'x'") + A_VALUE, "short.toml: paper: year: got 'x'"),
        (HEAD.replace('["A B"]', "[]") + A_VALUE, "short.toml: paper: authors"),
        (HEAD + 'colour = "red"' + A_VALUE, "short.toml: paper: colour: unknown field"),
        (HEAD + A_VALUE + "[extra]\n", "short.toml: extra: unknown field"),
        (HEAD + A_VALUE + A_VALUE, "short.toml: claim C1: id: used 2 times"),
        (HEAD + A_VALUE.replace('id = "C1"', ""), "short.toml: claim number 1: id: missing"),
        (
            HEAD + A_VALUE.replace('"value"', '"valu"'),
            "short.toml: claim C1: kind: got 'valu', expected one of value",
        ),
        (HEAD + A_VALUE.replace("tolerance = 0.5", ""), "short.toml: claim C1: tolerance: got 0 of"),
        (HEAD + A_VALUE + "tolerance_relative = 0.1", "short.toml: claim C1: tolerance: got 2 of"),
        (HEAD + A_VALUE.replace("0.5", "-1"), "short.toml: claim C1: tolerance: got -1"),
        (HEAD + A_VALUE.replace("0.5", '"0.5"'), "short.toml: claim C1: tolerance: got '0.5'"),
        (HEAD + A_VALUE.replace("value = 1", "value = nan"), "short.toml: claim C1: value: got nan"),
        (HEAD + A_VALUE.replace("seeds = 3", "seeds = 1"), "short.toml: claim C1: seeds: got 1"),
        (HEAD + A_VALUE.replace("seeds = 3", ""), "short.toml: claim C1: seeds: missing"),
        (HEAD + A_VALUE.replace('arm = "a"', ""), "short.toml: claim C1: arm: missing"),
        (HEAD + A_VALUE.replace('arm = "a"', "arm = 1"), "short.toml: claim C1: arm: got 1"),
        (HEAD + A_VALUE.replace("seeds", "seed"), "short.toml: claim C1: seed: unknown field"),
        (
            HEAD + A_VALUE + 'protocol = "quick"',
            "short.toml: claim C1: protocol: got 'quick', expected one of",
        ),
        (HEAD + A_VALUE + 'ours = "yes"', "short.toml: claim C1: ours: got 'yes', expected true or false"),
        (HEAD + A_VALUE + "scale = 2\ncorrect_out_of = 3", "short.toml: claim C1: scale"),
        (HEAD + A_VALUE + "scale = 0", "short.toml: claim C1: scale: got 0"),
        (HEAD + A_VALUE + "also = [{ arm = 'a' }]", "short.toml: claim C1: also: metric: missing"),
        (HEAD + A_VALUE + "also = 3", "short.toml: claim C1: also: got 3"),
        (
            HEAD + A_VALUE.replace('higher = "b"', 'hihger = "b"'),
            "claim C1: direction: hihger: unknown field",
        ),
        (HEAD + A_VALUE.replace('higher = "b"', 'higher = "a"'), "claim C1: direction: lower, higher"),
        (
            HEAD + A_VALUE.replace('lower = "a", higher = "b"', "lower = 1, higher = 2"),
            "claim C1: direction: lower",
        ),
        (HEAD + A_VALUE.replace('higher = "b"', "higher = []"), "claim C1: direction: higher: got"),
        (HEAD + A_VALUE.replace("direction = {", "direction = 3 # {"), "claim C1: direction: got 3"),
        (HEAD + A_VALUE.replace('checked = "P"', 'checked = "Q"'), "claim C1: checked: got 'Q'"),
        (HEAD + A_VALUE.replace('"section 1"', '""'), "claim C1: where: got ''"),
        (HEAD + AN_ORDER.replace("[{ l", "[] # [{ l"), "claim C1: comparisons: got \\[\\]"),
        (HEAD + AN_ORDER.replace('"b", "c"', '"b:x", "c:y"'), "claim C1: comparisons: higher"),
        (HEAD + AN_ORDER + "tolerance = 1", "claim C1: tolerance: unknown field"),
        (HEAD + A_SHARE.replace('to = "c"', 'to = "b"'), "claim C1: to: got 'b'"),
        (HEAD + A_SHARE.replace("0.5", "0"), "claim C1: at_least: got 0"),
        (HEAD + A_SHARE.replace('metric = "m"', ""), "claim C1: metric: missing"),
        (HEAD + SIMILAR_ARMS.replace('["a", "b"]', '["a"]'), "claim C1: arms: got"),
        (HEAD + SIMILAR_ARMS.replace('["a", "b"]', '["a", "a"]'), "claim C1: arms: got"),
        (HEAD + SIMILAR_ARMS.replace("margin_relative = 0.1", ""), "claim C1: margin_relative: missing"),
        (HEAD + FAR, "claim C1: instead: got 'C2', expected one of C1"),
        (HEAD + FAR.replace('reason = "R"', ""), "claim C1: reason: missing"),
        (HEAD + A_VALUE + "[[deviation]]\ntopic = 't'\n", "deviation number 1: code: missing"),
        (HEAD + A_VALUE.replace("[[claim]]", "[claim]"), "short.toml: claim: got one table"),
    ],
)
def test_a_wrong_claims_file_names_the_claim_and_the_field(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_paper(file_of(tmp_path, text))


def test_every_claims_file_of_the_package_is_right():
    files = sorted(CLAIMS.glob("*.toml"))
    assert len(files) == len(papers())
    for file in files:
        read_paper(file)
