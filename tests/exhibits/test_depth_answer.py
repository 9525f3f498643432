"""Tests of the depth study's answer in words."""

from __future__ import annotations

import pytest
from recorded_rows import make_row, write_ledger

from kdrepro.exhibits.depth_answer import answer, hint_kept
from kdrepro.ledger import recorded


def ledger_of(tmp_path, values, *, metric="test_error_rate", **metrics):
    rows = [
        make_row(
            arm,
            seed,
            recipe="fitnets",
            protocol="reduced",
            metrics={"test_errors": 1.0, metric: value, **metrics},
            config={"epochs": 500, "shorter": 25},
        )
        for arm, several in values.items()
        for seed, value in enumerate(several)
    ]
    return write_ledger(tmp_path, rows)


def test_depths_that_learn_are_told_from_those_that_do_not_and_those_that_differ(tmp_path):
    rates = {
        "cifar_teacher": [0.2],
        "depth5_alone": [0.3, 0.3],
        "depth7_alone": [0.9, 0.4],
        "depth9_alone": [0.9, 0.9],
        "depth11_alone": [0.9, 0.9],
        "depth5_kd": [0.3, 0.3],
        "depth11_hint": [0.2, 0.2],
        "depth11_joint": [0.25, 0.25],
        "depth11_joint_labels": [0.3, 0.6],
    }
    assert answer(ledger_of(tmp_path, rates)) == (
        "**Nets of how many layers have learned when a short schedule ends? With labels alone 5, some runs of "
        "7, not 9 and 11; with soft targets 5; with a hint first 11; with hint and soft targets at once 11; "
        "with hint and labels at once some runs of 11.** The paper, at its full length, trains up to 5 layers with "
        "labels, 7 with soft targets and 13 with hints; here a net has 20 epochs, and there are 2 runs of each."
    )


@pytest.mark.parametrize(
    ("teacher", "shallow", "told"),
    [
        (0.34, (0.3, 0.3, 0.3), True),
        (0.3, (0.3, 0.3, 0.3), True),
        (0.29, (0.3, 0.3, 0.3), False),
        # Better on the mean, and the interval of three runs holds zero.
        (0.29, (0.28, 0.3, 0.32), True),
        (0.2, (0.28, 0.3, 0.32), False),
    ],
)
def test_a_teacher_that_is_not_shown_to_be_better_than_a_shallow_net_is_told(
    tmp_path, teacher, shallow, told
):
    text = answer(ledger_of(tmp_path, {"cifar_teacher": [teacher], "depth5_alone": shallow}))
    assert (
        f"Their teacher makes {100 * teacher:.1f} % errors and the net of 5 layers, on labels alone, 30.0 %."
        in text
    ) is told
    assert ("reads `inconclusive`" in text) is told


def test_of_fewer_runs_than_the_claims_ask_for_nothing_is_said_of_verdicts(tmp_path):
    text = answer(ledger_of(tmp_path, {"cifar_teacher": [0.2], "depth5_alone": [0.3]}))
    assert "inconclusive" not in text
    assert text.endswith("here a net has 20 epochs, and there is 1 run of each.")


def test_without_rows_it_says_so(tmp_path):
    assert answer(write_ledger(tmp_path, [])) == "**Not run yet.**"
    assert answer(ledger_of(tmp_path, {"cifar_teacher": [0.2]})) == "**Not run yet.**"


def test_the_recorded_rows_have_an_answer():
    assert answer(recorded()).startswith("**Nets of how many layers have learned")


def test_where_the_guided_layer_ends_is_told_of_depths_that_have_both_trainings(tmp_path):
    far = {"depth5_hint": [80.0, 60.0], "depth5_joint": [20.0], "depth11_hint": [50.0]}
    far["depth5_joint_labels"] = [16.0]
    named = {"metric": "hint_distance_after", "hint_distance_blind": 200.0}
    text = hint_kept(ledger_of(tmp_path, far, **named))
    told = "mean is: with 5 layers 35 % after two stages, 10 % after one and 8 % after one without soft targets. "
    assert told in text
    assert text.endswith("not that it no longer tells what the hint does.")
    assert hint_kept(ledger_of(tmp_path / "less", {"depth11_hint": [50.0]}, **named)) == ""
    once = {"depth5_joint": [20.0], "depth5_joint_labels": [16.0]}
    assert hint_kept(ledger_of(tmp_path / "once", once, **named)) == ""
