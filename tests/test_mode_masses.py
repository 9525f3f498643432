"""The shares of the sentences by how sure a net is of its best translation, counted and drawn."""

from __future__ import annotations

import math

import pytest
from chart_texts import assert_readable, texts
from hypothesis import given
from hypothesis import strategies as st
from recorded_rows import write_ledger
from translation_rows import translation_row

from kdrepro import mode_masses

ARMS = {"student alone": "ende_student_alone", "Seq-KD": "ende_seq_kd"}


@given(st.lists(st.floats(-60, 0), min_size=1, max_size=40))
def test_every_sentence_is_in_one_bin(log_probs):
    found = list(mode_masses.shares(log_probs).values())
    assert len(found) == 8
    assert sum(found) == pytest.approx(1)
    # Counted another way: the smallest edge above each probability.
    edges = [10.0**edge for edge in mode_masses.EDGES[1:-1]]
    for place in range(8):
        low, high = ([0.0, *edges][place], [*edges, math.inf][place])
        inside = [each for each in log_probs if low * (1 + 1e-12) <= math.exp(each) < high * (1 - 1e-12)]
        assert found[place] * len(log_probs) >= len(inside) - 1e-9


def test_probabilities_at_an_edge_are_in_the_bin_above():
    assert mode_masses.shares([math.log(0.1)])["mode_mass_share_6"] == 1
    assert mode_masses.shares([0.0])["mode_mass_share_7"] == 1
    # A sum of logarithms can end a little above 0.
    assert mode_masses.shares([1e-6])["mode_mass_share_7"] == 1
    with pytest.raises(ValueError, match="log_probs: got none, expected one for each sentence"):
        mode_masses.shares([])


def test_one_panel_an_arm_with_its_mean(tmp_path):
    rows = [translation_row("ende_student_alone", seed, 30.0, mass=0.02) for seed in range(3)]
    rows += [translation_row("ende_seq_kd", seed, 30.0, mass=0.4 + 0.01 * seed) for seed in range(3)]
    chart = mode_masses.histogram(write_ledger(tmp_path, rows), ARMS)
    assert [axes.get_title(loc="left") for axes in chart.axes] == list(ARMS)
    assert [[bar.get_height() for bar in axes.patches] for axes in chart.axes] == [
        [0.25, 0, 0, 0, 0.75, 0, 0, 0],
        [0, 0, 0.25, 0, 0, 0, 0, 0.75],
    ]
    assert any("mean 2 %, 3 runs" in text for text in texts(chart))
    line = chart.axes[0].lines[-1].get_xdata()[0]
    assert line == pytest.approx(2 * (math.log10(0.02) + 4))
    assert_readable(chart)


def test_an_arm_that_was_not_run_says_so(tmp_path):
    chart = mode_masses.histogram(write_ledger(tmp_path, [translation_row("ende_seq_kd", 0, 30.0)]), ARMS)
    assert "not run at protocol paper" in texts(chart)
    assert any("1 run" in text for text in texts(chart))
