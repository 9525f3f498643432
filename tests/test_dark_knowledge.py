"""Tests of the figure of softened probabilities and of the temperature slider."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chart_texts import texts

from kdrepro import plots
from kdrepro.exhibits.digits import softened


@pytest.fixture
def digits():
    chance = np.random.default_rng(0)
    labels = np.array([1, 7, 9])
    logits = chance.normal(size=(3, 10))
    logits[np.arange(3), labels] += 6
    return chance.random((3, 28, 28)), logits, labels


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
    with pytest.raises((ValueError, TypeError), match=message):
        plots.dark_knowledge(**arguments)
    start = arguments.pop("temperature")
    with pytest.raises((ValueError, TypeError), match=message):
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
    for each, label in zip(bars, (1, 7, 9), strict=True):
        assert each["aria-label"].startswith(f"label {label}; probabilities: class ")
    # Not by its colour alone.
    assert re.findall(r"<b><u>(\d)</u></b>", plots.temperature_slider(*digits)) == ["1", "7", "9"]
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
def test_the_slider_moves_the_bars_by_keyboard(digits, tmp_path, chromium):
    playwright = pytest.importorskip("playwright.sync_api")
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
