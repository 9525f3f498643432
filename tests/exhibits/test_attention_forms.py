"""Tests of how hard the two forms of the attention term pull, and of their figures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from attention_transfer_rows import row, rows
from chart_texts import assert_readable, points, texts
from recorded_rows import write_ledger

from kdrepro import attention_transfer_loss, tables
from kdrepro.claims import paper
from kdrepro.exhibits import attention_forms
from kdrepro.exhibits.attention_answer import answer
from kdrepro.exhibits.attention_forms import (
    GAINS,
    code_weight,
    gains,
    pull,
    pull_curve,
    strength_curve,
)
from kdrepro.recipes.attention_transfer import ARMS


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return write_ledger(tmp_path_factory.mktemp("rows"), rows())


def words(chart) -> str:
    return "\n".join(texts(chart))


# -- the arithmetic


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("distance", [0.05, 0.4, 1.2])
def test_the_pull_is_the_slope_of_the_loss_by_the_distance(form, distance):
    away = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
    cosine = 1 - away**2 / 2
    half = torch.full((32,), 32**-0.5, dtype=torch.float64)
    student = torch.cat([half * cosine, half * (1 - cosine**2).sqrt()])
    teacher = torch.cat([half, torch.zeros_like(half)])
    # A map of squares: the feature is its root.
    features = [each.sqrt().reshape(1, 1, 8, 8) for each in (student, teacher)]
    loss = 3 * attention_transfer_loss(*features, form=form).sum()
    (slope,) = torch.autograd.grad(loss, away)
    assert slope.item() == pytest.approx(pull(form, 3.0, distance=distance, positions=64))


def test_the_paper_s_readings_of_beta_are_those_of_the_claims():
    """At a distance of 0.4 between maps of 8×8, as the claims' file has it."""
    at = {"distance": 0.4, "positions": 64}
    assert pull("code", 1000, **at) == pytest.approx(12.5)
    weights = {
        name: attention_forms._term(ARMS[f"at_norm_{name}"].overrides, 64).weight
        for name in ("0.1", "by_group", "1000")
    }
    assert {name: pull("paper", weight, **at) for name, weight in weights.items()} == {
        "0.1": 0.05,
        "by_group": 7.8125,
        "1000": 500,
    }
    assert [weight(64) for weight in attention_forms.READINGS.values()] == list(weights.values())
    # 1,000 over positions and pictures, of which the sum takes the pictures back; Eq. 2 has a half.
    assert weights["by_group"] == 128 * (1000 / (64 * 128)) / 2
    assert code_weight("paper", weights["0.1"]) == pytest.approx(4)
    assert code_weight("paper", 500.0) == pytest.approx(40_000)
    assert code_weight("code", 123.0, distance=0.9, positions=49) == pytest.approx(123)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form: got 'norm', expected one of code, paper"):
        pull("norm", 1.0, distance=0.4, positions=64)


def test_the_curve_of_pulls_draws_both_forms_and_what_was_measured():
    axes = pull_curve(sides=(28, 7), measured={"here": 0.3}).axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert labels[:2] == ["code, 1,000, maps of 28×28", "code, 1,000, maps of 7×7"]
    assert [line.get_ydata()[0] for line in axes.lines[2:6]] == [0.05, 500 / 784, 500 / 49, 500]
    assert labels[3:5] == [f"paper, β by group,\nsum over the batch, {side}×{side}" for side in (28, 7)]
    curve = axes.lines[1]
    expected = [2000 * x / 49 for x in curve.get_xdata()]
    assert list(curve.get_ydata()) == pytest.approx(expected)
    assert axes.lines[6].get_xdata()[0] == 0.3
    assert "here" in words(axes.figure)


# -- the weight's strength


def test_both_forms_stand_on_one_axis_at_the_weight_that_pulls_alike(ledger):
    axes = strength_curve(ledger).axes[0]
    rates = {
        arm: np.mean([each.metrics["test_error_rate"] for each in ledger.rows(arm=arm)])
        for arm in ("at", "at_10", "at_norm_0.1", "at_norm_by_group", "at_norm_1000", "student_alone", "kd")
    }
    expected = [(10.0, rates["at_10"]), (1000.0, rates["at"]), (4.0, rates["at_norm_0.1"])]
    expected += [(625.0, rates["at_norm_by_group"]), (40_000.0, rates["at_norm_1000"])]
    assert points(axes, "D") == [pytest.approx(each) for each in expected]
    lines = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    assert lines["labels alone"] == pytest.approx(rates["student_alone"])
    assert lines["soft targets"] == pytest.approx(rates["kd"])
    text = words(axes.figure)
    assert all(f"β {beta}\n" in text for beta in ("= 0.1", "by group", "= 1,000"))
    assert "maps of 8×8" in text


def test_other_maps_teachers_and_terms_are_left_out(ledger):
    # at_sum1, at_kd, at_from40 and so on have the weight 1,000 too. Five seeds of each of the five that remain.
    places = [x for x, _ in points(strength_curve(ledger).axes[0], "o")]
    assert sorted(places) == pytest.approx([4] * 5 + [10] * 5 + [625] * 5 + [1000] * 5 + [40_000] * 5)


def test_every_weight_that_has_rows_is_drawn(tmp_path):
    config = ARMS["at"].overrides | {"attention_weight": 10.0}
    ledger = write_ledger(
        tmp_path,
        [
            row("at_10", 0, 90, "quick", config=config),
            row("at", 0, 80, "quick"),
            row("at", 0, 50, "quick", split="select"),
        ],
    )
    axes = strength_curve(ledger, protocol="quick", positions=49).axes[0]
    assert points(axes, "D") == [(10.0, 0.009), (1000.0, 0.008)]
    assert "maps of 7×7" in words(axes.figure)


def test_an_arm_with_many_more_errors_than_the_labels_alone_does_not_squeeze_the_others(tmp_path):
    few = [
        row("at", 0, 80, "quick"),
        row("at_norm_1000", 0, 660, "quick"),
        row("at_norm_0.1", 0, 81, "quick"),
        row("student_alone", 0, 84, "quick"),
    ]
    axes = strength_curve(write_ledger(tmp_path / "far", few), protocol="quick").axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert axes.get_ylim()[1] < 0.01
    assert points(axes, "D") == [pytest.approx((1000.0, 0.008)), pytest.approx((4.0, 0.0081))]
    assert points(axes, "^") == [pytest.approx((40_000.0, 0.97))]
    assert "β = 1,000\n6.6 %" in words(axes.figure)
    assert axes.yaxis.get_major_formatter()(0.125) == "12.5 %"
    # Without the labels alone there is nothing to be far from.
    axes = strength_curve(write_ledger(tmp_path / "near", few[:2]), protocol="quick").axes[0]
    assert len(points(axes, "D")) == 2


def test_only_weights_of_one_form_are_joined(ledger):
    joined = {line.get_label(): line.get_linestyle() for line in strength_curve(ledger).axes[0].lines}
    assert (joined["the code's form"], joined["the paper's form"]) == ("-", "None")


# -- where training ended


def test_pulls_in_the_end_are_those_of_the_terms_at_the_distances_of_the_rows(tmp_path):
    def kept(arm: str, seed: int, *distances: float):
        made = row(arm, seed, 1400)
        found = {f"map_distance_group{place}": each for place, each in enumerate(distances)}
        return dataclasses.replace(made, metrics=made.metrics | found)

    rows = [
        *(kept("at", seed, 0.1 + 0.02 * seed, 0.2, 0.3) for seed in (0, 1)),
        row("at", 2, 1400),
        kept("at_norm_0.1", 0, 0.1, 0.2, 0.3),
        kept("at_norm_by_group", 0, 0.1, 0.2, 0.3),
        kept("f_at", 0, 0.1, 0.2, 0.3),
        row("at_10", 0, 1400),
    ]
    table = attention_forms.pulls_in_the_end(write_ledger(tmp_path, rows)).set_index("Arm")
    # 2 · 1,000 · distance / positions; the norm pulls alike at any distance, by group more where the map is smaller.
    assert table.loc["at"].tolist() == ["0.11", "0.2", "0.3", "0.21", "1.56", "9.38", 2]
    assert table.loc["at_norm_0.1"].tolist()[3:] == ["0.05", "0.05", "0.05", 1]
    assert table.loc["at_norm_by_group"].tolist()[3:] == ["0.49", "1.95", "7.81", 1]
    assert list(table.index) == ["at", "at_norm_0.1", "at_norm_by_group"]
    assert attention_forms.pulls_in_the_end(write_ledger(tmp_path / "none", [])).empty


# -- what each kind gains


def test_gains_are_paired_with_the_student_alone_and_stand_beside_the_papers(ledger):
    chart = gains(ledger)
    axes = chart.axes[0]
    ours = dict(zip(GAINS, points(axes, "D"), strict=True))
    table = tables.paired_table("attention_transfer", ledger, [("at", "student_alone")], protocol="reduced")
    assert ours["attention maps"][0] == pytest.approx(float(table.at[0, "Mean"]), abs=0.5)
    squares = dict(zip(GAINS, points(axes, "s"), strict=True))
    assert squares["attention maps"][0] == pytest.approx(-84)
    assert squares["soft targets, teacher WRN-40-1"][0] == pytest.approx(-38)
    filled = {
        name: line.get_markerfacecolor() == "black"
        for name, line in zip(GAINS, [line for line in axes.lines if line.get_marker() == "s"], strict=True)
    }
    checked = {each.arm: each.checked for each in paper("zagoruyko2017").claims if each.kind == "value"}
    assert filled == {name: checked[arm] == "S" for name, arm in GAINS.items()}
    assert "the paper, second-hand" in words(chart)
    assert "the paper, from memory" in words(chart)


def test_a_demonstration_is_not_set_beside_the_paper(tmp_path):
    chart = gains(write_ledger(tmp_path, rows("quick")), protocol="quick")
    assert "paper" not in words(chart)
    assert points(chart.axes[0], "s") == []


# -- any subset of the rows


@pytest.mark.parametrize(
    "kept",
    [
        (),
        ("student_alone",),
        ("teacher_wrn16_2",),
        ("at",),
        ("at_norm_0.1", "kd"),
        ("at_from40",),
        ("at_norm_1000", "student_alone"),
    ],
)
def test_figures_and_answer_of_few_or_no_rows_say_so(tmp_path, kept):
    ledger = write_ledger(tmp_path, [each for each in rows(seeds=2) if each.arm in kept])
    charts = [strength_curve(ledger), gains(ledger)]
    for chart in charts:
        assert chart._repr_png_()[:4] == b"\x89PNG"
    assert "not run" in words(charts[1])
    assert answer(ledger).startswith("**Not run yet.**")
    if not kept or kept == ("at_from40",):
        assert "not run at protocol reduced" in words(charts[0])


def test_uncommitted_rows_are_not_shown(tmp_path):
    ledger = write_ledger(tmp_path, [row("at", 0, 1400, dirty=True)])
    assert "not run at protocol reduced" in words(strength_curve(ledger))


def test_figures_are_on_white_cards_with_readable_letters(ledger):
    for chart in (pull_curve(), strength_curve(ledger), gains(ledger)):
        assert_readable(chart)
