"""How a test ends a training in the middle."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from torch import nn


class Stopped(Exception):
    """Ends a training."""


def stops_at(step: int | None) -> Callable[[nn.Module], None]:
    """What to call after every step, and which ends the training the time after so many; with None never."""
    steps = count()

    def after_step(net: nn.Module) -> None:
        if next(steps) == step:
            raise Stopped

    return after_step
