"""Small classifiers whose answers are cached, and what they are asked about."""

from __future__ import annotations

import torch
from small_pictures import IMAGES, TARGETS
from torch import nn

from kdrepro import Batches, Taps, cache_teacher
from kdrepro.caching import CachedTeacher
from kdrepro.teacher import FrozenTeacher

SETTINGS = {"device": "cpu", "precision": "fp32"}


def batches(**changes) -> Batches:
    return Batches(**{"inputs": IMAGES, "targets": TARGETS, "batch_size": 8, "seed": 7, **changes})


def net(seed: int) -> nn.Sequential:
    """With a map in the middle, BatchNorm and dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 5)
        )


def tapped(seed: int) -> Taps:
    return Taps(net(seed), {"early": "0", "map": "2"})


def cached(
    teacher: nn.Module | FrozenTeacher | None = None, data: Batches | None = None, **changes
) -> CachedTeacher:
    return cache_teacher(teacher or tapped(0), data or batches(), **(SETTINGS | changes))
