"""What a decoder remembers of its sources: reordered, dropped and repeated rows; checked sentences."""

from __future__ import annotations

import pytest
import torch

from kdrepro.models.memory import Memory, check_sentences


def rows(memory: Memory) -> list[float]:
    """What each row looks at."""
    return memory.parts[0].repeat_interleave(memory.width, dim=0).flatten().tolist()


@pytest.mark.parametrize(
    ("first", "then", "width"),
    [
        # The index that makes several hypotheses of each sentence, and one after it; how many share a sentence then.
        ([0, 1, 2], [2, 0, 1], 1),
        ([0, 0, 1, 1, 2, 2], [1, 0, 2, 2, 5, 4], 2),
        ([0, 0, 1, 1, 2, 2], [0, 1, 4, 5], 2),
        ([0, 0, 1, 1, 2, 2], [4, 5, 0, 1, 2, 3], 2),
        ([0, 0, 1, 1, 2, 2], [0, 2, 4], 1),
        ([0, 0, 1, 1, 2, 2], [0, 1, 2], 1),
        ([0, 0, 1, 1, 2, 2], [5, 0, 1, 3], 1),
        ([0, 1, 2], [1, 1, 1, 1, 1], 5),
        ([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1], 6),
        ([0, 0, 1, 1, 2, 2], [], 1),
    ],
)
def test_each_row_sees_its_own_sentence(first, then, width):
    whole = Memory((torch.tensor([[0.0], [1.0], [2.0]]),))
    several = whole.select(torch.tensor(first))
    assert rows(several) == first
    selected = several.select(torch.tensor(then, dtype=torch.int64))
    assert rows(selected) == [first[each] for each in then]
    assert (selected.width, len(selected)) == (width, len(then))


def test_nothing_is_copied_while_sentences_stay():
    whole = Memory((torch.zeros(3, 2),))
    several = whole.select(torch.tensor([0, 0, 1, 1, 2, 2]))
    assert several.parts[0] is whole.parts[0]
    assert several.select(torch.tensor([1, 1, 3, 2, 4, 4])).parts[0] is whole.parts[0]


@pytest.mark.parametrize(
    ("sentences", "error", "says"),
    [
        ([[5, 6]], TypeError, r"source: got list, expected a tensor of word numbers \(B, L\)"),
        (torch.ones(2, 3), TypeError, r"source: got torch.float32, expected torch.int64 word numbers"),
        (torch.ones(3, dtype=torch.int64), ValueError, r"source: got shape \(3,\)"),
        (torch.ones(2, 0, dtype=torch.int64), ValueError, r"source: got shape \(2, 0\)"),
        (torch.ones(0, 2, dtype=torch.int64), ValueError, r"source: got shape \(0, 2\)"),
        (
            torch.tensor([[5, 9]]),
            ValueError,
            "source: got word numbers from 5 to 9, expected numbers from 0 to 8",
        ),
        (torch.tensor([[-1, 3]]), ValueError, "source: got word numbers from -1 to 3"),
        (torch.tensor([[5, 6], [0, 6]]), ValueError, "source: got padding at the start of sentence 1"),
        (torch.tensor([[5, 6], [0, 0]]), ValueError, "source: got padding at the start of sentence 1"),
        (torch.tensor([[5, 0, 6]]), ValueError, "source: got padding between the words of sentence 0"),
        (
            torch.tensor([[5, 6], [7, 8]]),
            ValueError,
            "source: got 2 sentences, expected 3, one for each source",
        ),
    ],
)
def test_sentences_are_checked(sentences, error, says):
    with pytest.raises(error, match=says):
        check_sentences("source", sentences, words=9, rows=3 if "expected 3" in says else None)


def test_good_sentences_come_back_as_they_are():
    for dtype in (torch.int32, torch.int64):
        sentences = torch.tensor([[5, 6, 0], [8, 0, 0]], dtype=dtype)
        assert check_sentences("source", sentences, words=9, rows=2) is sentences
