"""Tests of the figures and of the temperature slider."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chart_texts import assert_readable, texts
from matplotlib.colors import to_rgb
from recorded_rows import hinton_rows, make_row, make_rows, teacher_run, write_ledger
from scipy import stats

from kdrepro import plots
from kdrepro.exhibits.charts import CYCLE
from kdrepro.exhibits.digits import softened
from kdrepro.ledger import Ledger


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return write_ledger(tmp_path_factory.mktemp("rows"), hinton_rows())


@pytest.fixture
def empty(tmp_path):
    return Ledger(tmp_path / "none")


@pytest.fixture
def digits():
    chance = np.random.default_rng(0)
    labels = np.array([1, 7, 9])
    logits = chance.normal(size=(3, 10))
    logits[np.arange(3), labels] += 6
    return chance.random((3, 28, 28)), logits, labels


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


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [make_row("teacher", 0, 66.0)],
        [make_row("soft_targets_T20", 0, 80.0, teacher=teacher_run(0)), make_row("student_alone", 0, 140.0)],
        [
            make_row("units30_T3", 0, 500.0),
            make_row("units300_alone", 0, 190.0),
            make_row("units30_T3", 1, 500.0),
        ],
    ],
)
def test_figures_of_few_or_no_rows_say_so(tmp_path, rows):
    ledger = write_ledger(tmp_path, rows) if rows else Ledger(tmp_path)
    charts = [
        plots.forest(ledger, "hinton_kd", COMPARED),
        plots.temperature_curve(ledger),
        plots.gap(ledger),
        plots.learning_curves(ledger.rows(), "loss"),
    ]
    for chart in charts:
        assert any(
            word in text for text in texts(chart) for word in ("not run", "no rows", "n = ", "soft targets")
        )
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


# Dark knowledge


def test_dark_knowledge_draws_the_softened_probabilities(digits):
    images, logits, labels = digits
    chart = plots.dark_knowledge(images, logits, labels, 5.0)
    grid = np.array(chart.axes).reshape(3, 3)
    for place in range(3):
        for axes, temperature in ((grid[place, 1], 1.0), (grid[place, 2], 5.0)):
            heights = [bar.get_height() for bar in axes.patches]
            powers = [math.exp(value / temperature) for value in logits[place]]
            assert heights == pytest.approx([power / sum(powers) for power in powers])
        colours = [bar.get_facecolor() for bar in grid[place, 1].patches]
        assert colours.count(colours[labels[place]]) == 1
    assert "probabilities at T = 5" in texts(chart)


def test_confident_logits_do_not_overflow():
    assert softened(np.array([1e4, 0.0]), 1.0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("shape", [(3, 784), (3, 1, 28, 28)])
def test_images_may_be_flat_or_have_a_channel(digits, shape):
    images, logits, labels = digits
    flat = plots.temperature_slider(images.reshape(shape), logits, labels)
    assert pictures(flat) == pictures(plots.temperature_slider(images, logits, labels))


class Tensor:
    """As much of a tensor as the figures touch."""

    def __init__(self, values):
        self.values = values

    def detach(self):
        return self

    def cpu(self):
        return self

    def is_floating_point(self):
        return self.values.dtype.kind == "f"

    def float(self):
        return self

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype=dtype)


def test_tensors_are_taken_off_their_device(digits):
    chart = plots.dark_knowledge(*(Tensor(each) for each in digits), 2.0)
    assert len(chart.axes) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature: got 0.0, expected a finite number above 0"),
        ({"temperature": float("nan")}, "temperature: got nan"),
        ({"temperature": "hot"}, "temperature: got 'hot'"),
        ({"logits": np.zeros(10)}, r"logits: got shape \(10,\)"),
        ({"logits": np.full((3, 10), np.nan)}, "logits: got shape"),
        ({"logits": "abc"}, "logits: got str, expected an array of numbers"),
        ({"images": np.zeros((2, 28, 28))}, r"images: got shape \(2, 28, 28\), expected 3"),
        ({"images": np.zeros((3, 3, 28, 28))}, r"images: got shape \(3, 3, 28, 28\)"),
        ({"images": np.zeros((3, 700))}, r"images: got shape \(3, 700\)"),
        ({"labels": [1, 2]}, "labels: got"),
        ({"labels": [1, 2, 10]}, "labels: got .*, expected 3 classes from 0 to 9"),
        ({"labels": [1, 2, 0.5]}, "labels: got"),
    ],
)
def test_what_does_not_fit_is_named(digits, change, message):
    arguments = dict(zip(("images", "logits", "labels"), digits, strict=True)) | {"temperature": 2.0} | change
    with pytest.raises(ValueError, match=message):
        plots.dark_knowledge(**arguments)
    start = arguments.pop("temperature")
    with pytest.raises(ValueError, match=message):
        plots.temperature_slider(**arguments, start=start)


# The slider


class Page(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.tags = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def every(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def pictures(html):
    return [each["src"] for each in Page(html).every("img")]


def test_the_slider_holds_all_it_needs(digits):
    html = plots.temperature_slider(*digits, start=4.0)
    page = Page(html)
    assert not re.search(r"https?:|src=\"(?!data:)|@import|url\(|\bfetch\b|XMLHttpRequest", html)
    assert all(src.startswith("data:image/png;base64,") for src in pictures(html))
    assert len(pictures(html)) == 3
    slider = next(each for each in page.every("input") if each["type"] == "range")
    assert (slider["min"], slider["max"], slider["value"]) == ("1", "30", "4")
    assert not [each for each in page.every("script") if each]
    assert html._repr_html_() == html


def test_the_slider_is_labelled_for_everybody(digits):
    page = Page(plots.temperature_slider(*digits))
    fields = {each["id"] for each in page.every("input")}
    assert {each["for"] for each in page.every("label")} == fields
    assert len(fields) == 2
    assert [each["alt"] for each in page.every("img")] == [f"a digit labelled {label}" for label in (1, 7, 9)]
    bars = [each for each in page.every("div") if each.get("role") == "img"]
    assert all(each["aria-label"].startswith("probabilities: class ") for each in bars)
    assert page.every("output")[0]["aria-live"] == "polite"
    colours = re.findall(r"[;{](?:color|background):([^;}]+)", plots.temperature_slider(*digits))
    assert "currentColor" in colours
    assert "#000" not in colours


def test_two_sliders_share_no_id(digits):
    both = plots.temperature_slider(*digits) + plots.temperature_slider(*digits)
    ids = [attributes["id"] for _, attributes in Page(both).tags if "id" in attributes]
    assert len(ids) == len(set(ids)) == 6


def test_without_scripts_the_bars_stand_at_the_start(digits):
    _, logits, _ = digits
    html = plots.temperature_slider(*digits, start=6.0)
    heights = [float(value) for value in re.findall(r"<i style=\"height:([0-9.]+)%\"", html)]
    assert heights == pytest.approx((86 * softened(logits, 6.0)).ravel().tolist(), abs=0.006)
    assert json.loads(re.search(r"logits=(\[\[.*?\]\])", html)[1]) == np.round(logits, 3).tolist()


@pytest.mark.parametrize("start", [0.5, 31.0])
def test_the_slider_starts_within_its_range(digits, start):
    with pytest.raises(ValueError, match=f"start: got {start}, expected a temperature from 1 to 30"):
        plots.temperature_slider(*digits, start=start)


@pytest.mark.browser
def test_the_slider_moves_the_bars_by_keyboard(digits, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(
        (found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))), None
    )
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    _, logits, _ = digits
    file = Path(tmp_path / "page.html")
    both = plots.temperature_slider(*digits) + plots.temperature_slider(*digits, start=20.0)
    file.write_text("<!doctype html><meta charset='utf-8'>" + both, encoding="utf-8")
    errors = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(file.as_uri())
        heights = "() => [...document.querySelectorAll('.bars')].map(b => [...b.children].map(c => "
        heights += "parseFloat(c.firstChild.style.height)))"
        before = np.array(page.evaluate(heights))
        page.get_by_label("Temperature", exact=True).first.focus()
        page.keyboard.press("End")
        after = np.array(page.evaluate(heights))
        page.get_by_label("logarithmic height").first.check()
        logarithmic = np.array(page.evaluate(heights))
        browser.close()
    assert errors == []
    assert before[:3] == pytest.approx(86 * softened(logits.round(3), 1.0), abs=0.01)
    assert after[:3] == pytest.approx(86 * softened(logits.round(3), 30.0), abs=0.01)
    assert after[3:] == pytest.approx(before[3:])
    assert logarithmic[:3] == pytest.approx(
        86 * (1 + np.log10(softened(logits.round(3), 30.0)) / 8), abs=0.01
    )
