"""The shares of the sentences by how sure a net is of its best translation, counted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdrepro import mode_masses


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


def test_a_mass_between_two_bins_is_in_the_higher_one():
    assert mode_masses.shares([-math.log(10)])["mode_mass_share_6"] == 1
