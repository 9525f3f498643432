"""The figures of the chapter on FitNets, whichever rows are there."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from chart_texts import assert_readable, texts
from recorded_rows import make_row, make_rows, write_ledger
from scipy import stats

from kdrepro import plots
from kdrepro.exhibits import thin_nets
from kdrepro.exhibits.bars import Column, bars
from kdrepro.ledger import Ledger, Row
from kdrepro.recipes import fitnets


def row(arm: str, seed: int, rate: float, **changes) -> Row:
    metrics = {"test_error_rate": rate, "valid_error_rate": rate}
    metrics |= changes.pop("metrics", {})
    settings = {"recipe": "fitnets", "protocol": "paper", "metrics": metrics}
    return make_row(arm, seed, round(1e4 * rate), **(settings | changes))


def curve(flat: int, chance: random.Random) -> list[float]:
    """Errors that stay at a guess for so many epochs and then fall."""
    return [0.9] * flat + [
        0.8 * math.exp(-epoch / 3) * 0.6 + abs(chance.gauss(0, 0.004)) for epoch in range(40)
    ]


def fitnets_rows() -> list[Row]:
    """MNIST as the paper has it and CIFAR by depth, with a spread."""
    chance, rows = random.Random(0), []
    digits = {
        "teacher": (0.0055, 2),
        "student_alone": (0.0110, 13),
        "kd": (0.0080, 10),
        "fitnet": (0.0070, 0),
        "fitnet_joint": (0.0095, 6),
    }
    for arm, (rate, flat) in digits.items():
        for seed in range(3):
            curves = {"validation": curve(flat + seed * (flat > 0), chance), "loss": [1.0] * 40}
            settings = {"best_epoch": 30 + seed, "epochs_run": 41 + flat}
            metrics = {}
            if arm == "fitnet":
                distances = [280 * math.exp(-epoch / 8) + 40 for epoch in range(60 + seed)]
                curves["hint_stage/validation"] = distances
                metrics = {"hint_distance": 40.0 + 10 * seed, "hint_distance_blind": 250.0}
                metrics["hint_distance_after"] = 2 * metrics["hint_distance"]
                settings["hint_epochs_run"] = 60 + seed
            errors = rate + chance.gauss(0, 3e-4)
            rows.append(row(arm, seed, errors, curves=curves, config=settings, metrics=metrics))
    depths = {"alone": (0.35, 0.9, 0.9, 0.9), "kd": (0.3, 0.32, 0.7, 0.9), "hint": (0.28, 0.26, 0.25, 0.24)}
    depths |= {"joint": (0.29, 0.31), "joint_labels": (0.3, 0.33)}
    for kind, rates in depths.items():
        for depth, rate in zip(thin_nets.KINDS[kind].depths, rates, strict=True):
            for seed in range(3):
                rows.append(
                    row(f"depth{depth}_{kind}", seed, rate + chance.gauss(0, 0.02), protocol="reduced")
                )
    rows.append(row("cifar_teacher", 0, 0.2, protocol="reduced"))
    return rows


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    return write_ledger(tmp_path_factory.mktemp("rows"), fitnets_rows())


def some(folder, *kept: str) -> Ledger:
    rows = [each for each in fitnets_rows() if each.arm in kept]
    return write_ledger(folder, rows) if rows else Ledger(folder)


def solid(axes, colour: str) -> list:
    return [line for line in axes.lines if line.get_color() == colour and line.get_linestyle() == "-"]


# How long nothing is learned.


@pytest.mark.parametrize(
    ("errors", "expected"),
    [([0.9, 0.9, 0.4, 0.9], 2), ([0.1], 0), ([0.9, 0.5], None), ([], None), ([0.9, math.nan, 0.2], 2)],
)
def test_a_plateau_ends_where_more_than_half_are_right(errors, expected):
    assert thin_nets.plateau(errors) == expected


def test_every_run_is_a_line_and_the_legend_counts_its_plateau(ledger):
    left, right = thin_nets.plateau_curves(ledger).axes
    for arm, (name, colour) in thin_nets.ARMS.items():
        own = [each for each in ledger.rows(arm=arm) if "validation" in each.curves]
        lines = solid(left, colour)
        assert [list(line.get_ydata()) for line in lines] == [each.curves["validation"] for each in own]
        assert all(line.get_xdata()[0] == 1 for line in lines)
        labels = [text for text in texts(left.figure) if text.startswith(name.replace("\n", " ") + ":")]
        assert len(labels) == bool(own), arm
    assert "labels alone: 13 to 15" in texts(left.figure)
    assert "hint, then soft targets: 0" in texts(left.figure)
    assert left.get_xlim()[1] > 2 * 15
    own = solid(right, thin_nets.ARMS["fitnet"][1])
    assert [len(line.get_ydata()) for line in own] == [60, 61, 62]
    first = ledger.rows(arm="fitnet")[0].curves["hint_stage/validation"]
    assert list(own[0].get_ydata()) == pytest.approx([value / 250 for value in first])


def test_nets_by_depth_have_names_and_the_deepest_dashed_lines(tmp_path):
    arms = ["depth5_kd", "depth11_kd", "depth11_hint"]
    rows = [
        row(arm, 0, 0.3, protocol="reduced", curves={"validation": [0.9, rate]})
        for arm, rate in zip(arms, (0.3, 0.9, 0.4), strict=True)
    ]
    chart = thin_nets.plateau_curves(
        write_ledger(tmp_path, rows), arms, protocol="reduced", examples="pictures"
    )
    drawn = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in chart.axes[0].lines}
    assert drawn["5 layers, soft targets: 1"] == (thin_nets.KINDS["kd"].colour, "-")
    assert drawn["11 layers, soft targets: never"] == (thin_nets.KINDS["kd"].colour, "--")
    assert drawn["11 layers, a hint first: 1"] == (thin_nets.KINDS["hint"].colour, "--")
    assert chart.axes[0].get_ylabel() == "errors on the held-out pictures"


def test_a_run_that_never_learns_is_counted(tmp_path):
    curves = [[0.9] * 6, [0.9, 0.9, 0.3]]
    rows = [row("kd", seed, 0.9, curves={"validation": each}) for seed, each in enumerate(curves)]
    ledger = write_ledger(tmp_path, rows)
    assert "soft targets: 2, never in 1 of 2 runs" in texts(thin_nets.plateau_curves(ledger))
    (record,) = thin_nets.plateau_table(ledger, ["kd"]).to_dict("records")
    assert record["Before half are right"] == "2, never in 1 of 2 runs"


def test_an_arm_that_never_learns_says_so(tmp_path):
    ledger = write_ledger(tmp_path, [row("kd", 0, 0.9, curves={"validation": [0.9] * 30})])
    chart = thin_nets.plateau_curves(ledger)
    assert "soft targets: never" in texts(chart)
    # There is no plateau to show twice of: the axis ends with the training.
    assert chart.axes[0].get_xlim()[1] == 30.5


def test_the_table_counts_epochs_from_1(ledger):
    table = thin_nets.plateau_table(ledger).set_index("Arm")
    assert list(table.index) == list(thin_nets.ARMS)
    half = stats.t.ppf(0.975, 2) / 3**0.5
    assert table.at["fitnet", "Hint stage"] == f"61.0 ± {half:.1f}"
    assert table.at["fitnet", "Best weights at"] == f"32.0 ± {half:.1f}"
    assert table.at["fitnet", "Before half are right"] == "0"
    assert table.at["student_alone", "Before half are right"] == "13 to 15"
    assert table.at["student_alone", "Hint stage"] == "–"
    # 16, 20 and 24 percent of what a student reaches that sees nothing.
    assert table.at["fitnet", "Hint left, %"] == f"20.0 ± {4 * half:.1f}"
    assert table.at["fitnet", "In the end, %"] == "32 to 48"
    assert table.at["student_alone", "Hint left, %"] == "–"
    assert table.at["student_alone", "Runs"] == 3
    assert table.loc["fitnet_code"].tolist() == ["not run"] * 6 + [0]


# The headline.


def test_the_headline_has_a_bar_for_each_arm_in_percent(ledger):
    axes = thin_nets.headline(ledger).axes[0]
    arms = [arm for arm in thin_nets.ARMS if arm != "fitnet_code"]
    means = [
        100 * np.mean([each.metrics["test_error_rate"] for each in ledger.rows(arm=arm)]) for arm in arms
    ]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(means)
    diamonds = [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "D"]
    assert diamonds == [0.55, 1.9, 0.65, 0.51]
    assert len([text for text in texts(axes.figure) if text.endswith("n = 3")]) == len(arms)


def test_the_bars_have_the_interval_of_their_runs(tmp_path):
    values = [100.0, 110.0, 95.0]
    ledger = write_ledger(tmp_path, make_rows("a", values))
    axes = bars(ledger, "hinton_kd", [Column("A", "a", "black", 70.0), Column("B", "b", "red")]).axes[0]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    (segment,) = axes.containers[1].lines[2][0].get_segments()
    assert segment[:, 1] == pytest.approx([low, high])
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in dots] == [values]
    assert "not run" in texts(axes.figure)


def test_a_demonstration_is_not_set_beside_the_paper(tmp_path):
    rows = [row("kd", 0, 0.05, protocol="quick", curves={"validation": [0.3, 0.1]})]
    rows += [row("depth5_kd", 0, 0.05, protocol="quick")]
    ledger = write_ledger(tmp_path, rows)
    for draw in (thin_nets.headline, thin_nets.depth_curve):
        chart = draw(ledger, protocol="quick")
        assert not [text for text in texts(chart) if "paper" in text]
        assert not [line for line in chart.axes[0].lines if line.get_marker() == "D"]


# Depth.


def test_the_students_of_the_depth_study_are_arms_of_the_recipe():
    depth = [arm for arm in fitnets.RECIPE.arms if arm.startswith("depth")]
    assert sorted(thin_nets.depth_arms()) == sorted(depth)
    assert thin_nets.depth_arms([7]) == ["depth7_alone", "depth7_kd", "depth7_hint"]


def test_errors_by_depth_are_means_with_intervals_and_every_run(ledger):
    axes = thin_nets.depth_curve(ledger).axes[0]
    for kind, (name, _, _, depths) in thin_nets.KINDS.items():
        line = next(each for each in axes.lines if each.get_label() == name)
        runs = [
            [each.metrics["test_error_rate"] for each in ledger.rows(arm=f"depth{depth}_{kind}")]
            for depth in depths
        ]
        assert [round(place) for place in line.get_xdata()] == list(thin_nets.DEPTHS)
        drawn = line.get_ydata()[np.isin(thin_nets.DEPTHS, depths)]
        assert list(drawn) == pytest.approx([np.mean(each) for each in runs])
        assert np.isfinite(line.get_ydata()).sum() == len(depths)
        drawn = [
            list(each.get_ydata()) for each in axes.lines if each.get_marker() == "o" and each is not line
        ]
        assert all(each in drawn for each in runs)
    teacher = next(each for each in axes.lines if each.get_label() == "teacher")
    assert teacher.get_ydata()[0] == pytest.approx(0.2)
    assert len(axes.containers) == 16


def test_the_papers_depths_are_shown_and_go_beyond_the_figure_where_it_does(ledger):
    axes = thin_nets.depth_curve(ledger).axes[0]
    ends = {line.get_color(): line.get_xdata()[1] for line in axes.lines if line.get_linewidth() == 6}
    told = [kind for kind in thin_nets.KINDS.values() if kind.deepest is not None]
    assert ends == {kind.colour: min(kind.deepest + 0.15, 12.9) for kind in told}
    assert not {thin_nets.KINDS[kind].colour for kind in ("joint", "joint_labels")} & set(ends)
    assert "to 13" in texts(axes.figure)


def test_missing_depths_are_left_out(tmp_path):
    axes = thin_nets.depth_curve(some(tmp_path, "depth5_kd", "depth11_kd", "depth9_hint")).axes[0]
    lines = {
        line.get_label(): [
            round(x) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True) if np.isfinite(y)
        ]
        for line in axes.lines
    }
    assert (lines["soft targets"], lines["a hint first"]) == ([5, 11], [9])
    # No line leads from 5 to 11 across depths that were not run.
    (soft,) = (line for line in axes.lines if line.get_label() == "soft targets")
    assert np.isnan(soft.get_ydata()[1:3]).all()
    assert not {"labels alone", "teacher"} & set(lines)


# Any subset of the rows.


@pytest.mark.parametrize(
    "kept",
    [
        (),
        ("teacher",),
        ("student_alone", "kd"),
        ("fitnet",),
        ("depth7_alone",),
        ("cifar_teacher",),
        ("teacher", "fitnet_joint", "depth5_hint"),
    ],
)
def test_figures_of_few_or_no_rows_can_be_drawn_and_say_so(tmp_path, kept):
    ledger = some(tmp_path, *kept)
    charts = [
        thin_nets.headline(ledger),
        thin_nets.plateau_curves(ledger),
        thin_nets.depth_curve(ledger),
        plots.forest(ledger, "fitnets", [("fitnet", "kd")]),
    ]
    for chart in charts:
        assert chart._repr_png_()[:4] == b"\x89PNG"
    assert "not run" in texts(charts[0])
    if not kept:
        assert all(any("not run" in text or "no hint" in text for text in texts(chart)) for chart in charts)


def test_uncommitted_rows_are_not_shown(tmp_path):
    dirty = [row("kd", 0, 0.01, dirty=True, curves={"validation": [0.9, 0.1]})]
    dirty += [row("depth5_kd", 0, 0.3, protocol="reduced", dirty=True)]
    ledger = write_ledger(tmp_path, dirty)
    assert "not run at protocol paper" in texts(thin_nets.plateau_curves(ledger))
    assert "not run at protocol reduced" in texts(thin_nets.depth_curve(ledger))
    assert thin_nets.plateau_table(ledger, ["kd"]).at[0, "Epochs on classes"] == "not run"


def test_figures_are_on_white_cards_with_readable_letters(ledger):
    for draw in (thin_nets.headline, thin_nets.plateau_curves, thin_nets.depth_curve):
        assert_readable(draw(ledger))
