"""Several arms that are said to do about equally well: what decides, and how many seeds would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_claims import SIMILAR
from recorded_rows import make_row, make_rows, teacher_run

from kdrepro.judging.intervals import enough
from kdrepro.verdicts import judge

# Of arms a, b and c, whose means may differ by a tenth of the mean of all.


def test_an_interval_that_reaches_over_the_margin_decides():
    # a minus b is -9, -7, -11, so -13.97 to -4.03, where 9.55 are allowed.
    rows = make_rows("a", [91.0, 93.0, 89.0]) + make_rows("b", [100.0] * 3) + make_rows("c", [95.0] * 3)
    judgement = judge(SIMILAR, rows)
    assert judgement.verdict == "inconclusive"
    assert judgement.detail.startswith("a minus b decides: -9")


def test_one_that_is_better_within_the_margin_is_said_to_be():
    rows = make_rows("a", [98.0, 99.0, 97.0]) + make_rows("b", [99.0, 100.2, 98.0])
    judgement = judge(SIMILAR, rows + make_rows("c", [100.0, 101.4, 99.0]))
    assert (judgement.verdict, judgement.apart) == ("reproduced", True)
    assert judgement.detail.endswith("; so similar, but not the same.")


def test_the_margin_of_numbers_below_zero_is_a_share_of_their_size():
    values = {"a": [100.0, 101.0, 99.0], "b": [101.0, 101.5, 100.0], "c": [99.0, 100.5, 98.0]}
    rows = [row for arm, some in values.items() for row in make_rows(arm, [-each for each in some])]
    assert judge(SIMILAR, rows).verdict == "reproduced"


def test_so_many_seeds_would_settle_it_as_bring_the_interval_to_one_side_of_the_margin():
    # a minus b is -7, -5, -9 and 9.7 are allowed: to tell, an interval may reach 2.7 further.
    rows = make_rows("a", [93.0, 95.0, 91.0]) + make_rows("b", [100.0] * 3) + make_rows("c", [97.0] * 3)
    judgement = judge(SIMILAR, rows)
    assert judgement.verdict == "inconclusive"
    assert judgement.seeds_needed == enough([-7.0, -5.0, -9.0], distance=0.1 * (93 + 100 + 97) / 3 - 7)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_difference_that_may_lie_outside_settles_it_before_the_others(sign):
    parts = [-12.0, -9.0, -14.0], [0.0] * 3, [-3.0, -9.0, 4.0]
    a, b, c = ([100 + sign * each for each in some] for some in parts)
    judgement = judge(SIMILAR, make_rows("a", a) + make_rows("b", b) + make_rows("c", c))
    margin, apart = 0.1 * (sum(a) + sum(b) + sum(c)) / 9, np.subtract(a, b)
    assert judgement.verdict == "inconclusive"
    assert abs(apart.mean()) > margin
    assert judgement.seeds_needed == enough(apart.tolist(), distance=margin - abs(apart.mean()))


def test_an_arm_with_more_runs_weighs_no_more_in_the_mean():
    rows = make_rows("a", [104.0] * 9) + make_rows("b", [100.0] * 3) + make_rows("c", [96.0] * 3)
    assert "10 % of the mean 100" in judge(SIMILAR, rows).detail


def test_pairs_of_one_teacher_count_once():
    values = [8.0, 6.0, 3.0, 5.0, 2.0, 0.0]
    rows = [make_row("a", seed, each, teacher=teacher_run(seed // 2)) for seed, each in enumerate(values)]
    judgement = judge(replace(SIMILAR, arms=("a", "b")), rows + make_rows("b", [10.0] * 6))
    assert (judgement.n, judgement.units) == (6, 3)
