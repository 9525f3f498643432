"""Whether Python can look at the numbers of a tensor, and without waiting for them."""

from __future__ import annotations

import torch
from torch import Tensor


def at_hand(*tensors: Tensor) -> bool:
    """Say whether the numbers are there to be looked at: on the CPU, in no `torch.compile` and under no `torch.vmap`.

    Elsewhere the host would wait for the device, the graph would break, or there is no number but one for each of many.
    """
    if torch.compiler.is_compiling():
        return False
    return all(each.device.type == "cpu" and not _is_one_of_many(each) for each in tensors)


def _is_one_of_many(values: Tensor) -> bool:
    # Not public: where a torch has it elsewhere, nothing is one of many, and `torch.vmap` fails as it did.
    try:
        from torch._C import _functorch
    except ImportError:
        return False
    # `torch.func.grad` inside of `torch.vmap` wraps once more.
    while _functorch.is_functorch_wrapped_tensor(values):
        if _functorch.is_batchedtensor(values):
            return True
        values = _functorch.get_unwrapped(values)
    return False
