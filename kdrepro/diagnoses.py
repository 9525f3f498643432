"""The mistakes that can be read off the numbers of one batch: inputs, logits, targets, loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from kdrepro import tensor_checks
from kdrepro.types import Batch, Outputs

# A teacher is called at chance when one guesser in a hundred would do as well, and only on a batch on which a
# teacher halfway between guessing and perfect would pass 99 times in a hundred.
_LEVEL = 0.01

# Of the values of a feature that may be below 0, so that a rounding is none.
_NOTICEABLE = 0.01


@dataclass(frozen=True)
class Finding:
    """One mistake that `check` found: a stable `code`, its `severity`, what is the matter, and what to do."""

    code: str
    severity: Literal["error", "warning"]
    message: str
    advice: str


def error(code: str, message: str, advice: str) -> Finding:
    """A finding that stops or voids the training."""
    return Finding(code, "error", message, advice)


def warning(code: str, message: str, advice: str) -> Finding:
    """A finding that is worth a thought."""
    return Finding(code, "warning", message, advice)


def tensors(inputs: Tensor | Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among a batch's inputs, by the name a message should give them."""
    named = tensor_checks.named(inputs)
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def in_inputs(inputs: Tensor | Mapping[str, Any]) -> Iterator[Finding]:
    """Numbers that are not finite."""
    for name, value in tensors(inputs).items():
        wrong = int((~value.isfinite()).sum()) if value.is_floating_point() else 0
        if wrong:
            message = f"{name}: {wrong} of {value.numel()} values are NaN or infinite"
            yield error("inputs_not_finite", message, "Mend the data or what prepares it.")


def in_logits(name: str, logits: Tensor) -> Iterator[Finding]:
    """Logits of one side, `teacher`, `teacher[2]` or `student`, that are not finite or not logits."""
    side = name.partition("[")[0]
    lowest = logits == -math.inf
    # A class that is -inf in every row is one that is left out on purpose.
    wrong = logits.isnan() | (logits == math.inf) | (lowest & ~lowest.flatten(0, -2).all(0))
    if bool(wrong.any()):
        where = tuple(int(index) for index in wrong.nonzero()[0])
        yield error(
            f"{side}_not_finite",
            f"{name}: {int(wrong.sum())} of {logits.numel()} logits are NaN or infinite, "
            f"the first at {where} is {logits[where].item()}",
            "Look for weights that diverged, half precision that overflows, or inputs not normalised.",
        )
        return
    low, high = logits.detach().aminmax()
    if logits.shape[-1] > 1 and 0 <= float(low) <= float(high) <= 1 and _sums_to_one(logits):
        yield warning(
            f"{side}_gives_probabilities",
            f"{name}: every row lies in [0, 1] and sums to 1, so these are probabilities, not logits",
            "Take the last softmax away: the losses apply their own.",
        )


def _sums_to_one(rows: Tensor) -> bool:
    # On the CPU: not every device has double precision.
    return bool(((rows.cpu().double().sum(-1) - 1).abs() < 1e-2).all())


def in_axes(logits: Tensor) -> Iterator[Finding]:
    """Logits of pictures point by point, of which no target says which axis has the classes."""
    if logits.ndim > 3:
        yield warning(
            "classes_last",
            f"the logits have shape {tuple(logits.shape)}, of which the last, {logits.shape[-1]}, is the classes",
            "Where they are in dimension 1, as a segmentation network gives them, move them: logits.movedim(1, -1).",
        )


def in_targets(batch: Batch, logits: Tensor) -> Iterator[Finding]:
    """Targets and mask that do not go with the student's logits."""
    mask, leading, classes = batch.mask, logits.shape[:-1], logits.shape[-1]
    try:
        targets = tensor_checks.integer_targets(batch.targets, classes=classes, leading=leading)
    except TypeError as problem:
        advice = "Use targets.long(), or .argmax(-1) where they are one-hot."
        yield error("targets_type", str(problem), advice)
        return
    except ValueError as problem:
        advice = "Give one class number per position; one-hot targets become numbers by .argmax(-1)."
        yield error("targets_shape", str(problem), advice)
        return
    if mask is not None and (getattr(mask, "dtype", None) != torch.bool or mask.shape != leading):
        got = (
            f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        )
        yield error(
            "mask_invalid",
            f"mask: got {got}, expected torch.bool of {tuple(leading)}",
            "Make it boolean, True where a position counts, with the shape of the targets.",
        )
    elif mask is not None and not bool(mask.any()):
        yield error(
            "mask_empty", "mask: no position counts", "See that True stands for a position that counts."
        )
    else:
        counted = targets if mask is None else targets[mask]
        low, high = int(counted.min()), int(counted.max())
        if low < 0 or high >= classes:
            yield error(
                "targets_out_of_range",
                f"targets: got values from {low} to {high}, expected class numbers from 0 to {classes - 1}",
                "-100 marks padding: leave it out with mask=targets != -100."
                if low == -100
                else "Count classes from 0, mask padding out, and compare the number of classes with the data's.",
            )
        if logits.ndim == 3 and any(
            value.shape == targets.shape
            and bool(((value == targets) if mask is None else (value == targets)[mask]).all())
            for value in tensors(batch.inputs).values()
        ):
            yield warning(
                "targets_are_inputs",
                "targets: are the numbers of the tokens that go in, so each position learns to repeat what it sees",
                "For a language model shift them: position j is to say token j + 1, and the last counts for nothing.",
            )


def between(teacher_logits: Tensor, student_logits: Tensor) -> Iterator[Finding]:
    """Logits of the two sides that cannot be compared, or have nothing to tell each other."""
    ours, theirs = student_logits.shape, teacher_logits.shape
    if ours[-1] != theirs[-1]:
        yield error(
            "classes_differ",
            f"the teacher gives {theirs[-1]} classes, the student {ours[-1]}",
            "Compare the sizes of the output layers (a language model's, not its tokenizer's vocabulary), "
            "and see that class k means the same to both.",
        )
    elif ours != theirs:
        yield error(
            "shapes_differ",
            f"the teacher's logits have shape {tuple(theirs)}, the student's {tuple(ours)}",
            "Both must give one vector of logits for each of the same positions.",
        )
    elif torch.equal(teacher_logits.to(student_logits), student_logits):
        yield warning(
            "same_outputs",
            "teacher and student give the same logits: the loss between them is 0",
            "See whether the teacher's outputs are used twice; a copy of the teacher starts like this.",
        )


def in_accuracy(batch: Batch, teacher_logits: Tensor) -> Iterator[Finding]:
    """A teacher right no more often than guessing, where the batch is large enough to tell (binomial)."""
    if batch.targets is None:
        return
    right = teacher_logits.argmax(-1) == batch.targets.to(teacher_logits.device)
    if batch.mask is not None:
        right = right[batch.mask]
    count, correct, classes = right.numel(), int(right.sum()), teacher_logits.shape[-1]
    if classes < 2:
        return
    guess = 1 / classes
    least = int((_at_least(count, guess) > _LEVEL).sum())
    if correct < least and _at_least(count, (1 + guess) / 2)[least] >= 1 - _LEVEL:
        yield error(
            "teacher_at_chance",
            f"the teacher is right on {correct} of {count} positions, no more than guessing among "
            f"{classes} classes; {least} would tell it from that",
            "See that its weights are loaded, that inputs are normalised as it was trained, and that its "
            "classes are numbered like the targets.",
        )


def _at_least(count: int, rate: float) -> np.ndarray:
    """Probability of at least 0, 1, ..., `count` + 1 of `count` when each has probability `rate`."""
    # Here, as few calls of `check` come this far, and scipy would be loaded for all.
    from scipy.special import bdtrc

    return np.asarray(bdtrc(np.arange(-1, count + 1), count, rate))


def in_objective(objective: nn.Module, student: Outputs, teacher: Outputs, batch: Batch) -> Iterator[Finding]:
    """An objective that fails, is not finite, or sends its gradient to the wrong side."""
    leaves = [_leaf(outputs) for outputs in (student, teacher)]
    try:
        terms = tensor_checks.terms(objective(*leaves, batch))
        loss = torch.stack(list(terms.values())).sum()
    # Whatever a stranger's objective raises is the finding.
    except Exception as problem:
        yield error(
            "objective_fails",
            f"objective: failed on this batch with {type(problem).__name__}: {problem}",
            "Call objective(Outputs(student_logits), Outputs(teacher_logits), batch) by hand.",
        )
        yield from _features_that_differ(student, teacher)
        return
    if not bool(loss.isfinite()):
        values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
        yield error(
            "loss_not_finite", f"objective: the loss is not finite ({values})", "Mend the term that is not."
        )
        return
    ours, theirs = ([leaf.logits, *leaf.features.values()] for leaf in leaves)
    gradients: list[Tensor | None] = [None] * len(ours + theirs)
    # Whole numbers, such as those that go into an embedding, have no gradient.
    asked = [place for place, each in enumerate(ours + theirs) if each.requires_grad]
    if loss.requires_grad and asked:
        found = torch.autograd.grad(loss, [(ours + theirs)[place] for place in asked], allow_unused=True)
        for place, gradient in zip(asked, found, strict=True):
            gradients[place] = gradient
    to_student, to_teacher = gradients[: len(ours)], gradients[len(ours) :]
    if all(gradient is None for gradient in to_student):
        yield error(
            "student_gets_no_gradient",
            "objective: its loss does not depend on the student's outputs",
            "See whether teacher and student are swapped, or the teacher's outputs used twice.",
        )
    elif any(gradient is not None and not bool(gradient.isfinite().all()) for gradient in to_student):
        yield error(
            "gradient_not_finite",
            "objective: the loss is finite, its gradient to the student is not",
            "Compute with log_softmax, never with the logarithm of a softmax.",
        )
    if any(gradient is not None and bool((gradient != 0).any()) for gradient in to_teacher):
        yield warning(
            "gradient_to_teacher",
            "objective: it sends a gradient to the teacher's outputs",
            "Detach them: kdrepro.fit and Distiller run the teacher without gradient, another loop may not.",
        )


def _features_that_differ(student: Outputs, teacher: Outputs) -> Iterator[Finding]:
    for name, ours in student.features.items():
        theirs = teacher.features.get(name)
        if theirs is not None and theirs.shape != ours.shape:
            yield error(
                "features_differ",
                f"features[{name!r}]: the teacher's has shape {tuple(theirs.shape)}, the student's "
                f"{tuple(ours.shape)}, and the objective failed with them",
                "Give the objective a regressor for this pair, or tap another; kdrepro.suggest_pairs names both.",
            )


def in_hints(objective: nn.Module, student: Outputs, teacher: Outputs, batch: Batch) -> Iterator[Finding]:
    """A feature of the teacher that falls below 0 where what is compared with it never does (ends in a ReLU).

    What is compared with a feature is found by folding its values below 0 up: the gradient to the other side changes.
    Attention maps do not see the difference, and are no mistake. The objective should be in eval mode.
    """
    for name, hint in teacher.features.items():
        if not hint.is_floating_point() or (hint < 0).float().mean() < _NOTICEABLE:
            continue
        folded = Outputs(teacher.logits, {**teacher.features, name: hint.abs()})
        as_it_is, otherwise = (_gradients(objective, student, each, batch) for each in (teacher, folded))
        compared = [
            (what, value)
            for (what, value, gradient), (_, _, other) in zip(as_it_is, otherwise, strict=True)
            if value.shape == hint.shape and (gradient - other).norm() > 1e-3 * gradient.norm()
        ]
        # The last that the objective computed, if its parts computed any, else the student's feature as it came.
        if compared and bool((compared[-1][1] >= 0).all()):
            yield warning(
                "hint_out_of_reach",
                f"features[{name!r}]: {float((hint < 0).float().mean()):.0%} of the teacher's values are below 0, "
                f"none of {compared[-1][0]}, which is compared with it",
                "Let the regressor end without a ReLU, or tap both networks behind one, or both before it.",
            )


def _gradients(
    objective: nn.Module, student: Outputs, teacher: Outputs, batch: Batch
) -> list[tuple[str, Tensor, Tensor]]:
    """The student's features and what the objective's parts make of them: name, value, gradient of the loss."""
    leaf = _leaf(student)
    seen = [(f"the student's {name!r}", value) for name, value in leaf.features.items()]
    handles = [
        part.register_forward_hook(
            lambda part, inputs, output, path=path: seen.append((f"the output of objective.{path}", output))
        )
        for path, part in objective.named_modules()
        if path
    ]
    try:
        loss = sum(objective(leaf, _leaf(teacher), batch).values())
    finally:
        for handle in handles:
            handle.remove()
    seen = [(what, value) for what, value in seen if isinstance(value, Tensor) and value.requires_grad]
    if not seen:
        return []
    gradients = torch.autograd.grad(
        loss, [value for _, value in seen], allow_unused=True, materialize_grads=True
    )
    return [(what, value, gradient) for (what, value), gradient in zip(seen, gradients, strict=True)]


def _leaf(outputs: Outputs) -> Outputs:
    features = {
        name: value.detach().clone().requires_grad_(value.is_floating_point())
        for name, value in outputs.features.items()
    }
    return Outputs(outputs.logits.detach().clone().requires_grad_(), features)
