"""Magnitude pruning: the smallest weights of a net are set to 0, and stay 0 while the others are trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdrepro import checks


@torch.no_grad()
def prune_(module: nn.Module, *, share: float) -> Callable[[nn.Module], None]:
    """Set the `share` of a module's weights that is nearest to 0 to 0, in place, and return what keeps them there.

    Kim & Rush (2016), section 5.2, after See, Luong & Manning (2016), section 3.1, class-blind: all matrices together,
    whatever they are for, so that layers of small weights lose more. Vectors (biases) are left alone. What is returned
    is called with the module after each step of training, `after_step` of `kdrepro.fit`.
    Raises `ValueError` for a share outside [0, 1] or a module without a matrix.

    >>> net = nn.Linear(2, 2, bias=False)
    >>> net.weight = nn.Parameter(torch.tensor([[1.0, -0.1], [0.2, -3.0]]))
    >>> keep = prune_(net, share=0.5)
    >>> net.weight.tolist()
    [[1.0, 0.0], [0.0, -3.0]]
    """
    checks.fraction("share", share)
    weights = {name: weight for name, weight in module.named_parameters() if weight.ndim > 1}
    if not weights:
        raise ValueError(
            f"module: got {type(module).__name__} without a matrix of weights, expected at least one"
        )
    sizes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    count = round(share * len(sizes))
    # By rank, not by a threshold: of weights that are equal only as many go as shall go.
    gone = torch.zeros(len(sizes), dtype=torch.bool, device=sizes.device)
    gone[sizes.argsort(stable=True)[:count]] = True
    parts = torch.split(gone, [weight.numel() for weight in weights.values()])
    pruned: dict[str, Tensor] = {
        name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts, strict=True)
    }

    @torch.no_grad()
    def keep(trained: nn.Module) -> None:
        own = dict(trained.named_parameters())
        for name, mask in pruned.items():
            if name not in own:
                raise ValueError(
                    f"module: got {type(trained).__name__} without {name}, expected the module that was pruned, and no "
                    "wrapper around it"
                )
            # The module moves to its device after it was pruned; the masks follow once.
            pruned[name] = mask.to(own[name].device)
            own[name].masked_fill_(pruned[name], 0.0)

    keep(module)
    return keep


def remaining_weights(module: nn.Module) -> int:
    """Count the parameters of a module that are not 0."""
    return sum(int(parameter.count_nonzero()) for parameter in module.parameters())


def kept_shares(module: nn.Module) -> dict[str, float]:
    """Say of each direct child of a module, by name, which share of its matrices is not 0: what pruning left of it.

    >>> net = nn.ModuleDict({"lower": nn.Linear(2, 2), "upper": nn.Linear(2, 2)})
    >>> with torch.no_grad():
    ...     net["upper"].weight[0] = 0.0
    >>> kept_shares(net)
    {'lower': 1.0, 'upper': 0.5}
    """
    sizes: dict[str, tuple[int, int]] = {}
    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            child = name.partition(".")[0]
            kept, count = sizes.get(child, (0, 0))
            sizes[child] = kept + int(weight.count_nonzero()), count + weight.numel()
    return {child: kept / count for child, (kept, count) in sizes.items()}
