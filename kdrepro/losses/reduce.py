"""From one value per position to one number."""

from __future__ import annotations

import torch
from torch import Tensor

from kdrepro.tracing import at_hand


def mean(values: Tensor) -> Tensor:
    """Average over all positions: (*batch) → ().

    Raises `ValueError` when there is nothing to average, where torch would return NaN.
    """
    if values.numel() == 0:
        raise ValueError(
            f"values: got an empty batch of shape {tuple(values.shape)}, expected at least one position"
        )
    return values.mean()


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Average over the positions where `mask` is True: (*batch), (*batch) → ().

    Positions that do not count get no gradient, whatever their value, NaN included. `mask=None` counts all.

    Raises `TypeError` for a mask that is not boolean, `ValueError` for another shape or a mask that is False
    throughout (looked at on the CPU only, as elsewhere the host would wait for it, and neither in `torch.compile` nor
    under `torch.vmap`: there the mean is NaN).

    >>> masked_mean(torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([True, False, True])).item()
    2.0
    """
    if mask is None:
        return mean(values)
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask: got {type(mask).__name__}, expected a tensor of torch.bool")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: got {mask.dtype}, expected torch.bool (True where a position counts)")
    if mask.shape != values.shape:
        raise ValueError(
            f"mask: got shape {tuple(mask.shape)}, expected {tuple(values.shape)} like the values"
        )
    if not at_hand(values, mask):
        return _mean_where(values, mask)
    counted = values[mask]
    if counted.numel() == 0:
        raise ValueError("mask: got False everywhere, expected at least one position that counts")
    return counted.mean()


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """The same without asking how many positions count, which indexing does."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()
