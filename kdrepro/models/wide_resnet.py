"""Wide residual networks: the nets of Zagoruyko & Komodakis (2017), Paying More Attention to Attention, section 4.1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrepro import checks
from kdrepro.models.dropout import Dropout


class Block(nn.Module):
    """Pre-activation residual block: norm, ReLU, 3×3, norm, ReLU, 3×3, added to what came in.

    Where the number of channels changes, what came in passes through a 1×1 convolution, after the first ReLU. Dropout
    stands between the two 3×3 convolutions, after the second ReLU.
    """

    def __init__(self, into: int, out: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm0 = nn.BatchNorm2d(into)
        self.conv0 = nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.dropout = Dropout(dropout)
        self.shortcut = nn.Conv2d(into, out, 1, stride=stride, bias=False) if into != out else None

    def forward(self, inputs: Tensor) -> Tensor:
        active = torch.relu(self.norm0(inputs))
        added = inputs if self.shortcut is None else self.shortcut(active)
        result: Tensor = self.conv1(self.dropout(torch.relu(self.norm1(self.conv0(active))))) + added
        return result


class WideResNet(nn.Module):
    """Wide residual network WRN-`depth`-`width`, as in the attention-transfer paper and its authors' code.

    A 3×3 convolution to 16 channels; three groups of (`depth` − 4) / 6 blocks with 16, 32 and 64 times `width`
    channels, the second and third at half the resolution of the one before; norm, ReLU, mean over positions, and a
    linear layer. The modules are called `conv`, `group0`, `group1`, `group2`, `norm` and `classifier`. The output of
    a group is the sum that leaves its last block, before norm and ReLU: what the paper's attention maps are made of.

    Weights are drawn as in the authors' code (github.com/szagoruyko/attention-transfer, utils.py): convolutions and
    classifier from N(0, 2 / fan-in), scales of the norms from U(0, 1), biases 0. No convolution has a bias.

    `dropout` is 0 in this paper; Zagoruyko & Komodakis (2016), Wide Residual Networks, section 2.4, have it.

    Shapes: (B, `in_channels`, H, W) → logits (B, `classes`); the groups' maps are (B, 16·`width`, H, W), and half and
    a quarter of that in height and width (rounded up) with twice and four times the channels.
    Raises `ValueError` for a depth that is not 6n + 4, or inputs of another shape.

    >>> sum(parameter.numel() for parameter in WideResNet(16, 1).parameters())
    175066
    """

    def __init__(
        self, depth: int, width: int, *, classes: int = 10, in_channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if checks.whole("depth", depth, least=10) % 6 != 4:
            raise ValueError(
                f"depth: got {depth}, expected 6n + 4 with n blocks a group, such as 10, 16 or 40"
            )
        checks.whole("width", width, least=1)
        self.depth, self.width = depth, width
        self.in_channels = checks.whole("in_channels", in_channels, least=1)
        blocks = (depth - 4) // 6
        channels = [16 * width, 32 * width, 64 * width]
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.group0 = _group(16, channels[0], blocks, stride=1, dropout=dropout)
        self.group1 = _group(channels[0], channels[1], blocks, stride=2, dropout=dropout)
        self.group2 = _group(channels[1], channels[2], blocks, stride=2, dropout=dropout)
        self.norm = nn.BatchNorm2d(channels[2])
        self.classifier = nn.Linear(channels[2], checks.whole("classes", classes, least=1))
        _draw(self)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim != 4 or inputs.shape[1] != self.in_channels:
            raise ValueError(
                f"inputs: got shape {tuple(inputs.shape)}, expected (B, {self.in_channels}, H, W)"
            )
        maps = self.group2(self.group1(self.group0(self.conv(inputs))))
        logits: Tensor = self.classifier(torch.relu(self.norm(maps)).mean(dim=(2, 3)))
        return logits


def _group(into: int, out: int, blocks: int, *, stride: int, dropout: float) -> nn.Sequential:
    first = Block(into, out, stride=stride, dropout=dropout)
    return nn.Sequential(first, *(Block(out, out, stride=1, dropout=dropout) for _ in range(blocks - 1)))


@torch.no_grad()
def _draw(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight)
