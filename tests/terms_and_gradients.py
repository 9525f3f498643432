"""What tests ask of a loss and of an objective: the gradient, and the sum of all terms."""

import torch
from torch import Tensor


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, of, retain_graph=True)
    return result
