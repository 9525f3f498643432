"""Born again: Furlanello et al. (2018), Born-Again Neural Networks, sections 3 and 4, and label smoothing beside it.

A student of the teacher's own architecture learns from its softmax at temperature 1, and becomes the next teacher. The
loop over the generations is in the recipe; here is what one of them minimises.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from kdrepro import checks, tensor_checks
from kdrepro.losses.logits import forward_kl, hard_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.types import Batch, Outputs, at_least_float32


class BornAgain(nn.Module):
    """Match the teacher's classes as they are, without labels (BAN), or beside them (BAN+L).

    KL(teacher ‖ student) + label_weight · CE(targets, student), both at temperature 1

    `label_weight` is 0 for BAN and 1 for BAN+L, the paper's plain sum of the two. The divergence is less than the
    paper's cross-entropy by the teacher's entropy, which has no gradient. A teacher that is certain makes BAN plain
    training.
    Returns `{"soft": ()}` and, with labels, `"hard"`. Raises `ValueError` for a weight below 0, no teacher, or targets
    that are not one per logit vector, even where they are not read.
    """

    # At which an ensemble is averaged.
    temperature = 1.0

    def __init__(self, *, label_weight: float = 0.0) -> None:
        super().__init__()
        self.label_weight = checks.positive("label_weight", label_weight, or_zero=True)

    def extra_repr(self) -> str:
        return f"label_weight={self.label_weight}"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        student = batch.counted(student)
        soft = forward_kl(student.logits, batch.counted_teacher(teacher).logits)
        tensor_checks.targets_agree(batch.targets, student.logits)
        terms = {"soft": masked_mean(soft, batch.mask)}
        if self.label_weight:
            hard = hard_target_loss(student.logits, batch.counted_targets)
            terms["hard"] = self.label_weight * masked_mean(hard, batch.mask)
        return terms


class ConfidenceWeighted(nn.Module):
    """Learn the labels, each example as much as the teacher is sure of it: CWTM.

    Σ_s w_s · CE(targets_s, student_s) with w_s = max_k p_s / Σ_u max_k p_u, p the teacher's softmax

    The weights of a batch sum to 1 (section 3.2: normalised over the batch), so a teacher equally sure of all examples
    makes this plain training. Nothing else of the teacher is used. Returns `{"hard": ()}`. Raises `ValueError` for no
    teacher, or one whose logits are not as many as the student's.
    """

    # At which an ensemble is averaged.
    temperature = 1.0

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        logits = batch.counted_teacher(teacher).logits.detach()
        if logits.shape[:-1] != student.logits.shape[:-1]:
            raise ValueError(
                f"teacher_logits: got shape {tuple(logits.shape)}, expected {tuple(student.logits.shape[:-1])} and its "
                "classes, like student_logits"
            )
        confidence = at_least_float32(logits).softmax(dim=-1).amax(dim=-1)
        hard = hard_target_loss(batch.counted(student).logits, batch.counted_targets)
        scale = masked_mean(confidence, batch.mask)
        return {"hard": masked_mean(hard * confidence, batch.mask) / scale}


class PermutedDarkKnowledge(nn.Module):
    """Match the teacher's largest probability, and the others in an order of their own for each example: DKPP.

    KL(π(teacher) ‖ student), π a random permutation of all classes but the teacher's largest, drawn anew each time

    What a student still gains has nothing to do with which classes are alike (section 3.2). Returns `{"soft": ()}`.
    """

    # At which an ensemble is averaged.
    temperature = 1.0

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        tensor_checks.targets_agree(batch.targets, student.logits)
        soft = forward_kl(
            batch.counted(student).logits, permuted_others(batch.counted_teacher(teacher).logits)
        )
        return {"soft": masked_mean(soft, batch.mask)}


class LabelSmoothing(nn.Module):
    """Plain training on labels of which a share is spread over all classes: what is left of a teacher without any.

    (1 − smoothing) · CE(targets, student) + smoothing · mean_k CE(k, student)

    Szegedy et al. (2016), section 7: ε is `smoothing`; Yuan et al. (2020) set it beside distillation. Returns
    `{"hard": ()}`, less the entropy of the smoothed label, so that 0 is the least. Raises `ValueError` outside [0, 1].
    """

    def __init__(self, *, smoothing: float) -> None:
        super().__init__()
        self.smoothing = checks.fraction("smoothing", smoothing)

    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing}"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        student = batch.counted(student)
        classes = student.logits.shape[-1]
        targets = tensor_checks.class_targets_at_hand(
            batch.counted_targets, classes=classes, leading=student.logits.shape[:-1]
        )
        logits = at_least_float32(student.logits)
        label = torch.full_like(logits, self.smoothing / classes)
        label.scatter_add_(-1, targets.long()[..., None], torch.full_like(label[..., :1], 1 - self.smoothing))
        # Without smoothing the label of a class that is left out with -inf is 0, and 0 · -inf no number.
        terms = label * log_softmax(logits, dim=-1).masked_fill(label == 0, 0.0)
        cross = -terms.sum(dim=-1)
        entropy = -torch.xlogy(label, label).sum(dim=-1)
        return {"hard": masked_mean(cross - entropy, batch.mask)}


def permuted_others(logits: Tensor) -> Tensor:
    """Shuffle the logits of each example but its largest, which stays where it is: (*batch, K) → (*batch, K)."""
    keys = torch.rand(logits.shape, device=logits.device)
    largest = logits.argmax(dim=-1, keepdim=True)
    # Sorted by these keys the largest comes first, and the others in a random order, or in that of the classes.
    random = keys.scatter(-1, largest, -1.0).argsort(dim=-1)
    plain = torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape)
    plain = plain.scatter(-1, largest, -1).argsort(dim=-1)
    return torch.empty_like(logits).scatter(-1, plain, logits.gather(-1, random))
