"""Intervals of means and of ratios, and how many values settle a question, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kdrepro.judging.intervals import enough, mean_interval, ratio_interval


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
        return (stats.t.ppf(0.975, count - 1) + stats.norm.ppf(0.8)) * spread / math.sqrt(count)

    assert n is not None
    assert half(n) < distance
    assert n == 2 or half(n - 1) >= distance


@pytest.mark.parametrize("mean", [0.5, 0.8, 1.5])
def test_enough_settles_it_in_about_four_cases_of_five(mean):
    n = enough([mean - 1, mean, mean + 1], distance=mean)
    samples = np.random.default_rng(0).normal(mean, 1.0, size=(4000, n))
    half = stats.t.ppf(0.975, n - 1) * samples.std(axis=1, ddof=1) / math.sqrt(n)
    assert 0.75 < np.mean(samples.mean(axis=1) - half > 0) < 0.88


def test_nothing_is_enough_at_no_distance():
    assert enough([1.0, 2.0], distance=0.0) is None
    assert enough([1.0], distance=1.0) is None
    assert enough([0.0, 1e9], distance=1e-9) is None


def test_values_that_are_all_the_same_have_no_spread():
    # 0.05 is no sum of powers of two, and neither is its mean.
    assert mean_interval([0.05] * 3) == (0.05, 0.05, 0.05)


def test_a_share_of_no_gap_at_all_is_undefined():
    ratio, low, high = ratio_interval([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    assert math.isnan(ratio)
    assert (low, high) == (-math.inf, math.inf)
