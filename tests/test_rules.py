"""The rules that make a verdict of a claim and rows, with numbers that were worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_claims import A_BELOW_B, ORDER, RECOVERY, SIMILAR, VALUE, claim, errors_of
from recorded_rows import make_row, make_rows, teacher_run
from scipy import stats

from kdrepro.claims import Comparison, Fixed, Side
from kdrepro.intervals import ratio_interval
from kdrepro.pairs import independent
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
    # 3.1824 / sqrt(4) = 1.59 < 2
    assert judgement.seeds_needed == 4
    assert judgement.detail == (
        "a minus b: -2, 95 % interval -4.48 to 0.48, 3 pairs; about 4 seeds would settle it."
    )
    assert judge(replace(ORDER, comparisons=(Comparison(errors_of("b"), errors_of("a")),)), rows).mean == 2


def test_an_order_may_be_told_in_a_unit_of_its_own():
    rows = make_rows("a", [0.09, 0.08, 0.07]) + make_rows("b", [0.10, 0.10, 0.10])
    plain, scaled = judge(ORDER, rows), judge(replace(ORDER, scale=100.0, unit="points"), rows)
    assert (scaled.verdict, scaled.seeds_needed) == (plain.verdict, plain.seeds_needed)
    assert scaled.mean == pytest.approx(100 * plain.mean)
    assert scaled.detail == (
        "a minus b: -2 points, 95 % interval -4.48 to 0.48, 3 pairs; about 4 seeds would settle it."
    )


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
    assert "which may be none or the other way round" in reversed_.detail


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
