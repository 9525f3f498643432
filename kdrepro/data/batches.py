"""Batches cut from whole tensors on the device, in an order and under augmentation that a seed fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from kdrepro import checks, tensor_checks
from kdrepro.types import Batch, Inputs, moved, taken

# Called with the inputs of a batch, a tensor or a mapping of them as they are, and with what draws the numbers.
Augment = Callable[[Any, torch.Generator], Any]


class Jitter:
    """Shift each image by up to `pixels` in any direction, filling with zeros: (B, C, H, W) → (B, C, H, W).

    Hinton, Vinyals & Dean (2015), section 3: "jittered by up to two pixels in any direction". The paper names no
    distribution: both shifts are uniform over the whole numbers from −`pixels` to `pixels`, drawn for each image.
    One gather on the device for the whole batch.
    """

    def __init__(self, *, pixels: int = 2) -> None:
        self.pixels = checks.whole("pixels", pixels)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        _check_images(inputs)
        count, _, height, width = inputs.shape
        shifts = _drawn(-self.pixels, self.pixels + 1, (count, 2), generator, inputs.device)
        padded = torch.nn.functional.pad(inputs, [self.pixels] * 4)
        rows = torch.arange(height, device=inputs.device) + self.pixels - shifts[:, :1]
        columns = torch.arange(width, device=inputs.device) + self.pixels - shifts[:, 1:]
        return _cut(padded, rows, columns)


class CropFlip:
    """Pad each image by `pixels`, cut a random window of its old size, and mirror every other one: (B, C, H, W).

    Zagoruyko & Komodakis (2017), section 4.1, and most of what is trained on CIFAR. The window's place is uniform over
    the (2·`pixels` + 1)² there are, and each image is mirrored, left to right, with probability ½ (never without
    `flip`), all drawn for each image. `padding="reflect"` mirrors the image at its border without repeating the
    border itself, as later versions of the authors' code do. `padding="zero"` fills with 0 in the units of the inputs,
    which for standardised ones is the data set's mean colour, not black; reflection is the same in any units.
    One gather on the device for the whole batch.

    Raises `ValueError` for another padding, inputs that are not (B, C, H, W), or images too small to be reflected.
    """

    def __init__(self, *, pixels: int = 4, padding: str = "reflect", flip: bool = True) -> None:
        self.pixels = checks.whole("pixels", pixels)
        self.padding = checks.choice("padding", padding, ("reflect", "zero"))
        self.flip = flip

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        _check_images(inputs)
        count, _, height, width = inputs.shape
        if self.padding == "reflect" and self.pixels >= min(height, width):
            raise ValueError(
                f"inputs: got images of {height} by {width}, expected more than {self.pixels} pixels a side: "
                "as many are reflected at the border"
            )
        corners = _drawn(0, 2 * self.pixels + 1, (count, 2), generator, inputs.device)
        mode = "reflect" if self.padding == "reflect" else "constant"
        padded = torch.nn.functional.pad(inputs, [self.pixels] * 4, mode=mode)
        rows = torch.arange(height, device=inputs.device) + corners[:, :1]
        columns = torch.arange(width, device=inputs.device) + corners[:, 1:]
        if self.flip:
            mirrored = _drawn(0, 2, (count, 1), generator, inputs.device) == 1
            columns = torch.where(mirrored, columns.flip(1), columns)
        return _cut(padded, rows, columns)


def _drawn(
    low: int, high: int, shape: tuple[int, int], generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw whole numbers from `low` to below `high` on the CPU, so that every device sees the same."""
    drawn = torch.randint(low, high, shape, generator=generator)
    # From pinned memory they go to the device without the host waiting for it.
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)


def _cut(padded: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """From each image take its `rows` (B, H) and `columns` (B, W): (B, C, ., .) → (B, C, H, W)."""
    count, channels, _, stride = padded.shape
    places = rows[:, :, None] * stride + columns[:, None, :]
    flat = places.reshape(count, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, flat).reshape(count, channels, rows.shape[1], columns.shape[1])


class Batches:
    """A data set in batches, shuffled anew each epoch.

    Order and augmentation are a function of (`seed`, epoch, batch) alone: two runs with one seed see the same batches,
    a run resumed at an epoch sees what it would have seen, and so does a second student of the same teacher.

    Shapes: `inputs` (N, ...), or a mapping of such tensors, which a network takes as keyword arguments; `targets` (N,)
    or (N, L), and a boolean `mask` as `targets`, True where one counts. `augment` is called with the inputs of a batch
    and a generator. The last batch holds the rest, so every example is seen once an epoch. `targets` is `None` where
    nothing is labelled, as a set that a teacher's soft targets are transferred on need not be: for objectives that read
    no labels.
    Raises `TypeError` for inputs or targets that are no tensors, or a `batch_size` or `seed` that is no whole number;
    `ValueError` for an empty data set, lengths that differ, inputs that are not finite, another mask, a `batch_size`
    below 1, or a `seed` below 0.
    """

    def __init__(
        self,
        inputs: Inputs,
        targets: Tensor | None,
        *,
        batch_size: int,
        seed: int,
        augment: Augment | None = None,
        mask: Tensor | None = None,
    ) -> None:
        count = tensor_checks.examples(inputs, of="data set")
        for name, values in (("targets", targets), ("mask", mask)):
            if values is None:
                continue
            if not isinstance(values, Tensor):
                raise TypeError(f"{name}: got {type(values).__name__}, expected a tensor")
            if values.ndim == 0 or len(values) != count:
                there = f"{len(values)} of them" if values.ndim else "a single one"
                raise ValueError(f"{name}: got {there}, expected {count}, one per input")
        for name, given in tensor_checks.named(inputs).items():
            _check_finite(name, given)
        if mask is not None:
            _check_mask(mask, targets)
        self.inputs, self.targets, self.mask = inputs, targets, mask
        self.batch_size = checks.whole("batch_size", batch_size, least=1)
        self.seed = checks.whole("seed", seed)
        self.augment = augment

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return (self.examples + self.batch_size - 1) // self.batch_size

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return len(self._one)

    def first(self, count: int) -> Batch:
        """Return the first examples, not augmented."""
        several = slice(0, min(count, self.examples))
        index = torch.arange(self.examples, device=self._one.device)[several]
        mask = None if self.mask is None else self.mask[several]
        targets = None if self.targets is None else self.targets[several]
        return Batch(taken(self.inputs, several), targets, mask, index)

    def check_classes(self, classes: int) -> None:
        """Raise `ValueError` unless every target that counts is a class number below `classes`."""
        # Numbers that are no classes are for an objective that reads such.
        if self.targets is None or self.targets.is_floating_point():
            return
        tensor_checks.class_targets(
            Batch(self.inputs, self.targets, self.mask).counted_targets, classes=classes
        )

    def check_counted(self, epochs: int, *, processes: int = 1) -> None:
        """Raise `ValueError` if `mask` leaves out all of a batch, or of a process's share of one, in any epoch.

        The order of every epoch is known beforehand, unless a class of its own makes the batches.
        """
        if self.mask is None or type(self).epoch is not Batches.epoch:
            return
        counted = self.mask.reshape(len(self.mask), -1).any(dim=1).cpu()
        left_out, last = int((~counted).sum()), self.examples % self.batch_size or self.batch_size
        # So few that they fill no batch.
        if left_out < max(1, last // processes):
            return
        for number in range(epochs):
            order, _ = self._order(number)
            for place, index in enumerate(torch.split(order, self.batch_size)):
                if all(bool(counted[index[first::processes]].any()) for first in range(processes)):
                    continue
                share = f"a share of {processes} of batch" if processes > 1 else "batch"
                some = ", ".join(map(str, index.tolist()[:5])) + (", ..." if len(index) > 5 else "")
                raise ValueError(
                    f"mask: got False for all of {share} {place} of epoch {number} (examples {some}), expected "
                    f"something that counts in each; take out the {left_out} examples in which nothing does"
                )

    def to(self, device: torch.device | str) -> Batches:
        """Return the same batches with the whole data set on `device`."""
        same = copy(self)
        same.inputs = moved(self.inputs, device)
        same.targets = None if self.targets is None else self.targets.to(device)
        same.mask = None if self.mask is None else self.mask.to(device)
        return same

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of epoch `number` (from 0)."""
        order, generator = self._order(number)
        for index in torch.split(order.to(self._one.device), self.batch_size):
            inputs = taken(self.inputs, index)
            if self.augment is not None:
                inputs = self.augment(inputs, generator)
            mask = None if self.mask is None else self.mask[index]
            targets = None if self.targets is None else self.targets[index]
            yield Batch(inputs, targets, mask, index)

    def _order(self, number: int) -> tuple[Tensor, torch.Generator]:
        """The examples in the order of an epoch, and the generator that drew it, which goes on to augment them."""
        generator = torch.Generator().manual_seed((self.seed << 20) + number)
        return torch.randperm(self.examples, generator=generator), generator

    @property
    def _one(self) -> Tensor:
        return next(iter(self.inputs.values())) if isinstance(self.inputs, Mapping) else self.inputs


def _check_images(inputs: object) -> None:
    if not isinstance(inputs, Tensor):
        raise TypeError(f"inputs: got {type(inputs).__name__}, expected a tensor (B, C, H, W)")
    if inputs.ndim != 4:
        raise ValueError(f"inputs: got shape {tuple(inputs.shape)}, expected (B, C, H, W)")


def _check_finite(name: str, values: object) -> None:
    assert isinstance(values, Tensor)
    if values.is_floating_point() and not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).flatten(1).any(dim=1).sum()) if values.ndim > 1 else "some"
        raise ValueError(
            f"{name}: got NaN or infinity in {bad} of {len(values)} examples, expected finite numbers"
        )


def _check_mask(mask: Tensor, targets: Tensor | None) -> None:
    """Raise `ValueError` unless a mask is boolean, one for each target where there are any."""
    shape = mask.shape if targets is None else targets.shape
    if mask.dtype == torch.bool and mask.shape == shape:
        return
    spread = targets is not None and targets.ndim > 1 and mask.shape == targets.shape[:1]
    places = ", None" * (len(shape) - 1)
    raise ValueError(
        f"mask: got {mask.dtype} of shape {tuple(mask.shape)}, expected torch.bool of {tuple(shape)}, "
        f"one for each {'position' if targets is None else 'target'}"
        + (f"; mask[:{places}].expand_as(targets) leaves out whole examples" if spread else "")
    )
