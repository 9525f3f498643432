"""The figure of the generations and what is said of them, whichever rows are there."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from born_again_rows import PROTOCOLS, all_born_again_rows, born_again_rows
from chart_texts import assert_readable, texts
from recorded_rows import write_ledger
from scipy import stats

from kdrepro.claims import paper
from kdrepro.exhibits import generations
from kdrepro.exhibits.generations import (
    FAMILIES,
    answer,
    by_generation,
    generation_arms,
    short_schedule,
    steps,
)
from kdrepro.ledger import Ledger
from kdrepro.plots import forest
from kdrepro.recipes.born_again import ARMS
from kdrepro.verdicts import judge

METRICS = ("test_error_rate", "train_accuracy", "teacher_agreement", "test_nll", "test_ece")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return write_ledger(tmp_path_factory.mktemp("rows"), all_born_again_rows())


def values(ledger: Ledger, arm: str, metric: str) -> list[float]:
    return [row.metrics[metric] for row in ledger.rows(arm=arm) if metric in row.metrics]


def test_the_families_are_those_of_the_recipe():
    for prefix, family in FAMILIES.items():
        arms = generation_arms(prefix, family.generations)
        assert set(arms) <= set(ARMS)
        assert f"{prefix}ban{family.generations + 1}" not in ARMS
        assert all(family.protocol in ARMS[arm].protocols for arm in arms)
        for teacher, student in itertools.pairwise(arms):
            assert list(ARMS[student].needs(0)) == [(teacher, 0)]


@pytest.mark.parametrize("prefix", list(FAMILIES))
def test_each_panel_has_means_bands_and_a_line_for_every_seed(ledger, prefix):
    count = 3 if prefix == "" else 20
    chart = by_generation(ledger, prefix, protocol=PROTOCOLS[prefix])
    arms = generation_arms(prefix, FAMILIES[prefix].generations)
    for axes, metric in zip(chart.axes[:5], METRICS, strict=True):
        bold = next(line for line in axes.lines if str(line.get_label()).startswith("generations"))
        assert bold.get_label() == f"generations, {count} seeds"
        own = arms[1:] if metric == "teacher_agreement" else arms
        assert list(bold.get_xdata()) == [arms.index(arm) for arm in own]
        means = [np.mean(values(ledger, arm, metric)) for arm in own]
        assert list(bold.get_ydata()) == pytest.approx(means)
        assert len([line for line in axes.lines if line.get_linewidth() < 1]) == count
        corners = axes.collections[0].get_paths()[0].vertices
        some = values(ledger, own[-1], metric)
        low, high = stats.t.interval(0.95, len(some) - 1, np.mean(some), stats.sem(some))
        at_end = corners[corners[:, 0] == len(arms) - 1, 1]
        assert (at_end.min(), at_end.max()) == pytest.approx((low, high))
    assert_readable(chart)


def test_beside_the_generations_stand_the_labels_once_more_and_the_ensembles(ledger):
    chart = by_generation(ledger)
    assert {"retrained on labels", "born-again nets averaged"} <= set(texts(chart))
    marked = {
        marker: [
            (round(float(line.get_xdata()[0])), float(line.get_ydata()[0]))
            for line in chart.axes[0].lines
            if line.get_marker() == marker
        ]
        for marker in ("s", "^")
    }
    expected = {
        arm: np.mean(values(ledger, f"few_{arm}", "test_error_rate")) for arm in ("again", "ens2", "ens3")
    }
    assert marked["s"] == [(1, pytest.approx(expected["again"]))]
    assert marked["^"] == [(2, pytest.approx(expected["ens2"])), (3, pytest.approx(expected["ens3"]))]
    # Neither has a teacher to agree with.
    assert all(line.get_marker() not in ("s", "^") for line in chart.axes[2].lines)


@pytest.mark.parametrize(
    "kept", [(), ("few_teacher",), ("few_ban2",), ("few_again",), ("few_teacher", "few_ban1")]
)
@pytest.mark.parametrize("seeds", [1, 2])
def test_few_or_no_rows(tmp_path, kept, seeds):
    ledger = write_ledger(tmp_path, [row for row in born_again_rows(seeds=seeds) if row.arm in kept])
    chart = by_generation(ledger)
    assert chart._repr_png_()[:4] == b"\x89PNG"
    said = "not run at\nprotocol paper" in texts(chart)
    assert said == (not {"few_ban1", "few_ban2"} & set(kept))
    if "few_teacher" in kept:
        label = "generations, 1 seed" if seeds == 1 else "generations, 2 seeds"
        assert label in texts(chart)
    missing = ("CIFAR-10 in a short schedule", "MNIST", "the embedded digits")
    assert answer(ledger) == f"Not enough runs are recorded yet on {' and on '.join(missing)}."


def test_seeds_that_are_not_all_there_are_counted(tmp_path):
    rows = [row for row in born_again_rows(seeds=4) if not (row.arm == "few_ban5" and row.seed > 1)]
    assert "generations, 2 to 4 seeds" in texts(by_generation(write_ledger(tmp_path, rows)))


def test_no_panel_reaches_below_nothing(tmp_path):
    rows = born_again_rows("", seeds=2, spread=20.0)
    chart = by_generation(write_ledger(tmp_path, rows), "", protocol="reduced")
    bands = [axes.collections[0].get_paths()[0].vertices for axes in chart.axes[:5]]
    assert any(band[:, 1].min() < 0 for band in bands)
    assert all(axes.get_ylim()[0] >= 0 for axes in chart.axes[:5])


def test_a_demonstration_is_drawn_from_its_own_rows(tmp_path):
    ledger = write_ledger(tmp_path, born_again_rows(seeds=2, protocol="quick"))
    assert "generations, 2 seeds" in texts(by_generation(ledger, protocol="quick"))
    assert "not run at\nprotocol paper" in texts(by_generation(ledger))


def test_the_steps_are_each_generation_minus_the_one_before(ledger):
    named = steps("few_", 5)
    assert named["generation 1 − its teacher"] == ("few_ban1", "few_teacher")
    assert named["generation 3 − 2"] == ("few_ban3", "few_ban2")
    assert named["generation 5 − 1"] == ("few_ban5", "few_ban1")
    assert len(named) == 6
    words = texts(forest(ledger, "born_again", named))
    assert len([each for each in words if each.endswith("n = 20")]) == 6


def test_where_nothing_is_known_of_the_spread_there_is_no_band(tmp_path):
    rows = [row for row in born_again_rows() if row.arm != "few_ban2" or row.seed == 0]
    chart = by_generation(write_ledger(tmp_path, rows))
    (band, *_) = chart.axes[0].collections
    at_two = {tuple(point) for path in band.get_paths() for point in path.vertices if point[0] == 2}
    assert not at_two


# The answer.


def test_the_answer_names_the_verdicts_of_each_data(ledger):
    pictures, mnist, few = answer(ledger).split("\n\n")
    for text, where in ((few, "the embedded digits"), (mnist, "MNIST")):
        assert text.startswith(f"**On {where}** the first born-again generation makes fewer errors")
        assert (
            "Of 4 further generations, each against the one before: 2 with fewer errors, 2 with more errors"
            in text
        )
        assert "So it has turned, as Mobahi et al. say that it must." in text
        assert re.search(
            r"In \d+ of 20 seeds the last gets fewer of the (60,000|4,000) training digits right than the first, by "
            r"\d+ to \d+: the direction that Mobahi et al. derive; it shows no more than that",
            text,
        )
    assert pictures.startswith(
        "**On CIFAR-10 in a short schedule** the first born-again generation makes fewer"
    )
    assert "Mobahi" not in pictures
    right, wrong = (
        100 * np.mean(values(ledger, "teacher", name)) for name in ("train_accuracy", "test_error_rate")
    )
    assert pictures.endswith(
        f"the teachers get {right:.0f} % of their training pictures right, and make {wrong:.1f} % test errors where "
        "the paper's smallest net makes 6.69."
    )


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ({"ban1": 51.0}, "and retraining on the labels cannot be told apart"),
        ({"ban1": 60.0}, "makes more errors than retraining on the labels"),
        ({"ban5": 30.0}, "The last still makes fewer errors than the first."),
        ({"ban5": 30.0}, "gets more of the 4,000 training digits right than the first, by "),
        ({"ban5": 46.0}, "Whether the last is worse than the first, these runs do not decide"),
        ({"ban4": 0.0}, "2 with fewer errors, 2 not run yet"),
    ],
)
def test_the_answer_follows_the_rows(tmp_path, levels, says):
    assert says in answer(write_ledger(tmp_path, born_again_rows(spread=1.5, **levels)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([0], "In each of 20 seeds the first and the last get equally many training digits right."),
        ([-1], "In 20 of 20 seeds the last gets fewer of the 4,000 digits, by 1: the direction"),
        ([-1, -2, -1, 0], "In 15 of 20 seeds the last gets fewer of the 4,000 digits, by 1 to 2:"),
        ([2, 1], "In 20 of 20 seeds the last gets more of the 4,000 digits, by 1 to 2: against"),
        ([-3, 1], "digits, by 3, and in 10 more, by 1: "),
    ],
)  # fmt: skip
def test_training_digits_are_counted_seed_by_seed(tmp_path, changes, says):
    rows = [row for row in born_again_rows() if row.arm in ("few_ban1", "few_ban5")]
    for row in rows:
        change = changes[row.seed % len(changes)] if row.arm == "few_ban5" else 0
        row.metrics["train_accuracy"] = (3990 + change) / 4000
    ledger = write_ledger(tmp_path, rows)
    told = generations._fits(judge(paper("furlanello2018").claim("E6a"), rows), ledger)
    assert says in told.replace("training digits right than the first", "digits")


def test_nets_that_fit_all_of_their_data_are_told(tmp_path):
    rows = [row for row in born_again_rows() if row.arm in ("few_ban1", "few_ban5")]
    for row in rows:
        row.metrics["train_accuracy"] = 1.0
    told = generations._fits(judge(paper("furlanello2018").claim("E6a"), rows), write_ledger(tmp_path, rows))
    assert told == "In each of 20 seeds the first and the last get all training digits right."


def test_one_digit_does_not_fill_the_axis_of_the_training_data(tmp_path):
    rows = [row for row in born_again_rows("mnist_", seeds=2) if row.arm in ("mnist_teacher", "mnist_ban1")]
    for row in rows:
        row.metrics["train_accuracy"] = 1 - (row.arm == "mnist_ban1") / 60_000
    axes = by_generation(write_ledger(tmp_path, rows), "mnist_").axes[1]
    low, high = axes.get_ylim()
    assert low < 1 < high
    assert high - low >= 0.001


def test_what_was_never_better_has_not_turned(tmp_path):
    worse = {f"ban{count}": 60.0 + 5 * count for count in range(1, 6)}
    text = answer(write_ledger(tmp_path, born_again_rows(spread=0.5, teacher=50.0, again=50.0, **worse)))
    assert "The last makes more errors than the first." in text
    assert "turned" not in text
    # Better than retraining on the labels, which taught nobody, and worse than its teacher.
    worse = {f"ban{count}": 60.0 + 5 * count for count in range(1, 6)}
    text = answer(
        write_ledger(tmp_path / "b", born_again_rows(spread=0.5, teacher=50.0, again=75.0, **worse))
    )
    assert "makes fewer errors than retraining on the labels" in text
    assert "turned" not in text


@pytest.mark.parametrize(
    ("levels", "parts"),
    [
        ({}, []),
        ({"ban1": 60.0, "ban_l": 70.0}, ["worse than one with the labels (S1a). These runs do not prove it"]),
        ({"ban1": 60.0}, ["(S1a), and that one with labels and teacher", "goes with it (S4). These runs"]),
    ],
)
def test_the_short_schedule_is_blamed_only_where_the_teacher_alone_does_worse(tmp_path, levels, parts):
    rows = born_again_rows("", seeds=3, **levels)
    text = short_schedule(write_ledger(tmp_path, rows))
    right = np.mean([row.metrics["train_accuracy"] for row in rows if row.arm == "teacher"])
    assert f"the teachers (3 seeds) get {100 * right:.1f} % of their own training pictures right" in text
    assert f"Of the other {100 * (1 - right):.1f} % they say something wrong" in text
    assert all(part in text for part in parts)
    assert ("do not prove" in text) == bool(parts)


def test_without_pictures_nothing_is_said_of_the_short_schedule(tmp_path):
    assert short_schedule(write_ledger(tmp_path, born_again_rows("few_"))) == "Not run yet."
    one = [row for row in born_again_rows("", seeds=1, ban1=60.0) if row.arm == "teacher"]
    assert "the teachers (1 seed) get" in short_schedule(write_ledger(tmp_path / "one", one))


def test_the_answer_rests_on_claims_that_ask_for_it():
    claims = paper("furlanello2018")
    for _, first, later, last in generations._CLAIMS:
        for name in (first, *later):
            (comparison,) = claims.claim(name).comparisons
            assert comparison.lower.arms[0].rpartition("ban")[2].isdigit()
        assert claims.claim(first).comparisons[0].higher.arms[0].endswith("again")
        if last:
            # The claim is that it has turned: the first makes fewer errors than the last.
            (comparison,) = claims.claim(last[0]).comparisons
            assert (comparison.lower.arms[0][-4:], comparison.higher.arms[0][-4:]) == ("ban1", "ban5")
            assert claims.claim(last[1]).metric == "train_accuracy"
    for sentences in (generations._FIRST, generations._LAST, generations._FIT):
        assert set(sentences) == {"reproduced", "contradicted", "inconclusive"}


def test_a_share_that_never_changes_is_drawn_below_one(tmp_path):
    rows = [
        row
        for row in born_again_rows(seeds=2)
        if row.arm in ("few_teacher", "few_ban1") and row.metrics.update(train_accuracy=1.0) is None
    ]
    axes = by_generation(write_ledger(tmp_path, rows)).axes[1]
    low, high = axes.get_ylim()
    assert 0.98 < low < 1 < high < 1.01
    assert generations._percent(0.985, None) == "98.5 %"
    assert generations._percent(1.005, None) == ""
