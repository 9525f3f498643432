"""Maxout nets: the teachers and students of Romero et al. (2015), FitNets, tables 4, 6 and 7 and appendix A."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdrepro import checks
from kdrepro.models.dropout import Dropout


class _LargerHalf(torch.autograd.Function):
    """The larger of two halves of the channels.

    Autograd's own rules for `amax` and `maximum` share the gradient of ties in many passes over memory; where the
    nets are as small as here, that took longer than the convolutions. A tie's gradient goes to the second half.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        first, second = (half.contiguous(memory_format=layout) for half in values.chunk(2, dim=1))
        ctx.save_for_backward(first - second)
        return torch.maximum(first, second)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (difference,) = ctx.saved_tensors
        first = torch.ops.aten.threshold_backward(gradient, difference, 0)
        return torch.cat([first, gradient - first], dim=1)


class Maxout(nn.Module):
    """The largest of `pieces` channels: (B, `pieces` · C, ...) → (B, C, ...).

    Goodfellow et al. (2013), Maxout Networks, section 2. Channel c competes with c + C, c + 2C, ...
    Raises `ValueError` for fewer than two pieces, or channels that `pieces` does not divide.

    >>> Maxout(pieces=2)(torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
    tensor([[ 3., -2.]])
    """

    def __init__(self, *, pieces: int) -> None:
        super().__init__()
        self.pieces = checks.whole("pieces", pieces, least=2)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"

    def forward(self, values: Tensor) -> Tensor:
        if values.ndim < 2 or values.shape[1] % self.pieces:
            raise ValueError(
                f"values: got shape {tuple(values.shape)}, expected channels that {self.pieces} pieces divide"
            )
        if self.pieces == 2:
            larger: Tensor = _LargerHalf.apply(values)
            return larger
        batch, channels, *sides = values.shape
        return values.reshape(batch, self.pieces, channels // self.pieces, *sides).amax(dim=1)


@dataclass(frozen=True)
class Stage:
    """One convolutional maxout layer: what it has, and the max pooling after it as (size, stride)."""

    channels: int
    kernel: int
    padding: int = 0
    pool: tuple[int, int] | None = None
    pieces: int = 2


def maxout_net(
    stages: Sequence[Stage],
    *,
    image: tuple[int, int, int],
    hidden: int | None = None,
    classes: int = 10,
    input_dropout: float = 0.0,
    dropout: float = 0.0,
    init_range: float = 0.005,
) -> nn.Sequential:
    """Return convolutional maxout layers `layer1`, `layer2`, …, a fully connected one (`hidden`), and `classifier`.

    `image` is (C, H, W). Pooling rounds up, as the authors' library does. Weights are drawn from
    U(−`init_range`, `init_range`), biases are 0, one per channel. Dropout stands before each layer, `input_dropout`
    before the first.

    Shapes: (B, C, H, W) → logits (B, `classes`). Raises `ValueError` where a map becomes smaller than its kernel, or so
    small that its pool has no window on it.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, height, width = image
    for number, stage in enumerate(stages, start=1):
        height, width = (_side(number, stage, side) for side in (height, width))
        layers[f"layer{number}"] = nn.Sequential(
            *_dropout(input_dropout if number == 1 else dropout),
            nn.Conv2d(channels, stage.channels * stage.pieces, stage.kernel, padding=stage.padding),
            Maxout(pieces=stage.pieces),
            *([nn.MaxPool2d(*stage.pool, ceil_mode=True)] if stage.pool else []),
        )
        channels = stage.channels
    units = channels * height * width
    if hidden is not None:
        layers[f"layer{len(stages) + 1}"] = nn.Sequential(
            nn.Flatten(), *_dropout(dropout), nn.Linear(units, 2 * hidden), Maxout(pieces=2)
        )
        units = hidden
    layers["classifier"] = nn.Sequential(nn.Flatten(), *_dropout(dropout), nn.Linear(units, classes))
    net = nn.Sequential(layers)
    uniform_(net, limit=init_range)
    return net


def _dropout(probability: float) -> list[nn.Module]:
    return [Dropout(probability)] if probability else []


def _side(number: int, stage: Stage, side: int) -> int:
    side = side + 2 * stage.padding - stage.kernel + 1
    if stage.pool and side >= 1:
        size, stride = stage.pool
        # As many windows as it takes to cover the map, the last of which may reach beyond it but starts inside.
        side = min(-((size - side) // stride), (side - 1) // stride) + 1
    if side < 1:
        raise ValueError(f"stages: layer{number}'s kernel or pool is larger than the map that it is given")
    return side


@torch.no_grad()
def uniform_(module: nn.Module, *, limit: float) -> None:
    """Draw all weights of a module from U(−`limit`, `limit`), in place, and set its biases to 0."""
    checks.positive("limit", limit)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.uniform_(layer.weight, -limit, limit)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def counted_weights(module: nn.Module) -> int:
    """Count weights without biases, which is how the paper counts parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


def counted_multiplications(module: nn.Module, image: tuple[int, int, int]) -> int:
    """Count the multiplications that one image of (C, H, W) takes, in convolutions and matrices."""
    total = 0

    def count(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        positions = output[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        total += positions * layer.weight.numel()

    handles = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            module(torch.zeros(1, *image))
    finally:
        for handle in handles:
            handle.remove()
    return total


_POOL4, _POOL2 = (4, 2), (2, 2)

MNIST_TEACHER = (Stage(48, 8, 0, _POOL4), Stage(48, 8, 3, _POOL4), Stage(24, 5, 3, _POOL2))
MNIST_STUDENT = (
    Stage(16, 5),
    Stage(16, 3, 0, _POOL4),
    Stage(16, 5, 3),
    Stage(16, 3, 0, _POOL4),
    Stage(12, 3, 3),
    Stage(12, 3, 0, _POOL2),
)
# As the authors' configuration file has it, which gives the last two layers four pieces instead of the paper's two.
MNIST_STUDENT_CODE = (*MNIST_STUDENT[:4], Stage(12, 3, 3, pieces=4), Stage(12, 3, 0, _POOL2, pieces=4))
CIFAR_TEACHER = (Stage(96, 8, 4, _POOL4), Stage(192, 8, 3, _POOL4), Stage(192, 5, 3, _POOL2))


def thin_stages(*groups: Sequence[int]) -> tuple[Stage, ...]:
    """Return 3×3 layers of the channels in each group, with 2×2 pooling after a group and 8×8 after the last.

    Romero et al. (2015), tables 6 and 7: `thin_stages((16, 16, 16), (32, 32, 32), (48, 48, 64))` is FitNet 1.
    """
    stages: list[Stage] = []
    for position, group in enumerate(groups):
        pool = (8, 8) if position == len(groups) - 1 else _POOL2
        for place, channels in enumerate(group):
            stages.append(Stage(channels, 3, 1, pool if place == len(group) - 1 else None))
    return tuple(stages)


FITNET1 = thin_stages((16, 16, 16), (32, 32, 32), (48, 48, 64))
FITNET2 = thin_stages((16, 32, 32), (48, 64, 80), (96, 96, 128))
FITNET3 = thin_stages((32, 48, 64, 64), (80, 80, 80, 80), (128, 128, 128))
FITNET4 = thin_stages((32, 32, 32, 48, 48), (80,) * 6, (128,) * 6)
# The nets of 30 million multiplications, by depth: convolutions, the fully connected layer and the classifier.
THIN_30M = {
    5: thin_stages((64,), (64,), (64,)),
    7: thin_stages((16, 32), (32, 64), (64,)),
    9: thin_stages((16, 32), (32, 32, 32), (48, 64)),
    11: FITNET1,
}
