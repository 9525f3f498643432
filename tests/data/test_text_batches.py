"""Batches of sentences: by hand, against a naive version, and as functions of the seed."""

import random
import time

import pytest
import torch
from torch import Tensor

from kdrepro.data.text import SentenceBatches
from kdrepro.types import END, PAD, START, UNKNOWN, Batch


def some_pairs(
    count: int = 230, *, longest: int = 12, seed: int = 0
) -> tuple[list[list[int]], list[list[int]]]:
    """Sources of one word at least, the first of which is the pair's own, and targets that may be empty."""
    chance = random.Random(seed)

    def several(least: int) -> list[int]:
        return [chance.randint(UNKNOWN, 40) for _ in range(chance.randint(least, longest))]

    return [[place + 100, *several(0)] for place in range(count)], [several(0) for _ in range(count)]


def some_batches(count: int = 230, *, batch_size: int = 8, seed: int = 0) -> SentenceBatches:
    return SentenceBatches(*some_pairs(count), batch_size=batch_size, seed=seed)


def padded_by_hand(rows: list[list[int]]) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


def batch_by_hand(sources: list[list[int]], targets: list[list[int]], index: list[int]) -> Batch:
    previous = [[START, *targets[place]] for place in index]
    expected = [[*targets[place], END] for place in index]
    mask = padded_by_hand([[1] * len(row) for row in expected]) == 1
    inputs = {
        "source": padded_by_hand([sources[place] for place in index]),
        "previous": padded_by_hand(previous),
    }
    return Batch(inputs, padded_by_hand(expected), mask, torch.tensor(index))


def same(one: Batch, other: Batch) -> bool:
    return (
        set(one.inputs) == set(other.inputs)
        and all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
        and all(
            torch.equal(getattr(one, name), getattr(other, name)) for name in ("targets", "mask", "index")
        )
    )


def test_three_sentences_written_out():
    batches = SentenceBatches([[7, 8, 9], [5], [6, 6]], [[4, 5], [], [9]], batch_size=3, seed=0)
    batch = batches.first(3)
    assert batch.inputs["source"].tolist() == [[7, 8, 9], [5, 0, 0], [6, 6, 0]]
    assert batch.inputs["previous"].tolist() == [[START, 4, 5], [START, 0, 0], [START, 9, 0]]
    assert batch.targets.tolist() == [[4, 5, END], [END, 0, 0], [9, END, 0]]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False], [True, True, False]]
    assert batch.index.tolist() == [0, 1, 2]
    assert {value.dtype for value in (*batch.inputs.values(), batch.targets, batch.index)} == {torch.int64}
    assert batch.mask.dtype == torch.bool


def test_each_word_is_predicted_from_those_before_it():
    for batch in some_batches().epoch(0):
        previous, targets, mask = batch.inputs["previous"], batch.targets, batch.mask
        assert (previous[:, 0] == START).all()
        # What is predicted at a position is what is given at the next.
        inner = mask[:, 1:]
        assert torch.equal(previous[:, 1:][inner], targets[:, :-1][inner])
        # The last position that counts, and it alone, is the end.
        last = mask.sum(dim=1) - 1
        assert torch.equal(targets == END, torch.arange(targets.shape[1]) == last[:, None])
        assert (targets[~mask] == PAD).all()
        assert (previous[~mask] == PAD).all()
        assert mask[:, 0].all()
        assert mask.any(dim=0).all()


@pytest.mark.parametrize("batch_size", [1, 7, 8, 230, 1000])
def test_batches_are_those_of_a_naive_version(batch_size):
    sources, targets = some_pairs()
    for epoch in range(2):
        for batch in some_batches(batch_size=batch_size).epoch(epoch):
            assert same(batch, batch_by_hand(sources, targets, batch.index.tolist()))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 230, 1700])
def test_every_pair_is_seen_once_an_epoch_and_one_batch_holds_the_rest(count):
    batches = some_batches(count)
    parts = list(batches.epoch(3))
    assert len(parts) == len(batches)
    assert batches.examples == count
    assert sorted(place for part in parts for place in part.index.tolist()) == list(range(count))
    assert sorted(len(part.index) for part in parts) == sorted(
        [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    )
    assert all((part.inputs["source"][:, 0] == part.index + 100).all() for part in parts)


def order(batches: SentenceBatches, epoch: int) -> list[int]:
    return [place for batch in batches.epoch(epoch) for place in batch.index.tolist()]


def test_the_order_is_a_function_of_seed_and_epoch():
    orders = {(seed, epoch): order(some_batches(seed=seed), epoch) for seed in range(3) for epoch in range(3)}
    assert len({tuple(each) for each in orders.values()}) == 9
    torch.manual_seed(99)
    before = torch.get_rng_state()
    batches = some_batches(seed=2)
    for epoch in (2, 0, 1, 1):
        assert order(batches, epoch) == orders[2, epoch]
    assert torch.equal(torch.get_rng_state(), before)


def test_sentences_meet_others_in_the_next_epoch():
    batches = some_batches(1700)

    def neighbours(epoch: int) -> set[frozenset[int]]:
        return {frozenset(batch.index.tolist()) for batch in batches.epoch(epoch)}

    assert not neighbours(0) & neighbours(1)


def test_short_and_long_batches_are_mixed():
    lengths = [batch.targets.shape[1] for batch in some_batches(1700).epoch(0)]
    half = len(lengths) // 2
    assert lengths != sorted(lengths)
    assert abs(sum(lengths[:half]) / half - sum(lengths[half:]) / (len(lengths) - half)) < 3


def test_the_first_are_those_that_were_given_first():
    sources, targets = some_pairs()
    assert same(some_batches().first(5), batch_by_hand(sources, targets, list(range(5))))
    assert len(some_batches(3).first(10).index) == 3


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_on_a_device_they_are_the_same_batches(device):
    batches = some_batches(seed=4)
    moved = batches.to(device)
    assert (moved.batch_size, moved.seed, moved.examples, len(moved)) == (8, 4, 230, len(batches))
    for one, other in zip(
        [batches.first(3), *batches.epoch(2)], [moved.first(3), *moved.epoch(2)], strict=True
    ):
        inputs = {name: value.cpu() for name, value in other.inputs.items()}
        assert other.targets.device.type == other.index.device.type == device
        assert same(one, Batch(inputs, other.targets.cpu(), other.mask.cpu(), other.index.cpu()))


def test_little_of_a_batch_is_padding():
    """Lengths as those of captions: about twelve words, the two sides alike."""
    chance = random.Random(0)
    lengths = [max(1, round(chance.gauss(12, 4))) for _ in range(6400)]
    sources = [[9] * max(1, length + chance.randint(-2, 2)) for length in lengths]
    targets = [[9] * length for length in lengths]

    def shares(stretch: int) -> tuple[float, float]:
        batches = SentenceBatches(sources, targets, batch_size=64, seed=0)
        batches._STRETCH = stretch
        parts = list(batches.epoch(0))
        places = [
            sum(part.inputs["source"].numel() for part in parts),
            sum(part.mask.numel() for part in parts),
        ]
        padding = [
            sum(int((part.inputs["source"] == PAD).sum()) for part in parts),
            sum(int((~part.mask).sum()) for part in parts),
        ]
        return padding[0] / places[0], padding[1] / places[1]

    source, target = shares(SentenceBatches._STRETCH)
    assert source < 0.12
    assert target < 0.02
    unsorted_source, unsorted_target = shares(1)
    assert min(unsorted_source, unsorted_target) > 0.35


def test_a_batch_costs_little():
    batches = SentenceBatches(*some_pairs(6400, longest=25), batch_size=64, seed=0)
    best = float("inf")
    for epoch in range(3):
        started = time.process_time()
        count = sum(1 for _ in batches.epoch(epoch))
        best = min(best, (time.process_time() - started) / count)
    assert best < 0.005


def test_targets_beyond_the_vocabulary_are_noticed():
    batches = SentenceBatches([[99]], [[7, 4]], batch_size=1, seed=0)
    batches.check_classes(8)
    with pytest.raises(ValueError, match="targets: got word number 7, expected numbers from 0 to 6"):
        batches.check_classes(7)
    # The end is a class too.
    with pytest.raises(ValueError, match=f"targets: got word number {END}"):
        SentenceBatches([[99]], [[]], batch_size=1, seed=0).check_classes(END)


@pytest.mark.parametrize(
    ("sources", "targets", "kind", "message"),
    [
        ([], [], ValueError, "sources: got no sentence"),
        ([[5]], [[5], [6]], ValueError, "targets: got 2 sentences, expected 1, one per source"),
        ([[5], []], [[5], [5]], ValueError, "sources: got no word in sentence 1"),
        (
            [[5], [4, PAD]],
            [[5], [5]],
            ValueError,
            "sources: got 0 in sentence 1, expected numbers of words, 3 or more",
        ),
        ([[5]], [[START, 5]], ValueError, "targets: got 1 in sentence 0"),
        ([[5]], [[5, END]], ValueError, "targets: got 2 in sentence 0"),
        ([[5]], [[-100]], ValueError, "targets: got -100 in sentence 0"),
        (["a dog"], [[5]], TypeError, "sources: got text in sentence 0, expected what Vocabulary.encode"),
        ([[5]], [["ein", "Hund"]], TypeError, "targets: got text in sentence 0"),
    ],
)
def test_sentences_that_cannot_be_trained_on_are_refused(sources, targets, kind, message):
    with pytest.raises(kind, match=message):
        SentenceBatches(sources, targets, batch_size=2, seed=0)
