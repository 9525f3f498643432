"""Densely connected networks: the DenseNet-BC of Huang et al. (2017), for pictures of 32×32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.utils.checkpoint import checkpoint

from kdrepro import checks


class Layer(nn.Module):
    """All maps so far → norm, ReLU, 1×1 to 4 · `growth` channels, norm, ReLU, 3×3 to `growth` new ones.

    The maps side by side, their norm and ReLU are computed again for the gradient instead of kept: kept, they grow with
    the square of the number of layers (Pleiss et al., 2017). Values and gradients are the same, bit for bit.
    """

    def __init__(self, into: int, growth: int) -> None:
        super().__init__()
        self.norm0 = nn.BatchNorm2d(into)
        self.conv0 = nn.Conv2d(into, 4 * growth, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, *maps: Tensor) -> Tensor:
        # torch.compile decides itself what to keep, and does not follow `context_fn`.
        if torch.compiler.is_compiling():
            narrow = self._narrow(*maps)
        else:
            narrow = checkpoint(
                self._narrow, *maps, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts
            )
        result: Tensor = self.conv1(torch.relu(self.norm1(narrow)))
        return result

    def _narrow(self, *maps: Tensor) -> Tensor:
        narrow: Tensor = self.conv0(torch.relu(self.norm0(torch.cat(maps, dim=1))))
        return narrow

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._again()

    @contextmanager
    def _again(self) -> Iterator[None]:
        # The statistics of a batch enter the running ones once, however often it is seen.
        running = dict(self.norm0.named_buffers())
        self.norm0._buffers.update({name: value.clone() for name, value in running.items()})
        try:
            yield
        finally:
            self.norm0._buffers.update(running)


class DenseBlock(nn.Module):
    """`count` layers, each given the block's input and what all layers before it made; returns all of it."""

    def __init__(self, into: int, growth: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(into + growth * place, growth) for place in range(count))

    def forward(self, inputs: Tensor) -> Tensor:
        maps = [inputs]
        for layer in self.layers:
            maps.append(layer(*maps))
        return torch.cat(maps, dim=1)


class Transition(nn.Module):
    """Norm, ReLU, 1×1 to half as many channels (rounded down), mean over 2×2 places."""

    def __init__(self, into: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(into)
        self.conv = nn.Conv2d(into, into // 2, 1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return avg_pool2d(self.conv(torch.relu(self.norm(inputs))), 2)


class DenseNet(nn.Module):
    """DenseNet-BC of `depth` layers with growth rate `growth`: k in Huang et al. (2017), section 3.

    A 3×3 convolution to 2 · `growth` channels; three dense blocks of (`depth` − 4) / 6 layers, with a transition to
    half the channels and half the resolution between them; norm, ReLU, mean over positions, and a linear layer. The
    modules are called `conv`, `block0`, `transition0`, `block1`, `transition1`, `block2`, `norm` and `classifier`.

    Weights are drawn as in the authors' code (github.com/liuzhuang13/DenseNet, models/densenet.lua): convolutions from
    N(0, 2 / fan-out), scales of the norms 1, biases 0. No convolution has a bias, and there is no dropout, which that
    paper uses without augmentation only.

    The sizes that it prints come out: 0.8, 15.3 and 25.6 million parameters for 100 and 12, 250 and 24, 190 and 40
    (Table 2). Those of Furlanello et al. (2018), Table 1, do not. They call a net DenseNet-112-33 and count 6.3 million
    where this definition gives 6.9, and a depth of 90 or 80 is not 6n + 4; how their blocks are divided is not printed.

    Shapes: (B, `in_channels`, H, W) → logits (B, `classes`).
    Raises `ValueError` for a depth that is not 6n + 4, or inputs of another shape.

    >>> sum(parameter.numel() for parameter in DenseNet(100, 12).parameters())
    769162
    """

    def __init__(self, depth: int, growth: int, *, classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if checks.whole("depth", depth, least=10) % 6 != 4:
            raise ValueError(
                f"depth: got {depth}, expected 6n + 4 with n layers a block, such as 40, 100 or 112"
            )
        checks.whole("growth", growth, least=1)
        self.depth, self.growth = depth, growth
        self.in_channels = checks.whole("in_channels", in_channels, least=1)
        count = (depth - 4) // 6
        first = 2 * growth
        second = (first + growth * count) // 2
        third = (second + growth * count) // 2
        last = third + growth * count
        self.conv = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.block0 = DenseBlock(first, growth, count)
        self.transition0 = Transition(first + growth * count)
        self.block1 = DenseBlock(second, growth, count)
        self.transition1 = Transition(second + growth * count)
        self.block2 = DenseBlock(third, growth, count)
        self.norm = nn.BatchNorm2d(last)
        self.classifier = nn.Linear(last, checks.whole("classes", classes, least=1))
        _draw(self)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim != 4 or inputs.shape[1] != self.in_channels:
            raise ValueError(
                f"inputs: got shape {tuple(inputs.shape)}, expected (B, {self.in_channels}, H, W)"
            )
        maps = self.transition0(self.block0(self.conv(inputs)))
        maps = self.block2(self.transition1(self.block1(maps)))
        logits: Tensor = self.classifier(torch.relu(self.norm(maps)).mean(dim=(2, 3)))
        return logits


@torch.no_grad()
def _draw(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        elif isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)
