"""The checks let good arguments through; what they refuse is in the folder of malformed calls."""

import math

import numpy as np
import pytest

from kdrepro import checks


@pytest.mark.parametrize("value", [1, 0.5, 1e-30, 1e30, np.float64(2.0)])
def test_positive_numbers_come_back_as_floats(value):
    number = checks.positive("temperature", value)
    assert type(number) is float
    assert number == value


@pytest.mark.parametrize("value", [0, 1, 0.25, 0.0, 1.0])
def test_a_fraction_may_be_either_end(value):
    assert checks.fraction("soft_weight", value) == value


@pytest.mark.parametrize("value", [-1e-9, 1 + 1e-9, math.nan, math.inf, -math.inf])
def test_a_fraction_may_lie_nowhere_else(value):
    with pytest.raises(ValueError, match=r"^soft_weight: got .*, expected a number in \[0, 1\]$"):
        checks.fraction("soft_weight", value)


def test_whole_numbers_of_numpy_come_back_as_pythons():
    assert type(checks.whole("n", np.int64(4))) is int


def test_whole_numbers_from_the_least_on():
    assert checks.whole("epochs", 1, least=1) == 1
    with pytest.raises(ValueError, match="epochs: got 0, expected a whole number of at least 1"):
        checks.whole("epochs", 0, least=1)
    for other in (True, 2.0, "2", None):
        with pytest.raises(TypeError, match=r"epochs: got .*expected a whole number"):
            checks.whole("epochs", other)


def test_a_wrong_name_lists_the_right_ones_and_the_nearest():
    assert checks.choice("protocol", "quick", ["smoke", "quick"]) == "quick"
    with pytest.raises(
        ValueError, match=r"protocol: got 'qick', expected one of smoke, quick; did you mean 'quick'\?"
    ):
        checks.choice("protocol", "qick", ["smoke", "quick"])
    with pytest.raises(ValueError, match=r"expected one of smoke, quick$"):
        checks.choice("protocol", "zzz", ["smoke", "quick"])
    with pytest.raises(ValueError, match="got None, expected one of"):
        checks.choice("protocol", None, ["smoke", "quick"])
