"""Short names for tensors by what is in them, so that one thing is not taken for another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def of_tensors(tensors: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that change with a name, a type, a shape or a number, and with no device.

    >>> of_tensors({"a": torch.zeros(2)}) == of_tensors({"a": torch.zeros(2).clone()})
    True
    >>> of_tensors({"a": torch.zeros(2)}) == of_tensors({"a": torch.ones(2)})
    False
    """
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if not isinstance(value, Tensor):
            # What `get_extra_state` gives may be anything.
            digest.update(f"{name} {value!r}".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def of_modules(*modules: nn.Module) -> str:
    """Return the digest of the weights and buffers of one network, or of several in order."""
    if len(modules) == 1:
        return of_tensors(modules[0].state_dict())
    return of_tensors(
        {
            f"{place}.{name}": value
            for place, each in enumerate(modules)
            for name, value in each.state_dict().items()
        }
    )
