"""Attention as the gradient by the input: Zagoruyko & Komodakis (2017), Paying More Attention to Attention, 3.2.

These losses need the nets themselves and not only their outputs, so they are functions for a training loop of one's
own, not objectives for `kdrepro.fit` or `kdrepro.Distiller`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrepro import checks, tensor_checks
from kdrepro.losses.attention import gradient_attention_loss, gradient_symmetry_loss
from kdrepro.losses.logits import hard_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.types import Batch, as_outputs


def loss_and_input_gradient(
    module: nn.Module, inputs: Tensor, targets: Tensor, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of each sample, (B,), and its gradient with respect to the sample, as `inputs`.

    With `create_graph` both can be differentiated once more, by the weights: that is double backpropagation. Without
    it both come detached. No weight's `.grad` is touched. The gradient belongs to a sample alone only if the net
    treats samples apart: BatchNorm in train mode does not, and the paper's nets for this method have none.
    """
    inputs = tensor_checks.feature("inputs", inputs).detach().requires_grad_()
    with torch.enable_grad():
        losses = hard_target_loss(as_outputs(module(inputs)).logits, targets)
        (gradient,) = torch.autograd.grad(losses.sum(), inputs, create_graph=create_graph)
    return (losses, gradient) if create_graph else (losses.detach(), gradient)


def gradient_attention_transfer(
    student: nn.Module, teacher: nn.Module, batch: Batch, *, gradient_weight: float
) -> dict[str, Tensor]:
    """Learn the classes, and be as sensitive to each pixel as the teacher (section 3.2).

    CE(student) + gradient_weight · ‖∂CE(student)/∂x − ∂CE(teacher)/∂x‖, each averaged over the batch

    `gradient_weight` is β/2. Returns `{"gradient": (), "hard": ()}`, already weighted; the backward pass of the first
    goes through the student twice. `.backward()` leaves no gradient on the teacher's weights.
    Raises `TypeError` for inputs that are no floating-point tensor, `ValueError` for a teacher in train mode, whose
    answer would depend on the batch, or a weight not above 0.
    """
    weight = checks.positive("gradient_weight", gradient_weight)
    if any(part.training for part in teacher.modules()):
        raise ValueError("teacher: got a net in train mode, expected eval mode: call teacher.eval()")
    inputs, targets = _pictures(batch), batch.counted_targets
    losses, ours = loss_and_input_gradient(student, inputs, targets, create_graph=True)
    _, theirs = loss_and_input_gradient(teacher, inputs, targets)
    distance = gradient_attention_loss(ours, theirs)
    return {
        "gradient": weight * masked_mean(distance, batch.mask),
        "hard": masked_mean(losses, batch.mask),
    }


def gradient_symmetry(student: nn.Module, batch: Batch, *, gradient_weight: float) -> dict[str, Tensor]:
    """Learn the classes, and be as sensitive to each pixel as to its mirror image, without a teacher (section 3.2).

    CE(x) + gradient_weight · ‖∂CE(x)/∂x − flip(∂CE(flip x)/∂x)‖, each averaged over the batch

    `gradient_weight` is β/2; flip is left to right, over the last dimension. Returns `{"gradient": (), "hard": ()}`,
    already weighted. Raises `TypeError` for inputs that are no floating-point tensor, `ValueError` for a weight not
    above 0.
    """
    weight = checks.positive("gradient_weight", gradient_weight)
    inputs, targets = _pictures(batch), batch.counted_targets
    losses, gradient = loss_and_input_gradient(student, inputs, targets, create_graph=True)
    _, mirrored = loss_and_input_gradient(student, inputs.flip(-1), targets, create_graph=True)
    distance = gradient_symmetry_loss(gradient, mirrored)
    return {
        "gradient": weight * masked_mean(distance, batch.mask),
        "hard": masked_mean(losses, batch.mask),
    }


def _pictures(batch: Batch) -> Tensor:
    if not isinstance(batch.inputs, Tensor):
        raise TypeError(f"batch: got inputs of {type(batch.inputs).__name__}, expected a tensor of pictures")
    mask = batch.mask
    # One that does not fit is left for `masked_mean` to refuse.
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != batch.inputs.shape[:1]:
        return batch.inputs
    # What does not count may be NaN, which a gradient of 0 would still carry into the weights.
    left_out = ~mask.view(-1, *[1] * (batch.inputs.ndim - 1))
    return batch.inputs.masked_fill(left_out, 0.0)
