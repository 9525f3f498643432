"""The modes of networks, training or eval, put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(*roots: nn.Module) -> Iterator[None]:
    """Put the mode of every part of these networks back afterwards, whatever happens."""
    modes = [(part, part.training) for root in roots for part in root.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
