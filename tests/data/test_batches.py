"""Batches, jitter, crop and flip: a function of the seed and the epoch, and of nothing else."""

import itertools

import numpy as np
import pytest
import torch

from kdrepro import Batches
from kdrepro.data.batches import CropFlip, Jitter


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


def windows_of(image: np.ndarray, pixels: int, padding: str) -> dict[tuple[int, int, bool], np.ndarray]:
    """Every picture that may become of an image, by the window's corner and whether it is mirrored; by NumPy."""
    mode = {"reflect": "reflect", "zero": "constant"}[padding]
    padded = np.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels)), mode=mode)
    _, height, width = image.shape
    corners = itertools.product(range(2 * pixels + 1), repeat=2)
    found = {(row, column): padded[:, row : row + height, column : column + width] for row, column in corners}
    return {
        (*corner, mirrored): window[:, :, ::-1] if mirrored else window
        for corner, window in found.items()
        for mirrored in (False, True)
    }


def drawn(
    images: torch.Tensor, views: torch.Tensor, pixels: int, padding: str
) -> list[tuple[int, int, bool]]:
    """The one window that explains each view; that there is one says that it was a crop of that image."""
    found = []
    for image, view in zip(images.numpy(), views.numpy(), strict=True):
        windows = windows_of(image, pixels, padding)
        fits = [key for key, window in windows.items() if np.array_equal(window, view)]
        assert len(fits) == 1
        found.append(fits[0])
    return found


@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize(
    # Wide enough that no window of the reflected image is its own mirror image.
    ("pixels", "shape"),
    [(1, (3, 5, 4)), (2, (1, 6, 7)), (3, (2, 7, 8)), (4, (3, 10, 10))],
)
def test_crop_and_flip_cuts_a_window_of_the_padded_image(pixels, shape, padding):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand((60, *shape), generator=generator) + 0.1
    views = CropFlip(pixels=pixels, padding=padding)(images, generator)
    keys = drawn(images, views, pixels, padding)
    for place in range(2):
        assert {key[place] for key in keys} == set(range(2 * pixels + 1))
    assert {key[2] for key in keys} == {False, True}


def test_without_flip_nothing_is_mirrored_and_without_pixels_nothing_is_moved():
    images = torch.rand(40, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    cropped = drawn(images, CropFlip(pixels=2, flip=False)(images, generator), 2, "reflect")
    assert {mirrored for *_, mirrored in cropped} == {False}
    flipped = drawn(images, CropFlip(pixels=0)(images, generator), 0, "reflect")
    assert set(flipped) == {(0, 0, False), (0, 0, True)}
    assert torch.equal(CropFlip(pixels=0, flip=False)(images, generator), images)


def test_windows_are_uniform_and_half_of_them_mirrored():
    # Each pixel says where it is, so the first says which window it was.
    images = torch.arange(12.0 * 12).reshape(1, 1, 12, 12).repeat(32_400, 1, 1, 1)
    views = CropFlip(pixels=1)(images, torch.Generator().manual_seed(0))[:, 0, 5, 5:7]
    mirrored = views[:, 1] < views[:, 0]
    left = torch.where(mirrored, views[:, 1], views[:, 0])
    counts = torch.stack([left[mirrored == side].unique(return_counts=True)[1] for side in (False, True)])
    assert counts.shape == (2, 9)
    # Chi squared with 17 degrees of freedom: above 40.8 once in a thousand.
    assert ((counts - 1800) ** 2 / 1800).sum() < 40.8


def test_the_papers_crop_four_pixels_of_a_reflected_image_and_flip():
    assert vars(CropFlip()) == {"pixels": 4, "padding": "reflect", "flip": True}


def test_windows_are_a_function_of_seed_and_epoch():
    images = torch.rand(23, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def views(seed: int, epoch: int) -> torch.Tensor:
        batches = numbered(inputs=images, seed=seed, augment=CropFlip())
        return torch.cat([part.inputs for part in batches.epoch(epoch)])

    before = images.clone()
    assert torch.equal(views(0, 1), views(0, 1))
    assert not torch.equal(views(0, 1), views(0, 2))
    assert not torch.equal(views(0, 1), views(1, 1))
    assert torch.equal(images, before)
    assert order(numbered(inputs=images, augment=CropFlip()), 3) == order(numbered(), 3)


def test_reflection_is_the_same_in_any_units_and_zeros_are_those_of_the_inputs():
    images = torch.rand(20, 3, 6, 6, generator=torch.Generator().manual_seed(0))

    def apart(padding: str) -> torch.Tensor:
        """How far it is from cropping what is standardised to standardising what is cropped."""
        crop = CropFlip(pixels=2, padding=padding)
        scaled = crop((images - 0.5) / 0.25, torch.Generator().manual_seed(3))
        return (scaled - (crop(images, torch.Generator().manual_seed(3)) - 0.5) / 0.25).abs()

    assert apart("reflect").max() == 0
    assert set(apart("zero").unique().tolist()) == {0.0, 2.0}


def test_images_whose_channels_lie_last_in_memory_give_the_same():
    images = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    last = images.contiguous(memory_format=torch.channels_last)
    one, other = (CropFlip()(each, torch.Generator().manual_seed(2)) for each in (images, last))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pixels": -1}, "pixels: got -1"),
        (
            {"padding": "reflct"},
            "padding: got 'reflct', expected one of reflect, zero; did you mean 'reflect'",
        ),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CropFlip(**settings)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 8, 8), r"inputs: got shape \(5, 8, 8\), expected \(B, C, H, W\)"),
        ((5, 1, 8, 4), "inputs: got images of 8 by 4, expected more than 4 pixels a side"),
    ],
)
def test_inputs_that_cannot_be_cropped_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        CropFlip()(torch.zeros(shape), torch.Generator())


def test_zeros_can_be_put_around_any_image():
    assert CropFlip(padding="zero")(torch.ones(5, 1, 2, 2), torch.Generator()).shape == (5, 1, 2, 2)


def all_out(data: Batches, epochs: int, processes: int) -> bool:
    shares = (
        part.every(processes, first=first)
        for epoch in range(epochs)
        for part in data.epoch(epoch)
        for first in range(processes)
    )
    return not all(share.mask.any() for share in shares)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_batch_of_which_nothing_counts_is_found_before_it_comes(processes):
    found = []
    for seed in range(12):
        for left_out in (0, 1, 2, 3, 8, 12):
            data = numbered(22, mask=torch.arange(22) >= left_out, seed=seed)
            found.append(all_out(data, 3, processes))
            if found[-1]:
                with pytest.raises(ValueError, match="mask: got False for all of") as caught:
                    data.check_counted(3, processes=processes)
                assert f"take out the {left_out} examples" in str(caught.value)
            else:
                data.check_counted(3, processes=processes)
    assert {*found} == {True, False}


def test_the_batch_of_which_nothing_counts_is_named():
    targets = torch.zeros(6, 2, dtype=torch.int64)
    mask = torch.tensor([[True, False]] * 3 + [[False, False]] * 3)
    data = Batches(torch.zeros(6, 1), targets, batch_size=1, seed=0, mask=mask)
    place = next(place for place, part in enumerate(data.epoch(0)) if not part.mask.any())
    example = int(list(data.epoch(0))[place].index)
    with pytest.raises(ValueError, match=rf"all of batch {place} of epoch 0 .examples {example}., expected"):
        data.check_counted(1)


def test_whoever_makes_the_batches_in_a_way_of_their_own_knows_what_counts():
    class Own(Batches):
        def epoch(self, number):
            yield self.first(23)

    Own(
        torch.zeros(3, 1), torch.zeros(3), batch_size=1, seed=0, mask=torch.tensor([True, False, False])
    ).check_counted(5)


@pytest.mark.parametrize("name", ["targets", "mask"])
def test_targets_and_mask_are_tensors_with_one_entry_per_input(name):
    inputs, good = torch.rand(8, 3), {"targets": torch.zeros(8, dtype=torch.int64)}
    for wrong, message in (
        ([True] * 8, f"{name}: got list, expected a tensor"),
        (torch.tensor(True), f"{name}: got a single one, expected 8, one per input"),
        (torch.ones(7, dtype=torch.bool), f"{name}: got 7 of them, expected 8, one per input"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            Batches(inputs, **(good | {name: wrong}), batch_size=2, seed=0)
