"""Multi-layer perceptrons: the nets of Hinton, Vinyals & Dean (2015), section 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdrepro import checks
from kdrepro.models.dropout import Dropout


class MLP(nn.Module):
    """Fully connected ReLU net with optional dropout on the inputs and on each hidden layer.

    `sizes` lists the units from input to output, so `MLP([784, 1200, 1200, 10])` is the paper's teacher
    (2,395,210 parameters) and `MLP([784, 800, 800, 10])` its student (1,276,810).

    Shapes: (B, ...) with as many numbers per example as `sizes[0]` → logits (B, `sizes[-1]`).
    Raises `TypeError` for a size that is no whole number, `ValueError` for fewer than two sizes, a size below 1, a
    dropout outside [0, 1), or inputs of another size.

    >>> sum(parameter.numel() for parameter in MLP([784, 800, 800, 10]).parameters())
    1276810
    """

    def __init__(
        self, sizes: Sequence[int], *, input_dropout: float = 0.0, hidden_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.sizes = [checks.whole("sizes", size, least=1) for size in sizes]
        if len(self.sizes) < 2:
            raise ValueError(f"sizes: got {list(sizes)}, expected at least an input and an output size")
        for name, probability in (("input_dropout", input_dropout), ("hidden_dropout", hidden_dropout)):
            checks.fraction(name, probability, below_one=True)
        layers: list[nn.Module] = [Dropout(input_dropout)] if input_dropout else []
        for into, out in zip(self.sizes[:-2], self.sizes[1:-1], strict=True):
            layers += [nn.Linear(into, out), nn.ReLU()]
            layers += [Dropout(hidden_dropout)] if hidden_dropout else []
        self.layers = nn.Sequential(*layers, nn.Linear(self.sizes[-2], self.sizes[-1]))

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        if flat.shape[1] != self.sizes[0]:
            raise ValueError(f"inputs: got {flat.shape[1]} numbers per example, expected {self.sizes[0]}")
        logits: Tensor = self.layers(flat)
        return logits


@torch.no_grad()
def max_norm_(module: nn.Module, *, limit: float) -> None:
    """Scale, in place, each unit's incoming weights back to an L2 norm of at most `limit`; biases stay.

    The weight constraint of Hinton et al. (2012), Improving neural networks by preventing co-adaptation of feature
    detectors, section 2 and appendix A: the *squared* norm is held at 15, so `limit` is √15. Applies to the hidden and
    output units of every `nn.Linear`, and to each kernel of an `nn.Conv2d`, all input channels together, as the authors
    of FitNets have it. Raises `TypeError` for a limit that is no number, `ValueError` for one not finite and above 0.
    """
    checks.positive("limit", limit)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            norms = layer.weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (layer.weight.ndim - 1))
            layer.weight.mul_((limit / norms.clamp_min(limit)).to(layer.weight.dtype))
