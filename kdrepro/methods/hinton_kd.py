"""Soft targets: Hinton, Vinyals & Dean (2015), Distilling the Knowledge in a Neural Network, section 2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdrepro import checks, tensor_checks
from kdrepro.losses.logits import hard_target_loss, soft_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.types import Batch, Outputs, at_least_float32


class HintonKD(nn.Module):
    """Match the teacher's softened classes and, with the weight that is left, the true ones.

    soft_weight · T² KL(teacher_T ‖ student_T) + (1 − soft_weight) · CE(targets, student_1)

    `temperature` is T. The paper gives no number for the weights on MNIST, only that the hard one is "considerably
    lower"; in its speech experiment soft to hard is 1 to 0.5. With weights that sum to one a learning rate means the
    same at either end. Terms of weight 0 are not computed, and the loss is continuous there. `class_weights` (K,)
    weigh the hard term, whose mean is over the positions, not divided by the sum of their weights (see
    `hard_target_loss`).

    Returns `{"soft": (), "hard": ()}`, already weighted, without the terms of weight 0. The teacher's logits get no
    gradient. Positions that `batch.mask` leaves out get none either.
    Raises `ValueError` for a temperature not finite and above 0, a weight outside [0, 1], no teacher, targets that
    are not one per logit vector, even where no term reads them, or class weights beside a `soft_weight` of 1, not
    finite, below 0, or not one for each class.
    """

    class_weights: Tensor | None

    def __init__(
        self, *, temperature: float, soft_weight: float, class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.temperature = checks.positive("temperature", temperature)
        self.soft_weight = checks.fraction("soft_weight", soft_weight)
        weights = (
            None if class_weights is None else tensor_checks.class_weights(class_weights).detach().clone()
        )
        if weights is not None and self.soft_weight == 1:
            raise ValueError(
                "class_weights: got them with soft_weight=1, expected None: there is no hard term"
            )
        # A setting, which a checkpoint does not bring along.
        self.register_buffer("class_weights", weights, persistent=False)

    def extra_repr(self) -> str:
        weighed = "" if self.class_weights is None else f", class_weights of {len(self.class_weights)}"
        return f"temperature={self.temperature}, soft_weight={self.soft_weight}{weighed}"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        student = batch.counted(student)
        if self.soft_weight > 0:
            taught = batch.counted_teacher(teacher).logits
            soft = soft_target_loss(student.logits, taught, temperature=self.temperature)
            tensor_checks.targets_agree(batch.targets, student.logits)
            terms["soft"] = self.soft_weight * masked_mean(soft, batch.mask)
        if self.soft_weight < 1:
            targets = batch.counted_targets
            hard = hard_target_loss(student.logits, targets, class_weights=self.class_weights)
            terms["hard"] = (1 - self.soft_weight) * masked_mean(hard, batch.mask)
        return terms


def tuned_bias(logits: Tensor, targets: Tensor, *, classes: Sequence[int]) -> float:
    """Find the amount that, added to the logits of `classes`, leaves the fewest errors on these examples.

    Hinton, Vinyals & Dean (2015), section 3: "the bias … optimises overall performance on the test set". Searched from
    −20 to 20 in steps of 0.1; of equally good amounts the one nearest 0. Shapes: (N, K), (N,).

    Raises `TypeError` for logits that are no floating-point tensor, and for targets or `classes` that are no integers;
    `ValueError` for other shapes, a target out of range, or `classes` that are not different ones, at least one.
    """
    inside_classes = _classes(logits, classes)
    tensor_checks.class_targets(targets, classes=logits.shape[-1], leading=logits.shape[:-1])
    amounts = torch.arange(-200, 201, device=logits.device) / 10
    chosen = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    chosen[inside_classes] = True
    wide = at_least_float32(logits)
    inside, inside_class = wide.masked_fill(~chosen, -torch.inf).max(dim=-1)
    outside, outside_class = wide.masked_fill(chosen, -torch.inf).max(dim=-1)
    wins = inside + amounts[:, None] > outside
    errors = (torch.where(wins, inside_class, outside_class) != targets).sum(dim=-1)
    best = amounts[errors == errors.min()]
    return best[best.abs().argmin()].item()


def frequency_bias(logits: Tensor, *, classes: Sequence[int], frequency: float) -> float:
    """Find the amount that, added to the logits of `classes`, gives them a mean probability of `frequency`.

    Needs no labels of the examples, only how frequent the classes are: a correction that leaves the test set alone.
    The mean probability grows with the amount, so bisection between −50 and 50 finds it. Shape: (N, K).

    Errors as `tuned_bias`, and `ValueError` for a frequency that is not above 0 and below 1, and for all classes at
    once, whose probability is 1 whatever is added.
    """
    raised = _classes(logits, classes)
    if len(raised) == logits.shape[-1]:
        raise ValueError(
            f"classes: got all {len(raised)}, expected fewer: no amount changes their probability, 1"
        )
    checks.fraction("frequency", frequency, above_zero=True, below_one=True)
    # Not every device has float64.
    wide = logits.cpu().double()
    shift = torch.zeros(logits.shape[-1], dtype=torch.float64)
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        shift[raised] = middle
        mass = (wide + shift).softmax(dim=-1)[:, raised].sum(dim=-1).mean().item()
        low, high = (middle, high) if mass < frequency else (low, middle)
    return (low + high) / 2


def with_bias(logits: Tensor, *, classes: Sequence[int], amount: float) -> Tensor:
    """Return the logits with `amount` added to those of `classes`: (N, K) → (N, K).

    Errors as `tuned_bias`, and for an amount that is no finite number.
    """
    checks.finite("amount", amount)
    raised = _classes(logits, classes)
    shift = torch.zeros(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    shift[raised] = amount
    return logits + shift


def _classes(logits: Tensor, classes: Sequence[int]) -> list[int]:
    """Return `classes` as a list, or raise unless they are different classes of the logits (N, K), at least one."""
    if tensor_checks.logits("logits", logits).ndim != 2:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected (N, K)")
    numbers, last = [checks.whole("classes", each) for each in classes], logits.shape[-1] - 1
    if not numbers or len(set(numbers)) < len(numbers) or max(numbers) > last:
        raise ValueError(
            f"classes: got {numbers}, expected different class numbers from 0 to {last}, at least one"
        )
    return numbers
