"""Tests of the figures of recorded rows."""

from __future__ import annotations

import numpy as np
import pytest
from chart_texts import assert_readable, texts, written
from matplotlib.colors import to_rgb
from recorded_rows import make_row, make_rows, teacher_run, write_ledger
from scipy import stats

from kdrepro import plots
from kdrepro.exhibits.charts import CYCLE
from kdrepro.ledger import Ledger


def line_points(axes, marker):
    return [line for line in axes.lines if line.get_marker() == marker]


COMPARED = {
    "soft − alone": ("soft_targets_T20", "student_alone"),
    "soft − teacher": ("soft_targets_T20", "teacher"),
}


def test_the_forest_draws_the_paired_interval_and_the_zero_line(tmp_path):
    a, b = [70.0, 75.0, 71.0], [100.0, 99.0, 103.0]
    ledger = write_ledger(tmp_path, make_rows("a", a) + make_rows("b", b))
    axes = plots.forest(ledger, "hinton_kd", [("a", "b"), ("a", "c")]).axes[0]
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    bars = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 2.5]
    assert len(bars) == 1
    assert bars[0] == pytest.approx([low, high])
    assert [line.get_xdata()[0] for line in line_points(axes, "D")] == pytest.approx(
        [np.mean(a) - np.mean(b)]
    )
    assert sorted(line_points(axes, "o")[0].get_xdata()) == [-32, -30, -24]
    assert any(list(line.get_xdata()) == [0, 0] and line.get_color() == "black" for line in axes.lines)
    assert [text.get_text() for text in axes.texts][1] == "not run"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a − b", "a − c"]


def test_the_forest_marks_what_is_not_settled(tmp_path):
    ledger = write_ledger(tmp_path, make_rows("a", [1.0, 9.0, 5.0]) + make_rows("b", [5.0, 4.0, 6.0]))
    diamond = line_points(plots.forest(ledger, "hinton_kd", [("a", "b")]).axes[0], "D")[0]
    assert diamond.get_markerfacecolor() == "white"


def test_a_single_run_is_compared_with_all_in_the_forest(ledger):
    chart = plots.forest(ledger, "hinton_kd", [("ensemble", "student_alone")], one_run=["ensemble"])
    assert texts(chart)[0].endswith("n = 10")
    assert texts(plots.forest(ledger, "hinton_kd", [("ensemble", "student_alone")]))[0].endswith("n = 1")
    shared = plots.forest(ledger, "hinton_kd", [("soft_targets_T20", "teacher")])
    assert texts(shared)[0].endswith("n = 5 teachers")


def test_the_temperature_curve_shows_means_runs_and_the_papers_regions(ledger):
    left, right = plots.temperature_curve(ledger).axes
    for axes, units in ((left, 300), (right, 30)):
        curve = next(line for line in axes.lines if line.get_label() == "soft targets")
        assert list(curve.get_xdata()) == [1, 2, 2.5, 3, 4, 6, 8, 10, 14, 20, 30]
        at_three = [row.metrics["test_errors"] for row in ledger.rows(arm=f"units{units}_T3")]
        assert curve.get_ydata()[3] == pytest.approx(np.mean(at_three))
        alone = [row.metrics["test_errors"] for row in ledger.rows(arm=f"units{units}_alone")]
        assert next(line for line in axes.lines if line.get_label() == "labels alone").get_ydata()[0] == (
            pytest.approx(np.mean(alone))
        )
    assert "paper: best from 2.5 to 4" in texts(right.figure)
    assert "paper: all similar above 8" in texts(left.figure)


def test_a_demonstration_is_not_set_beside_the_paper(tmp_path):
    rows = make_rows("units30_T3", [500.0, 510.0], protocol="quick")
    rows += make_rows("teacher", [67.0, 70.0], protocol="quick")
    ledger = write_ledger(tmp_path, rows)
    for draw in (plots.temperature_curve, plots.gap):
        assert not [text for text in texts(draw(ledger, protocol="quick")) if "paper" in text]
    assert not line_points(plots.gap(ledger, protocol="quick").axes[0], "D")
    assert line_points(plots.gap(ledger).axes[0], "D")


def test_learning_curves_are_means_with_bands(tmp_path):
    first = [make_row("teacher", s, curves={"loss": [2.0 + s, 1.0 + s, 0.5]}) for s in range(3)]
    short = [make_row("student_alone", 0, curves={"loss": [1.0, 0.5]}), make_row("none", 0)]
    axes = plots.learning_curves(first + short, "loss").axes[0]
    by_label = {line.get_label(): line for line in axes.lines}
    assert by_label.keys() == {"teacher (3 runs)", "student_alone (1 run)"}
    assert list(by_label["teacher (3 runs)"].get_ydata()) == [3.0, 2.0, 0.5]
    assert list(by_label["student_alone (1 run)"].get_xdata()) == [1, 2]
    band = axes.collections[1].get_paths()[0].vertices
    _, high = stats.ttest_1samp([2.0, 3.0, 4.0], 0).confidence_interval(0.95)
    assert band[:, 1].max() == pytest.approx(high)
    assert axes.get_yscale() == "linear"
    assert axes.get_ylabel() == "loss"
    axes = plots.learning_curves(first, "loss", label="cross-entropy", names={"teacher": "the teacher"}).axes[
        0
    ]
    assert axes.get_ylabel() == "cross-entropy"
    assert axes.lines[0].get_label() == "the teacher (3 runs)"


def test_a_band_on_a_logarithmic_axis_stays_above_zero():
    rows = [make_row("a", s, curves={"loss": [9.0 * (s + 1), 0.1 * (s + 1)]}) for s in range(3)]
    axes = plots.learning_curves(rows, "loss").axes[0]
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_ydata()) == pytest.approx([9.0 * 6 ** (1 / 3), 0.1 * 6 ** (1 / 3)])
    low, _ = stats.ttest_1samp(np.log([0.1, 0.2, 0.3]), 0).confidence_interval(0.95)
    assert axes.collections[0].get_paths()[0].vertices[:, 1].min() == pytest.approx(np.exp(low))


def test_learning_curves_of_runs_that_stop_early():
    rows = [make_row("a", s, curves={"loss": [5.0, 1.0, 0.1][: 3 - s]}) for s in range(3)]
    axes = plots.learning_curves(rows, "loss").axes[0]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([5.0, 1.0, 0.1])
    assert axes.get_yscale() == "log"


def test_the_gap_shows_every_run_and_the_papers_figures(ledger):
    chart = plots.gap(ledger)
    axes = chart.axes[0]
    dots = {round(np.mean(line.get_xdata())): len(line.get_xdata()) for line in line_points(axes, "o")}
    assert {place: count for place, count in dots.items() if count > 1} == {0: 10, 1: 10, 2: 5}
    assert [line.get_ydata()[0] for line in line_points(axes, "D")] == [146, 74, 67]
    assert "soft targets close 0.9 of the gap" in axes.get_title(loc="left")
    assert axes.get_title(loc="left").endswith("10 pairs of 5 teachers)")


NO_CURVE = ["not run at protocol paper"] * 2
NO_BAR = ["not run", "146", "not run", "74", "not run", "67", "the paper"]


@pytest.mark.parametrize(
    ("rows", "forest", "curve", "gap"),
    [
        ([], ["not run", "not run"], NO_CURVE, NO_BAR),
        (
            [make_row("teacher", 0, 66.0)],
            ["not run", "not run"],
            NO_CURVE,
            ["not run", "146", "not run", "74", "66, n = 1", "67", "the paper", "one run"],
        ),
        (
            [
                make_row("soft_targets_T20", 0, 80.0, teacher=teacher_run(0)),
                make_row("student_alone", 0, 140.0),
            ],
            ["−60, n = 1", "not run"],
            NO_CURVE,
            ["140, n = 1", "146", "80, n = 1", "74", "not run", "67", "one run", "the paper"],
        ),
        (
            [make_row("units30_T3", seed, 500.0) for seed in range(2)]
            + [make_row("units300_alone", 0, 190.0)],
            ["not run", "not run"],
            ["paper: all similar above 8", "labels alone", "paper: best from 2.5 to 4", "soft targets"],
            NO_BAR,
        ),
    ],
)
def test_figures_of_few_or_no_rows_say_so(rows, forest, curve, gap, tmp_path):
    ledger = write_ledger(tmp_path, rows) if rows else Ledger(tmp_path)
    for chart, expected in (
        (plots.forest(ledger, "hinton_kd", COMPARED), forest),
        (plots.temperature_curve(ledger), curve),
        (plots.gap(ledger), gap),
        (plots.learning_curves(ledger.rows(), "loss"), ["no rows with a curve named loss"]),
    ):
        assert [text for axes in chart.axes for text in written(axes)] == expected
        assert chart._repr_png_()[:4] == b"\x89PNG"


def test_figures_are_readable_on_any_page(ledger):
    for chart in (
        plots.forest(ledger, "hinton_kd", COMPARED),
        plots.temperature_curve(ledger),
        plots.gap(ledger),
    ):
        assert_readable(chart)


def test_colours_can_be_told_apart_without_colour_vision():
    # Luminance after the Machado et al. (2009) matrix for deuteranopia, between any two colours of the cycle.
    matrix = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    seen = np.array([matrix @ np.array(to_rgb(colour)) for colour in CYCLE[:4]])
    distances = [np.linalg.norm(a - b) for place, a in enumerate(seen) for b in seen[place + 1 :]]
    assert min(distances) > 0.15
