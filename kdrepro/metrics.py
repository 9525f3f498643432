"""What is measured on logits, once training is over.

Logits are (*batch, K), targets class numbers (*batch,), and what is counted is every position of the batch. All
functions raise `TypeError` for logits that are no floating-point tensor or targets that are no integers, `ValueError`
for shapes that do not belong together, a target out of range, or nothing to measure.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kdrepro import checks, tensor_checks
from kdrepro.types import at_least_float32


def _checked(logits: Tensor, targets: Tensor) -> Tensor:
    tensor_checks.logits("logits", logits)
    tensor_checks.class_targets(targets, classes=logits.shape[-1], leading=logits.shape[:-1])
    return at_least_float32(logits)


def errors(logits: Tensor, targets: Tensor) -> int:
    """Count the examples whose largest logit is not the target's: (*batch, K), (*batch,)."""
    return int((_checked(logits, targets).argmax(dim=-1) != targets).sum())


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Return the share of examples whose largest logit is the target's, in [0, 1]: (*batch, K), (*batch,)."""
    return (targets.numel() - errors(logits, targets)) / targets.numel()


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> float:
    """Return the mean of −log p(target), in nats: (*batch, K), (*batch,)."""
    return cross_entropy(_checked(logits, targets).flatten(0, -2), targets.flatten().long()).item()


def calibration_error(logits: Tensor, targets: Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error, in [0, 1]: (*batch, K), (*batch,).

    Σ_b (n_b / N) |accuracy_b − confidence_b| over `bins` bins of equal width of the largest probability (Guo et al.
    2017, On calibration of modern neural networks, section 2; 15 bins as there). Raises `ValueError` for no bin.
    """
    bins = checks.whole("bins", bins, least=1)
    confidence, predicted = _checked(logits, targets).softmax(dim=-1).max(dim=-1)
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    # On the CPU: not every device has double precision.
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(
        0,
        which.flatten().cpu(),
        ((predicted == targets).cpu().double() - confidence.cpu().double()).flatten(),
    )
    return (gap.abs().sum() / targets.numel()).item()


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> float:
    """Return the share of examples on which both name the same class, in [0, 1]: (*batch, K) twice.

    The top-1 agreement of Stanton et al. (2021), Does knowledge distillation really work?, section 3.
    """
    tensor_checks.same_logits_shape(student_logits, teacher_logits)
    return (student_logits.argmax(dim=-1) == teacher_logits.argmax(dim=-1)).float().mean().item()


def classification(prefix: str, logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the metrics of a classifier under the names that rows use, each behind `prefix`, such as `test`."""
    wrong = errors(logits, targets)
    return {
        f"{prefix}_errors": wrong,
        f"{prefix}_error_rate": wrong / targets.numel(),
        f"{prefix}_accuracy": (targets.numel() - wrong) / targets.numel(),
        f"{prefix}_nll": negative_log_likelihood(logits, targets),
        f"{prefix}_ece": calibration_error(logits, targets),
    }
