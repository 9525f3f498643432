"""What a teacher adds to the labels, and what smoothing does without one, whichever rows are there."""

from __future__ import annotations

import numpy as np
import pytest
from born_again_rows import PROTOCOLS, all_born_again_rows, born_again_row, born_again_rows
from chart_texts import assert_readable, texts
from recorded_rows import write_ledger

from kdrepro import tables
from kdrepro.claims import paper
from kdrepro.exhibits import softer_labels
from kdrepro.exhibits.softer_labels import TARGETS, against_again, answer, relative_gain, relative_gains
from kdrepro.recipes.born_again import ARMS


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return write_ledger(tmp_path_factory.mktemp("rows"), all_born_again_rows())


def diamonds(axes) -> list[tuple[float, float, bool]]:
    """Where they are, and whether they are filled."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]), line.get_markerfacecolor() != "white")
        for line in axes.lines
        if line.get_marker() == "D"
    ]


def test_the_targets_are_the_arms_of_the_first_generation():
    cohort = {name for name, arm in ARMS.items() if arm.cohort == "few_generation1"}
    assert {f"few_{arm}" for arm in TARGETS.values()} == cohort - {"few_again"}


@pytest.mark.parametrize("prefix", ["few_", "mnist_", ""])
def test_every_kind_is_paired_with_the_labels_once_more_in_three_metrics(ledger, prefix):
    chart = against_again(ledger, prefix, protocol=PROTOCOLS[prefix])
    for axes, metric in zip(chart.axes, ("test_errors", "test_nll", "test_ece"), strict=True):
        found = diamonds(axes)
        assert [place for _, place, _ in found] == list(range(5))
        for (mean, _, filled), arm in zip(found, TARGETS.values(), strict=True):
            rows = {
                name: {row.seed: row.metrics[metric] for row in ledger.rows(arm=f"{prefix}{name}")}
                for name in (arm, "again")
            }
            differences = [rows[arm][seed] - rows["again"][seed] for seed in rows[arm]]
            assert mean == pytest.approx(np.mean(differences))
            if arm == "smoothing":
                assert filled
                assert (mean < 0) == (metric == "test_errors")
    table = tables.paired_table(
        "born_again", ledger, [(f"{prefix}dkpp", f"{prefix}again")], protocol=PROTOCOLS[prefix]
    )
    assert diamonds(chart.axes[0])[3][0] == pytest.approx(float(table.at[0, "Mean"]), abs=0.01)
    assert_readable(chart)


def test_other_targets_can_be_added(tmp_path):
    rows = [*born_again_rows(seeds=2, protocol="quick")]
    rows += [born_again_row("few_", "twice", seed, 30 + seed, "quick") for seed in range(2)]
    chart = against_again(
        write_ledger(tmp_path, rows), targets=TARGETS | {"twice the step": "twice"}, protocol="quick"
    )
    assert len(diamonds(chart.axes[0])) == 6
    assert "twice the step" in texts(chart)


@pytest.mark.parametrize("kept", [(), ("again",), ("ban1",), ("again", "ban1"), ("again", "smoothing")])
@pytest.mark.parametrize("seeds", [1, 2])
def test_few_or_no_rows(tmp_path, kept, seeds):
    rows = [row for row in born_again_rows(seeds=seeds) if row.arm.removeprefix("few_") in kept]
    ledger = write_ledger(tmp_path, rows)
    charts = [against_again(ledger), relative_gains(ledger)]
    for chart in charts:
        assert chart._repr_png_()[:4] == b"\x89PNG"
    compared = len(kept) == 2
    assert ("not run at\nprotocol paper" in texts(charts[0])) != compared
    assert texts(charts[1]).count("not run") == (5 if compared else 6)
    assert answer(ledger).startswith(
        "Not enough runs are recorded yet on CIFAR-10 in a short schedule and on MNIST"
    )
    if compared and seeds == 1:
        assert any(each.endswith("n = 1") for each in texts(charts[1]))


def test_the_share_is_that_of_the_errors_of_the_labels_once_more(tmp_path):
    rows = [born_again_row("few_", "again", seed, 50 + seed) for seed in range(3)]
    rows += [born_again_row("few_", "ban1", seed, 40 + seed) for seed in range(3)]
    found = relative_gain(rows, "few_ban1", "few_again")
    assert found is not None
    interval, count = found
    assert (interval.mean, count) == (pytest.approx(30 / 153), 3)
    assert interval.low < 30 / 153 < interval.high
    assert relative_gain(rows, "few_dkpp", "few_again") is None
    none = [born_again_row("few_", arm, 0, 0.0) for arm in ("again", "ban1")]
    assert relative_gain(none, "few_ban1", "few_again") is None


def test_the_shares_of_all_data_stand_in_one_figure(ledger):
    chart = relative_gains(ledger)
    found = diamonds(chart.axes[0])
    assert len(found) == 6
    assert found[4][0] == pytest.approx(5 / 51, abs=0.02)
    assert found[5][0] == pytest.approx(11 / 51, abs=0.02)
    assert {"teacher alone (BAN)", "smoothed labels, no teacher"} <= set(texts(chart))
    assert_readable(chart)


# The answer.


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        (
            {},
            "On the embedded digits smoothed labels leave fewer errors than plain ones, and fewer than the teacher.",
        ),
        ({"smoothing": 49.0}, "fewer errors than plain ones, and the teacher fewer still."),
        ({"smoothing": 46.0}, "and whether fewer or more than the teacher, the runs do not decide."),
        ({"smoothing": 51.0}, "cannot be told apart, and the teacher leaves fewer than smoothing."),
        (
            {"smoothing": 51.0, "ban1": 56.0},
            "cannot be told apart, and the teacher leaves more than smoothing.",
        ),
        ({"smoothing": 51.0, "ban1": 51.0}, "cannot be told apart, nor can smoothing and the teacher."),
        (
            {"smoothing": 60.0, "ban1": 60.0},
            "leave more errors than plain ones, and smoothing and the teacher cannot be told apart.",
        ),
        (
            {"smoothing": 60.0},
            "leave more errors than plain ones, and the teacher leaves fewer than smoothing.",
        ),
    ],
)
def test_the_answer_follows_the_rows(tmp_path, levels, says):
    text = answer(write_ledger(tmp_path, born_again_rows(spread=1.5, **levels)))
    assert says in text
    assert text.endswith("Not enough runs are recorded yet on CIFAR-10 in a short schedule and on MNIST.")


def test_the_answer_rests_on_claims_that_ask_for_it():
    claims = paper("furlanello2018")
    for smoothed, teacher in softer_labels._CLAIMS.values():
        ends = [
            tuple(side.arms[0].rpartition("_")[2] for side in (each.lower, each.higher))
            for name in (smoothed, teacher)
            for each in claims.claim(name).comparisons
        ]
        assert ends == [("smoothing", "again"), ("ban1", "smoothing")]
    for sentences in (softer_labels._SMOOTHED, softer_labels._TEACHER, softer_labels._PLAIN_TEACHER):
        assert set(sentences) == {"reproduced", "contradicted", "inconclusive"}
