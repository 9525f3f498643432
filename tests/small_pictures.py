"""Thirty pictures of noise with their classes, and a network for them."""

import torch
from small_networks import network
from torch import nn

IMAGES = torch.randn(30, 1, 6, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(5, (30,), generator=torch.Generator().manual_seed(1))


def images_net(seed: int, width: int = 8) -> nn.Sequential:
    """With BatchNorm and dropout."""
    return nn.Sequential(nn.Flatten(), network(seed, inputs=36, width=width))
