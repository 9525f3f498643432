"""Losses between intermediate features of a student and of a teacher: (B, ...) and (B, ...) to (B,)."""

from __future__ import annotations

from torch import Tensor

from kdrepro import tensor_checks
from kdrepro.types import at_least_float32


def hint_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Regress the teacher's feature: half the squared distance ½ ‖u − r‖² of each sample.

    Romero et al. (2015), FitNets, Eq. 3: u is the teacher's hint layer, r the student's guided layer after the
    regressor, which this function leaves to the caller. The sum runs over every dimension but the batch, so the
    value grows with the size of the feature.

    Shapes: (B, ...), (B, ...) → (B,), computed in float32 or wider. The gradient with respect to the student's
    feature is r − u; the teacher gets none.
    Raises `TypeError` for anything but floating-point tensors, `ValueError` for shapes that differ (nothing is
    broadcast).

    >>> import torch
    >>> hint_loss(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 5.0], [0.0, 0.0]]))
    tensor([4.5000, 0.0000])
    """
    tensor_checks.feature("student_feature", student_feature)
    tensor_checks.feature("teacher_feature", teacher_feature)
    if student_feature.shape != teacher_feature.shape:
        raise ValueError(
            f"student_feature: got shape {tuple(student_feature.shape)}, expected the teacher's "
            f"{tuple(teacher_feature.shape)}; a regressor on the student's side (a 1x1 convolution, or one with a "
            "larger kernel) can bring it there"
        )
    difference = at_least_float32(student_feature) - at_least_float32(teacher_feature.detach())
    return difference.square().flatten(1).sum(dim=1) / 2
