"""Losses between the logits of a student and of a teacher, or the true classes.

Each maps (*batch, K) and (*batch, K) to (*batch), computes in float32 or wider, and sends no gradient to the teacher.
K is the number of classes. A class padded with -inf on both sides changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from kdrepro import checks, tensor_checks
from kdrepro.types import at_least_float32

_NO_CLASS = torch.iinfo(torch.int64).min


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    # Half precision has too few digits for a difference of log-probabilities.
    return log_softmax(at_least_float32(logits) / temperature, dim=-1)


def _pair(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    tensor_checks.same_logits_shape(student_logits, teacher_logits)
    temperature = checks.positive("temperature", temperature)
    return _log_probs(student_logits, temperature), _log_probs(teacher_logits.detach(), temperature)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    # Where p is 0 (a log-probability of -inf, or one that underflows) the term is 0 by continuity. The inner `where`s
    # keep inf - inf and 0 * inf out of the graph: their gradient would be NaN even where an outer one drops them.
    probs = log_p.exp()
    impossible = probs == 0
    difference = torch.where(impossible, 0.0, log_p) - torch.where(impossible, 0.0, log_q)
    return (torch.where(impossible, 0.0, probs) * difference).sum(dim=-1)


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence KL(teacher ‖ student) of the softened classes, in nats.

    Σ_k p_k (log p_k − log q_k), with p and q the teacher's and the student's softmax at `temperature`.
    No factor T²: see `soft_target_loss`.

    Shapes: (*batch, K), (*batch, K) → (*batch). Zero, with zero gradient, where both are equal up to a shift.
    Raises `TypeError` for anything but floating-point tensors and a number, `ValueError` for shapes that differ
    (nothing is broadcast) or a temperature that is not finite and above 0.

    >>> forward_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[100.0, 0.0]]))  # log 2
    tensor([0.6931])
    """
    student_log_probs, teacher_log_probs = _pair(student_logits, teacher_logits, temperature)
    return _kl(teacher_log_probs, student_log_probs)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence KL(student ‖ teacher) of the softened classes, in nats.

    Σ_k q_k (log q_k − log p_k): the mode-seeking direction (Gu et al. 2024, MiniLLM, section 2).

    Shapes, errors and invariants as `forward_kl`.
    """
    student_log_probs, teacher_log_probs = _pair(student_logits, teacher_logits, temperature)
    return _kl(student_log_probs, teacher_log_probs)


def jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, *, teacher_weight: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """Generalised Jensen-Shannon divergence of the softened classes, in nats.

    w KL(p ‖ m) + (1 − w) KL(q ‖ m) with m = w p + (1 − w) q, p the teacher, q the student, w the `teacher_weight`
    (Agarwal et al. 2024, GKD, section 2: β in the paper). Symmetric at w = 0.5, and at most log 2 there. Towards w = 0
    it becomes w · `forward_kl`, towards w = 1 it becomes (1 − w) · `reverse_kl`; at either end it is 0, without a
    gradient.

    In float32 its value is known to about 10⁻⁷, and is small itself near the ends: relative to it that is 10⁻⁷ over the
    smaller of w and 1 − w, and the gradient is known to 10⁻⁷ / w (both to 10⁻⁴ at w = 0.001, to a tenth at 10⁻⁶).
    Nearer to an end give float64, or take the limit.

    Shapes and errors as `forward_kl`, and `ValueError` for a `teacher_weight` that is not above 0 and below 1.
    """
    student_log_probs, teacher_log_probs = _pair(student_logits, teacher_logits, temperature)
    weight = checks.fraction("teacher_weight", teacher_weight)
    if weight in (0.0, 1.0):
        limit = "forward_kl" if weight == 0.0 else "reverse_kl"
        raise ValueError(
            f"teacher_weight: got {teacher_weight!r}, expected a number in (0, 1): there it is 0 for any student; its "
            f"limit, divided by the weight that goes to 0, is {limit}"
        )
    log_weight = torch.tensor(weight, dtype=student_log_probs.dtype, device=student_log_probs.device).log()
    log_rest = torch.log1p(-log_weight.exp())
    # logaddexp of two -inf has a NaN gradient; a floor far below any probability keeps padded classes finite.
    floor = torch.finfo(torch.float32).min / 4
    student_log_probs, teacher_log_probs = (
        student_log_probs.clamp_min(floor),
        teacher_log_probs.clamp_min(floor),
    )
    mixture_log_probs = torch.logaddexp(log_weight + teacher_log_probs, log_rest + student_log_probs)
    return weight * _kl(teacher_log_probs, mixture_log_probs) + (1 - weight) * _kl(
        student_log_probs, mixture_log_probs
    )


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Match the teacher's softened classes: T² · KL(teacher ‖ student), both at temperature T.

    Hinton, Vinyals & Dean (2015), section 2. The factor T² makes up for the 1/T² in the size of the gradient, so that
    the weight of this term does not have to change with T. The paper writes a cross-entropy; the KL divergence differs
    from it by the teacher's entropy, which has no gradient, and is 0 where the student equals the teacher.

    Shapes: (*batch, K), (*batch, K) → (*batch), in nats times T². The gradient with respect to the student's logits is
    T (q − p); as T grows the loss tends to ½ ‖centred difference of the logits‖² / K (section 2.1). In float32 its
    value, not its gradient, is known to about 10⁻⁷ T²: above T = 100 give float64 where the value matters.
    Errors as `forward_kl`.

    >>> student = torch.tensor([[1.0, 2.0, 3.0]])
    >>> soft_target_loss(student, student + 5.0, temperature=4.0)
    tensor([0.])
    """
    return forward_kl(student_logits, teacher_logits, temperature=temperature) * float(temperature) ** 2


def hard_target_loss(
    student_logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with the true classes, at temperature 1: −log q of the target, in nats.

    With `class_weights` w (K,) it is −w log q, w that of the target, as torch's `CrossEntropyLoss(weight=w,
    reduction="none")`. A mean of it is over the positions; torch's own divides by the sum of their weights instead.

    Shapes: (*batch, K), (*batch) → (*batch).
    Raises `TypeError` for targets that are not integers, or weights that are no floating-point tensor, `ValueError` for
    another shape, weights that are not finite or below 0, or, on the CPU, a class out of
    range (elsewhere the host would wait for the values, and torch stops at a class that there is not by itself; in
    `torch.compile` and under `torch.vmap` nobody looks either).

    >>> hard_target_loss(torch.zeros(1, 2), torch.tensor([1]))
    tensor([0.6931])
    """
    *leading, classes = tensor_checks.logits("student_logits", student_logits).shape
    tensor_checks.class_targets_at_hand(targets, classes=classes, leading=tuple(leading))
    wide = at_least_float32(student_logits)
    if class_weights is not None:
        if len(tensor_checks.class_weights(class_weights)) != classes:
            raise ValueError(
                f"class_weights: got {len(class_weights)} of them, expected {classes}, one for each class"
            )
        class_weights = class_weights.to(wide)
    # Torch would give −100, the usual padding, a loss of 0, which counts in a mean.
    losses = cross_entropy(
        wide.reshape(-1, classes),
        targets.reshape(-1).long(),
        weight=class_weights,
        reduction="none",
        ignore_index=_NO_CLASS,
    )
    return losses.reshape(targets.shape)
