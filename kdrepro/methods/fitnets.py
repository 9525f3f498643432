"""Hints: Romero et al. (2015), FitNets: Hints for Thin Deep Nets, section 2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdrepro import checks
from kdrepro.losses.features import hint_loss
from kdrepro.losses.logits import forward_kl, hard_target_loss, soft_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.types import Batch, Outputs, at_least_float32, tapped, without


def regressor(
    student_shape: Sequence[int],
    teacher_shape: Sequence[int],
    *,
    activation: nn.Module | None = None,
    pieces: int = 1,
) -> nn.Sequential:
    """Return the convolution that brings a student's map to the shape of the teacher's.

    Section 2.2: no padding, a kernel of side N_student − N_teacher + 1, as many channels as the hint, and the hint
    layer's own non-linearity. `pieces` is how many channels `activation` makes one of (2 for maxout of two pieces).
    Shapes without the batch: (C, H, W). Raises `ValueError` for other shapes, or a student's map smaller than the
    teacher's.

    >>> regressor((16, 8, 8), (48, 7, 7))
    Sequential(
      (0): Conv2d(16, 48, kernel_size=(2, 2), stride=(1, 1))
    )
    """
    (into, *student_sides), (out, *teacher_sides) = student_shape, teacher_shape
    if len(student_sides) != 2 or len(teacher_sides) != 2:
        raise ValueError(
            f"student_shape, teacher_shape: got {tuple(student_shape)} and {tuple(teacher_shape)}, "
            "expected (C, H, W) each"
        )
    kernel = (student_sides[0] - teacher_sides[0] + 1, student_sides[1] - teacher_sides[1] + 1)
    if min(kernel) < 1:
        raise ValueError(
            f"student_shape: got a map of {tuple(student_sides)}, expected none smaller than the teacher's "
            f"{tuple(teacher_sides)}: the regressor does not pad"
        )
    layers: list[nn.Module] = [nn.Conv2d(into, out * checks.whole("pieces", pieces, least=1), kernel)]
    return nn.Sequential(*layers, *([activation] if activation is not None else []))


class HintStage(nn.Module):
    """Stage 1: bring the guided layer, seen through a regressor, to the teacher's hint (section 2.2, Eq. 3).

    ½ ‖ hint − regressor(guided) ‖², averaged over the batch. `student_tap` and `teacher_tap` name the features. The
    regressor's parameters train with the student's. The loss looks at nothing above the guided layer, so no other
    layer gets a gradient. Returns `{"hint": ()}`; samples that `batch.mask` (B,) leaves out count nowhere. Of a mask
    with one value for each position the same holds for samples of which none counts; where the hint is (B, L, C) and
    the mask (B, L), each position that it leaves out counts nowhere. Raises `TypeError` for a regressor that is no
    module, `ValueError` for a feature that is not there, or a mask of another shape.
    """

    def __init__(self, regressor: nn.Module, *, student_tap: str, teacher_tap: str) -> None:
        super().__init__()
        if not isinstance(regressor, nn.Module):
            raise TypeError(
                f"regressor: got {type(regressor).__name__}, expected a module, such as kdrepro.regressor(...) or "
                "pair.make_regressor()"
            )
        self.regressor = regressor
        self.student_tap, self.teacher_tap = student_tap, teacher_tap

    def extra_repr(self) -> str:
        return f"student_tap={self.student_tap!r}, teacher_tap={self.teacher_tap!r}"

    def guided(self, student: Outputs) -> Tensor:
        """Return the student's feature as the teacher would have it."""
        feature = at_least_float32(tapped("student", student, self.student_tap))
        own = next(self.regressor.parameters(), feature).dtype
        seen: Tensor = self.regressor(feature.to(own))
        return seen

    def distance(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """Return ½ ‖ hint − regressor(guided) ‖², averaged over the samples that count."""
        student, teacher = batch.counted(student), batch.counted_teacher(teacher)
        hint = tapped("teacher", teacher, self.teacher_tap)
        left_out = self.left_out(hint, batch)
        if left_out is None:
            return masked_mean(hint_loss(self.guided(student), hint), batch.mask_of_samples(hint))
        feature = tapped("student", student, self.student_tap)
        if feature.shape[:2] == left_out.shape:
            # In front of the regressor, whose weights NaN there would reach, and behind it, where its bias is.
            student = Outputs(student.logits, {self.student_tap: without(feature, left_out)})
        guided = self.guided(student)
        if guided.shape == hint.shape:
            guided, hint = without(guided, left_out), without(hint, left_out)
        return masked_mean(hint_loss(guided, hint), (~left_out).any(dim=1))

    def left_out(self, hint: Tensor, batch: Batch) -> Tensor | None:
        """Return where positions of a hint (B, L, C) do not count, (B, L); `None` where the mask is not of these."""
        mask = batch.mask
        if hint.ndim != 3 or not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            return None
        if mask.ndim == 2 and mask.shape != hint.shape[:2]:
            raise ValueError(
                f"mask: got shape {tuple(mask.shape)}, expected {tuple(hint.shape[:2])}, the positions of the hint "
                f"{self.teacher_tap!r}, or ({len(hint)},)"
            )
        return ~mask if mask.ndim == 2 else None

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        return {"hint": self.distance(student, teacher, batch)}


class FitNetKD(nn.Module):
    """Stage 2: labels and the teacher's softened classes, whose weight decays (sections 2.1 and 2.3, Eq. 2).

    H(y, P_S) + soft_weight · H(P_T^τ, P_S^τ)

    `temperature` is τ, `soft_weight` is λ: it falls linearly from `soft_weight` to `final_soft_weight` within
    `decay_epochs`. The paper has no factor T². The authors' code softens the teacher's classes only, which
    `soften_student=False` repeats. Returns `{"hard": (), "soft": ()}`; `soft` is less than the
    cross-entropy by the teacher's entropy, which has no gradient, so that it is 0 where student and teacher agree.
    Raises `ValueError` for a temperature or `soft_weight` not above 0, a `final_soft_weight` below 0, or no teacher.
    """

    def __init__(
        self,
        *,
        temperature: float,
        soft_weight: float,
        final_soft_weight: float,
        decay_epochs: int,
        soften_student: bool = True,
    ) -> None:
        super().__init__()
        self.temperature = checks.positive("temperature", temperature)
        self.soft_weight = checks.positive("soft_weight", soft_weight)
        self.final_soft_weight = checks.positive("final_soft_weight", final_soft_weight, or_zero=True)
        self.decay_epochs = checks.whole("decay_epochs", decay_epochs, least=1)
        self.soften_student = soften_student
        self.start_epoch(0)

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature}, soft_weight={self.soft_weight}, "
            f"final_soft_weight={self.final_soft_weight}, decay_epochs={self.decay_epochs}, "
            f"soften_student={self.soften_student}"
        )

    def start_epoch(self, epoch: int) -> None:
        """Set the weight of an epoch, counted from 0. `kdrepro.fit` calls this; another loop must.

        Raises `TypeError` or `ValueError` for anything but a whole number of at least 0.
        """
        done = min(1.0, checks.whole("epoch", epoch) / self.decay_epochs)
        self.weight_now = self.soft_weight + done * (self.final_soft_weight - self.soft_weight)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        student, teacher = batch.counted(student), batch.counted_teacher(teacher)
        hard = hard_target_loss(student.logits, batch.counted_targets)
        if self.soften_student:
            soft = soft_target_loss(student.logits, teacher.logits, temperature=self.temperature)
            soft = soft / self.temperature**2
        else:
            soft = forward_kl(student.logits, at_least_float32(teacher.logits) / self.temperature)
        return {
            "hard": masked_mean(hard, batch.mask),
            "soft": self.weight_now * masked_mean(soft, batch.mask),
        }


class JointFitNet(nn.Module):
    """What most libraries call FitNets: hints beside `objective`, in one stage from random weights.

    objective + hint_weight · mean over batch and elements that count of (hint − regressor(guided))²

    Not the paper's method, which trains in two stages and says that hints together with labels did not learn (section
    3.1). `objective` is `Supervised()` or a `FitNetKD`. Returns its terms and `"hint"`. Raises `TypeError` for `hints`
    that are no `HintStage`, `ValueError` for a `hint_weight` not above 0, or an objective that has a term of that name
    itself.
    """

    def __init__(self, hints: HintStage, objective: nn.Module, *, hint_weight: float) -> None:
        super().__init__()
        if not isinstance(hints, HintStage):
            raise TypeError(
                f"hints: got {type(hints).__name__}, expected a HintStage; the objective comes second"
            )
        self.hints, self.objective = hints, objective
        self.hint_weight = checks.positive("hint_weight", hint_weight)

    def extra_repr(self) -> str:
        return f"hint_weight={self.hint_weight}"

    def start_epoch(self, epoch: int) -> None:
        """Tell the objective beside the hints, if its weights depend on the epoch."""
        start = getattr(self.objective, "start_epoch", None)
        if start is not None:
            start(epoch)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.objective(student, teacher, batch)
        if "hint" in terms:
            raise ValueError(
                f"objective: got {type(self.objective).__name__}, which has a term named 'hint' itself, "
                "expected one without: one of the two hints would be lost"
            )
        distance = self.hints.distance(student, teacher, batch)
        hint = tapped("teacher", teacher, self.hints.teacher_tap)
        if (left_out := self.hints.left_out(hint, batch)) is not None:
            # Of the elements of all samples that count, those at the positions that count.
            per_sample = (~left_out).sum() / (~left_out).any(dim=1).sum() * hint.shape[-1]
            return {**terms, "hint": self.hint_weight * (distance * (2 / per_sample))}
        # The distance is half the sum over the elements of one example.
        return {**terms, "hint": self.hint_weight * (distance * (2 / hint[0].numel()))}
