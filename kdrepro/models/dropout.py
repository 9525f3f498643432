"""Dropout drawn from random bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdrepro import checks


def kept(shape: Sequence[int], probability: float, device: torch.device) -> Tensor:
    """Draw which values are kept, each with 1 − `probability`, met to 1 in 65,536: booleans of this shape.

    64 random bits decide on four of them: on a CPU a fifth of the time that `bernoulli_` takes.
    """
    count = math.prod(shape)
    words = torch.empty((count + 3) // 4, dtype=torch.int64, device=device)
    bits = words.random_(-(2**63), None).view(torch.int16)[:count].view(*shape)
    # No more than an int16 holds: a threshold beyond it would come out at the other end, and nothing be dropped.
    return bits >= min(round(probability * 2**16), 2**16 - 1) - 2**15


class Dropout(nn.Module):
    """Drop each value with a probability, in training, and scale the rest by 1 / (1 − probability).

    As `nn.Dropout`, but drawn from 16 random bits a value instead of a float, which is several times faster on a CPU;
    the probability is met to 1 in 65,536. Raises `ValueError` for one outside [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = checks.fraction("probability", probability, below_one=True)

    def extra_repr(self) -> str:
        return f"probability={self.probability}"

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return inputs
        keep = kept(inputs.shape, self.probability, inputs.device)
        return inputs * keep * (1 / (1 - self.probability))
