"""Arrays come back from a text as they were, but for eight bits."""

from __future__ import annotations

import numpy as np
import pytest

from kdrepro import array_texts


def test_what_is_read_is_what_was_written_to_a_255th_of_what_it_spans():
    chance = np.random.default_rng(0)
    arrays = chance.normal(scale=[[[[3.0]]], [[[0.01]]]], size=(2, 3, 5, 4))
    texts = array_texts.written(arrays)
    assert all(text.isascii() and "\n" not in text for text in texts)
    found = array_texts.read(texts)
    assert found.shape == arrays.shape
    for one, other in zip(found, arrays, strict=True):
        assert np.abs(one - other).max() <= 0.51 * np.ptp(other) / 255


def test_an_array_of_one_number_throughout_comes_back():
    assert array_texts.read(array_texts.written(np.full((1, 2, 2), 0.25))).tolist() == [[[0.25] * 2] * 2]


@pytest.mark.parametrize("arrays", [np.zeros((0, 2)), np.array([1.0]), np.array([[np.nan, 1.0]])])
def test_what_is_no_array_of_finite_numbers_is_refused(arrays):
    with pytest.raises(ValueError, match="arrays: got shape"):
        array_texts.written(arrays)


@pytest.mark.parametrize("text", ["", "2 0 1", "2 0 1 AID/", "x 0 1 AID/", "3 0 one AID/", "3 0 1 !!!!"])
def test_what_is_no_such_text_is_refused(text):
    with pytest.raises(ValueError, match="texts: got '"):
        array_texts.read([text])


def test_nothing_is_no_array():
    with pytest.raises(ValueError, match="texts: got none"):
        array_texts.read([])


def test_bounds_have_as_many_digits_as_it_takes():
    arrays = np.array([[1e6, 1e6 + 1, 1e6 + 2], [0.0, 0.5, 1.0]])
    texts = array_texts.written(arrays)
    np.testing.assert_allclose(array_texts.read(texts), arrays, rtol=0, atol=2 / 510 + 1e-9)
    assert texts[1] == "3 0 1 AID/"
