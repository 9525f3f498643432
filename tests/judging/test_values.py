"""The rules that judge a number of the paper: a value, and a share of a gap, with numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
from made_claims import RECOVERY, VALUE, claim
from recorded_rows import make_row, make_rows, teacher_run
from scipy import stats

from kdrepro.claims import Comparison, Fixed, Side
from kdrepro.judging.intervals import enough, mean_interval, ratio_interval
from kdrepro.verdicts import judge

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
        ([120.0, 123.0, 126.0], "inconclusive", 5),
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
    # A number that is missed as well hides nothing.
    missed = judge(replace(setup, value=5.0), a + make_rows("b", [1.0, 2.0, 3.0], config={"jitter": 1}))
    assert missed.verdict == "contradicted"
    assert "config.jitter of b is 1, not 0" in missed.detail
    assert judge(setup, a).verdict == "not run"
    unsaid = judge(setup, a + make_rows("b", [1.0, 2.0, 3.0], config={"jitter": None}))
    assert unsaid.verdict == "not run"
    text = judge(setup, make_rows("a", [1.0, 2.0, 3.0], config={"jitter": "2"}))
    assert text.detail == "0 of 3 seeds at protocol paper."


def test_what_is_missed_by_little_does_not_read_as_met():
    close = replace(VALUE, value=100.0, tolerance=0.11)
    rows = make_rows("a", [100.1, 100.11, 100.13]) + make_rows("b", [180.0, 182.0, 184.0])
    assert "the paper's 100 is 0.1133 away, 0.11 allowed" in judge(close, rows).detail


# A share of a gap


def test_students_of_one_teacher_count_once_on_whichever_side_of_the_share_they_are():
    rows = make_rows("s", [70.0, 71.0, 74.0, 75.0]) + make_rows("alone", [140.0, 150.0, 148.0, 149.0])
    ends = [make_row("t", s, 60.0 + s, teacher=f"hinton_kd.paper.taught.s{s // 2}") for s in range(4)]
    judgement = judge(RECOVERY, rows + ends)
    assert "4 pairs of 2 teachers" in judgement.detail
    starts = [(140.0 + 150.0) / 2, (148.0 + 149.0) / 2]
    expected = ratio_interval([starts[0] - 70.5, starts[1] - 74.5], [starts[0] - 60.5, starts[1] - 62.5])
    assert judgement.interval == pytest.approx(expected[1:])


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
    assert " between alone and t (elsewhere)," in judge(other, moved).detail


def test_a_share_below_what_is_claimed_is_contradicted_and_around_it_inconclusive():
    assert judge(RECOVERY, share_rows([135.0, 144.0, 140.0])).verdict == "contradicted"
    judgement = judge(RECOVERY, share_rows([85.0, 100.0, 115.0]))
    assert judgement.verdict == "inconclusive"
    low, high = judgement.interval
    assert low < 0.5 < high
    # Closed minus half of the gap: 15, 8, -6; mean 5.667, sd 10.69.
    spread = np.std([15.0, 8.0, -6.0], ddof=1)
    n = judgement.seeds_needed
    power = stats.norm.ppf(0.8)
    assert (stats.t.ppf(0.975, n - 1) + power) * spread / math.sqrt(n) < 17 / 3
    assert (stats.t.ppf(0.975, n - 2) + power) * spread / math.sqrt(n - 1) >= 17 / 3


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
    # Settled is the share, not the gap alone: with as large a gap, the nearer to the claimed half the more seeds.
    near = judge(RECOVERY, share_rows([69.5, 71.5, 60.0], alone=(70.0, 72.0, 60.0), teacher=(66.0,) * 3))
    assert may_be_none.seeds_needed < near.seeds_needed
    reversed_ = judge(RECOVERY, share_rows([160.0, 161.0, 162.0], teacher=(160.0, 170.0, 168.0)))
    assert (reversed_.verdict, reversed_.seeds_needed) == ("inconclusive", None)
    assert "which runs the other way, 3 pairs." in reversed_.detail
    assert "which may be none or the other way round, 3 pairs" in may_be_none.detail


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


def test_students_of_one_teacher_count_once_in_a_value_too():
    values = [98.0, 102.0, 90.0, 94.0]
    rows = [make_row("a", seed, each, teacher=teacher_run(seed // 2)) for seed, each in enumerate(values)]
    judgement = judge(VALUE, rows)
    assert (judgement.n, judgement.units) == (4, 2)
    assert judgement.interval == pytest.approx(mean_interval([100.0, 92.0])[1:])
    assert "4 runs of 2 teachers" in judgement.detail


def test_ends_that_share_a_teacher_count_once_in_a_share():
    rows = make_rows("s", [70.0, 71.0, 74.0, 75.0]) + make_rows("alone", [140.0, 150.0, 148.0, 149.0])
    ends = [make_row("t", seed, 60.0 + seed, teacher=teacher_run(seed // 2)) for seed in range(4)]
    judgement = judge(RECOVERY, rows + ends)
    assert (judgement.n, judgement.units) == (4, 2)


def test_a_mean_on_the_limit_is_inside_whatever_its_rounding():
    assert 0.8 - 0.7 > 0.1
    on_it = replace(VALUE, value=0.7, tolerance=0.1)
    assert judge(on_it, make_rows("a", [0.8] * 3)).verdict == "reproduced"


def test_a_fixed_setting_is_asked_of_every_run_and_of_as_many_as_the_claim_wants():
    setup = replace(VALUE, also=(Fixed("b", "config.jitter", 0.0),))
    rows = make_rows("a", [100.0] * 3)
    some = [make_row("b", 0), make_row("b", 1), make_row("b", 2, config={"jitter": None})]
    assert judge(setup, rows + some).verdict == "not run"
    later = [make_row("b", 0), make_row("b", 1, config={"jitter": 1})]
    assert judge(setup, rows + later).verdict == "contradicted"


def test_where_the_gap_itself_is_open_it_says_how_many_seeds():
    gaps, closed = [20.0, 6.0, -6.0], [80.0, 71.0, 58.0]
    rows = make_rows("s", [0.0, 1.0, 2.0]) + make_rows("alone", [80.0, 72.0, 60.0])
    excess = [top - 0.5 * bottom for top, bottom in zip(closed, gaps, strict=True)]
    of_gap, of_share = enough(gaps, distance=np.mean(gaps)), enough(excess, distance=np.mean(excess))
    judgement = judge(RECOVERY, rows + make_rows("t", [60.0, 66.0, 66.0]))
    assert judgement.verdict == "inconclusive"
    assert judgement.seeds_needed == of_gap > max(4, of_share)


def test_a_student_that_taught_several_is_joined_with_each_of_them():
    rows = make_rows("s", [70.0, 71.0, 74.0]) + make_rows("t", [60.0, 61.0, 62.0])
    taught = [
        make_row("alone", seed, 140.0 + seed, teacher=f"hinton_kd.paper.s.s{seed // 2}") for seed in range(6)
    ]
    judgement = judge(RECOVERY, rows + taught)
    assert (judgement.n, judgement.units) == (6, 3)
