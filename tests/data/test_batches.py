"""Batches and jitter: a function of the seed and the epoch, and of nothing else."""

import itertools

import pytest
import torch

from kdrepro import Batches
from kdrepro.data.batches import Jitter


def numbered(count: int = 23, **changes) -> Batches:
    """Examples that carry their own position."""
    inputs = torch.arange(count).float().reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    arguments = {"inputs": inputs, "targets": torch.arange(count), "batch_size": 5, "seed": 0}
    return Batches(**(arguments | changes))


def order(batches: Batches, epoch: int) -> list[int]:
    return [place for batch in batches.epoch(epoch) for place in batch.index.tolist()]


def test_every_example_is_seen_once_an_epoch_with_its_own_target():
    batches = numbered(mask=torch.arange(23) % 2 == 0)
    for epoch in range(3):
        parts = list(batches.epoch(epoch))
        assert [len(part.inputs) for part in parts] == [5, 5, 5, 5, 3]
        assert len(parts) == len(batches)
        assert sorted(order(batches, epoch)) == list(range(23))
        for part in parts:
            assert part.inputs[:, 0, 0, 0].tolist() == part.index.tolist() == part.targets.tolist()
            assert torch.equal(part.mask, part.index % 2 == 0)


def test_the_order_is_a_function_of_seed_and_epoch():
    orders = {(seed, epoch): order(numbered(seed=seed), epoch) for seed in range(4) for epoch in range(4)}
    assert len({tuple(each) for each in orders.values()}) == 16
    torch.manual_seed(99)
    batches = numbered(seed=2)
    # In any order of asking, whatever else is drawn in between, and from the middle.
    for epoch in (3, 0, 2, 2, 1):
        torch.rand(3)
        assert order(batches, epoch) == orders[2, epoch]


def test_augmentation_is_a_function_of_seed_and_epoch_too():
    def views(seed: int, epoch: int) -> torch.Tensor:
        images = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(23, 1, 1, 1)
        batches = numbered(inputs=images, seed=seed, augment=Jitter(pixels=1))
        return torch.cat([part.inputs for part in batches.epoch(epoch)])

    assert torch.equal(views(0, 1), views(0, 1))
    assert not torch.equal(views(0, 1), views(0, 2))
    assert not torch.equal(views(0, 1), views(1, 1))


def test_augmentation_leaves_the_order_of_the_epoch_alone():
    assert order(numbered(augment=Jitter(pixels=1)), 1) == order(numbered(), 1)


def test_the_callers_random_state_is_left_alone():
    before = torch.get_rng_state()
    order(numbered(augment=Jitter(pixels=1)), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_data_set_is_not_changed():
    batches = numbered(augment=Jitter(pixels=1))
    before = batches.inputs.clone()
    order(batches, 0)
    assert torch.equal(batches.inputs, before)


def test_on_a_device_they_are_the_same_batches():
    batches = numbered(augment=Jitter(pixels=1), mask=torch.ones(23, dtype=torch.bool), seed=4)
    moved = batches.to("cpu")
    for one, other in zip(batches.epoch(2), moved.epoch(2), strict=True):
        for name in ("inputs", "targets", "mask", "index"):
            assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("count", [1, 4, 5, 6, 10])
def test_any_number_of_examples_makes_batches(count):
    sizes = [len(part.inputs) for part in numbered(count).epoch(0)]
    assert sizes == [5] * (count // 5) + ([count % 5] if count % 5 else [])
    assert len(numbered(count)) == len(sizes)


def shifted_by_hand(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    result = torch.zeros_like(image)
    channels, height, width = image.shape
    for channel, row, column in itertools.product(range(channels), range(height), range(width)):
        if 0 <= row + down < height and 0 <= column + right < width:
            result[channel, row + down, column + right] = image[channel, row, column]
    return result


def shifts_of(images: torch.Tensor, jittered: torch.Tensor, pixels: int) -> list[tuple[int, int]]:
    """The one shift that explains each image; that there is one says that it was a shift filled with zeros."""
    found = []
    for image, result in zip(images, jittered, strict=True):
        both = range(-pixels - 1, pixels + 2)
        fits = [
            (down, right)
            for down, right in itertools.product(both, both)
            if torch.equal(shifted_by_hand(image, down, right), result)
        ]
        assert len(fits) == 1
        found.append(fits[0])
    return found


@pytest.mark.parametrize(
    ("pixels", "shape"), [(1, (2, 5, 4)), (2, (1, 6, 7)), (2, (3, 4, 4)), (0, (1, 3, 3))]
)
def test_jitter_is_a_shift_by_whole_pixels_filled_with_zeros(pixels, shape):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((30, *shape), generator=generator) + 0.1
    shifts = shifts_of(images, Jitter(pixels=pixels)(images, generator), pixels)
    assert {abs(down) for down, _ in shifts} | {abs(right) for _, right in shifts} == set(range(pixels + 1))


def test_shifts_are_uniform_over_25_places():
    # One bright pixel in the middle says where its image went.
    images = torch.zeros(25_000, 1, 7, 7)
    images[:, :, 3, 3] = 1
    jittered = Jitter(pixels=2)(images, torch.Generator().manual_seed(0))
    counts = jittered.sum(dim=(0, 1))
    assert counts.sum() == 25_000
    assert counts[1:6, 1:6].sum() == 25_000
    # Chi squared with 24 degrees of freedom: above 51.2 once in a thousand.
    assert ((counts[1:6, 1:6] - 1000) ** 2 / 1000).sum() < 51.2


def test_the_paper_jitters_by_two_pixels():
    assert Jitter().pixels == 2


def test_the_shifts_are_those_of_the_generator():
    images = torch.rand(40, 1, 6, 6)
    results = [Jitter(pixels=2)(images, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
