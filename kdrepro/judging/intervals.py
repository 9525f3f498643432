"""95 % intervals: of a mean, and of a ratio of two means; and how many runs would settle a question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
POWER = 0.8
_MOST = 1_000_000


class Interval(NamedTuple):
    """A mean and the interval around it; both bounds are infinite when nothing can be said."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2


def student_t(degrees: int) -> float:
    """The two-sided 95 % point of Student's t.

    >>> round(student_t(4), 3)
    2.776
    """
    return float(stdtrit(degrees, 0.5 + CONFIDENCE / 2))


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and its Student t interval, as `scipy.stats.ttest_1samp` gives it; infinite for one value.

    Raises `ValueError` for no values.

    >>> interval = mean_interval([1.0, 2.0, 3.0])
    >>> [round(bound, 2) for bound in interval]
    [2.0, -0.48, 4.48]
    """
    if not values:
        raise ValueError("values: got none, expected at least one")
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    if min(values) == max(values):
        return Interval(values[0], values[0], values[0])
    half = student_t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """The ratio of two paired means and its interval by Fieller's theorem (1954).

    All ratios r are inside for which the mean of (numerator - r denominator) does not differ from zero by the
    paired t test. When the mean denominator itself does not differ from zero, no ratio can be excluded and
    the bounds are infinite.

    Raises `ValueError` for none of either, or not as many of one as of the other.
    """
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(
            f"denominators: got {len(denominators)}, expected as many as numerators ({len(numerators)})"
        )
    n = len(numerators)
    top, bottom = float(np.mean(numerators)), float(np.mean(denominators))
    ratio = top / bottom if bottom else math.nan
    if n < 2:
        return Interval(ratio, -math.inf, math.inf)
    covariance = np.cov(numerators, denominators, ddof=1) * student_t(n - 1) ** 2 / n
    a = bottom**2 - float(covariance[1, 1])
    b = top * bottom - float(covariance[0, 1])
    c = top**2 - float(covariance[0, 0])
    if a <= 0:
        return Interval(ratio, -math.inf, math.inf)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return Interval(ratio, (b - root) / a, (b + root) / a)


def enough(values: Sequence[float], *, distance: float) -> int | None:
    """How many values with this spread have an interval that stops short of `distance` in four cases of five, or None.

    A half-width of `distance` would do in every other case only, as the mean moves too. The power is the normal one.

    >>> enough([1.0, 2.0, 3.0], distance=1.0)
    10
    """
    distance = abs(distance)
    if len(values) < 2 or not distance > 0:
        return None
    spread = float(np.std(values, ddof=1))

    def settled(n: int) -> bool:
        return (student_t(n - 1) + float(ndtri(POWER))) * spread / math.sqrt(n) < distance

    if not settled(_MOST):
        return None
    low, high = 1, 2
    while not settled(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high
