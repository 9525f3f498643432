"""Tests of the sentence about students that never saw some of the digits."""

from __future__ import annotations

import pytest
from recorded_rows import make_row, write_ledger

from kdrepro.exhibits.missing_digits import missed

LEVELS = {"test_errors": 206.0, "test_errors_on_3": 133.0, "test_errors_bias_test": 109.0}


def some_rows(**levels: float):
    counts = LEVELS | {"test_errors_on_3_bias_test": 14.0} | levels
    counts |= {"test_errors_bias_train": 100.0, "test_errors_on_3_bias_train": 20.0}
    return [make_row("no_threes", seed, metrics=dict(counts)) for seed in range(5)]


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ({}, "None of the paper's numbers (H7, H8, H9, H9a) is missed."),
        (
            {"test_errors": 100.0},
            "Of the 4 numbers of errors in this section 1 are missed: in 1 our students make fewer errors than the "
            "paper's (H7: 100, not 206).",
        ),
        (
            {"test_errors": 100.0, "test_errors_on_3": 300.0},
            "(H7: 100, not 206), and in 1 our students make more errors than the paper's (H8: 300, not 133).",
        ),
    ],
)
def test_what_is_missed_is_told_with_its_side(tmp_path, levels, says):
    assert says in missed(write_ledger(tmp_path, some_rows(**levels)))


def test_without_rows_nothing_is_said_of_them(tmp_path):
    assert missed(write_ledger(tmp_path, [])) == "Not run yet."
