"""Soft targets: Hinton, Vinyals & Dean (2015), Distilling the Knowledge in a Neural Network, section 2."""

from __future__ import annotations

from torch import Tensor, nn

from kdrepro import checks
from kdrepro.losses.logits import hard_target_loss, soft_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.types import Batch, Outputs


class HintonKD(nn.Module):
    """Match the teacher's softened classes and, with the weight that is left, the true ones.

    soft_weight · T² KL(teacher_T ‖ student_T) + (1 − soft_weight) · CE(targets, student_1)

    `temperature` is T. The paper gives no number for the weights on MNIST, only that the hard one is "considerably
    lower"; in its speech experiment soft to hard is 1 to 0.5. With weights that sum to one a learning rate means the
    same at either end. Terms of weight 0 are not computed, and the loss is continuous there.

    Returns `{"soft": (), "hard": ()}`, already weighted, without the terms of weight 0. The teacher's logits get no
    gradient. Positions that `batch.mask` leaves out get none either.
    Raises `ValueError` for a temperature not finite and above 0, a weight outside [0, 1], or no teacher.
    """

    def __init__(self, *, temperature: float, soft_weight: float) -> None:
        super().__init__()
        self.temperature = checks.positive("temperature", temperature)
        self.soft_weight = checks.fraction("soft_weight", soft_weight)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, soft_weight={self.soft_weight}"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.soft_weight > 0:
            if teacher is None:
                raise ValueError("teacher: got None, expected the teacher's outputs (soft_weight is above 0)")
            soft = soft_target_loss(student.logits, teacher.logits, temperature=self.temperature)
            terms["soft"] = self.soft_weight * masked_mean(soft, batch.mask)
        if self.soft_weight < 1:
            hard = hard_target_loss(student.logits, batch.counted_targets)
            terms["hard"] = (1 - self.soft_weight) * masked_mean(hard, batch.mask)
        return terms
