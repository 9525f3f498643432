"""Data sets: taking examples, holding some out, and where they lie."""

import os
from pathlib import Path

import pytest
import torch

from kdrepro.data.examples import DataSet, Examples, folder


def some(count: int, *, first: int = 0) -> Examples:
    """Examples that carry their own number."""
    numbers = torch.arange(first, first + count)
    return Examples(numbers.float().reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous(), numbers)


DATA = DataSet("made-up", "sha256:00", some(30), some(10, first=30))


def test_what_is_held_out_is_the_end_of_training_in_the_place_of_the_test_set():
    chosen = DATA.held_out(7)
    assert (chosen.name, chosen.digest) == (DATA.name, DATA.digest)
    assert torch.equal(torch.cat([chosen.train.inputs, chosen.test.inputs]), DATA.train.inputs)
    assert (chosen.train.targets.tolist(), chosen.test.targets.tolist()) == (
        list(range(23)),
        list(range(23, 30)),
    )
    assert (len(chosen.train), len(chosen.test)) == (23, 7)


def test_holding_out_copies_no_pictures():
    chosen = DATA.held_out(7)
    whole = DATA.train.inputs.untyped_storage().data_ptr()
    for part in (chosen.train, chosen.test):
        assert part.inputs.untyped_storage().data_ptr() == whole


@pytest.mark.parametrize("count", [0, 30, 31, -1])
def test_none_or_all_cannot_be_held_out(count):
    with pytest.raises(ValueError, match=f"count: got {count}, expected 1 to 29"):
        DATA.held_out(count)


def test_examples_are_taken_by_position_or_by_mask():
    two = DATA.train.take(torch.tensor([5, 3]))
    assert two.targets.tolist() == two.inputs[:, 0, 0, 0].tolist() == [5, 3]
    even = DATA.train.take(DATA.train.targets % 2 == 0)
    assert even.targets.tolist() == even.inputs[:, 2, 1, 1].tolist() == list(range(0, 30, 2))


def test_they_lie_where_the_environment_says_or_in_the_users_cache(monkeypatch):
    monkeypatch.setenv("HOME", os.sep + "home")
    assert folder() == Path(os.sep, "home", ".cache", "kdrepro")
    monkeypatch.setenv("KDREPRO_DATA", os.sep + "elsewhere")
    assert folder() == Path(os.sep, "elsewhere")
    monkeypatch.setenv("KDREPRO_DATA", "~/data")
    assert folder() == Path(os.sep, "home", "data")
    assert folder("~/mine") == Path(os.sep, "home", "mine")
