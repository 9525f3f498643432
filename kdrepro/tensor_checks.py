"""The checks of tensors: each error names the argument, what came, and what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdrepro.tracing import at_hand


def logits(name: str, value: object) -> Tensor:
    """Return `value`, or raise if it is not a floating-point tensor (*batch, K) with something in it."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a tensor of logits (*batch, K)")
    if not value.is_floating_point():
        raise TypeError(f"{name}: got {value.dtype}, expected floating-point logits")
    if value.ndim < 1 or value.numel() == 0:
        raise ValueError(
            f"{name}: got shape {tuple(value.shape)}, expected logits (*batch, K) with none of them empty"
        )
    return value


def same_logits_shape(student_logits: object, teacher_logits: object) -> None:
    """Raise unless both are logits of one shape: nothing is broadcast."""
    student, teacher = logits("student_logits", student_logits), logits("teacher_logits", teacher_logits)
    if student.shape[-1] != teacher.shape[-1]:
        raise ValueError(
            f"teacher_logits: got {teacher.shape[-1]} classes, expected the student's {student.shape[-1]} "
            f"(shapes {tuple(teacher.shape)} and {tuple(student.shape)})"
        )
    if student.shape != teacher.shape:
        raise ValueError(
            f"teacher_logits: got shape {tuple(teacher.shape)}, expected the student's {tuple(student.shape)}"
        )


def feature(name: str, value: object, *, shape: str = "(B, ...)", dimensions: int | None = None) -> Tensor:
    """Return `value`, or raise unless it is a floating-point tensor of two or more dimensions, none empty.

    `dimensions` is how many there must be, where that is fixed; `shape` is how the message writes what was expected.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a tensor {shape}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: got {value.dtype}, expected a floating-point tensor {shape}")
    if value.ndim < 2 or value.ndim != (dimensions or value.ndim) or value.numel() == 0:
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected {shape} with none of them empty")
    return value


def named(inputs: object) -> dict[str, object]:
    """The parts of inputs, a tensor or a mapping of them, each by the name that a message should give it."""
    if isinstance(inputs, Mapping):
        return {f"inputs[{name!r}]": value for name, value in inputs.items()}
    return {"inputs": inputs}


def examples(inputs: object, *, of: str) -> int:
    """Return how many examples there are in a tensor (N, ...), or in a mapping of such tensors, as many in each.

    Raises `TypeError` for anything else, `ValueError` for none (`of` says of what), or another number in one of them.
    """
    count, first = 0, ""
    for name, value in named(inputs).items():
        if not isinstance(value, Tensor):
            also = "" if isinstance(inputs, Mapping) else ", or a mapping of tensors"
            raise TypeError(f"{name}: got {type(value).__name__}, expected a tensor{also}")
        if value.ndim == 0:
            raise ValueError(f"{name}: got a tensor without dimensions, expected (N, ...)")
        if first and len(value) != count:
            raise ValueError(f"{name}: got {len(value)} examples, expected {count} as in {first}")
        count, first = len(value), first or name
    if count == 0:
        raise ValueError(f"inputs: got an empty {of}, expected at least one example")
    return count


def classes_in_the_middle(targets: Sequence[int], logits: Sequence[int]) -> str:
    """What to add to an error where the shapes say that logits (B, K, ...) have their classes in dimension 1.

    >>> classes_in_the_middle((2, 8, 8), (2, 5, 8, 8))
    '; where the classes are in dimension 1, move them to the end: logits.movedim(1, -1)'
    """
    if len(logits) < 3 or tuple(targets) != (logits[0], *logits[2:]):
        return ""
    return "; where the classes are in dimension 1, move them to the end: logits.movedim(1, -1)"


def padding_in_them(least: int) -> str:
    """What to add to an error about targets of which the least is -100, as torch and others mark padding.

    >>> padding_in_them(-100)
    '; where -100 is padding, leave it out: mask=targets != -100'
    """
    return "; where -100 is padding, leave it out: mask=targets != -100" if least == -100 else ""


def integer_targets(
    targets: object, *, classes: int, leading: torch.Size | tuple[int, ...] | None = None
) -> Tensor:
    """Return `targets`, or raise unless they are integers of shape `leading`; no value is looked at.

    That makes it free on every device, where `class_targets` waits for the values. `classes` is for the message.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets: got {type(targets).__name__}, expected a tensor of class numbers")
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise TypeError(f"targets: got {targets.dtype}, expected integer class numbers (torch.int64)")
    if leading is not None and tuple(targets.shape) != tuple(leading):
        raise ValueError(
            f"targets: got shape {tuple(targets.shape)}, expected {tuple(leading)}, one per logit vector"
            f"{classes_in_the_middle(targets.shape, (*leading, classes))}"
        )
    return targets


def targets_agree(targets: object, logits: Tensor) -> None:
    """Raise `ValueError` where targets that nobody reads contradict the logits: not one of them per logit vector.

    Only shapes are looked at. What is no tensor says nothing, and neither do numbers that are no classes (mixed labels,
    a regression's), unless they are one for each point of a picture whose classes are in dimension 1.
    """
    if not isinstance(targets, Tensor) or targets.shape == logits.shape[:-1]:
        return
    hint = classes_in_the_middle(targets.shape, logits.shape)
    if targets.is_floating_point() and not hint:
        return
    raise ValueError(
        f"targets: got shape {tuple(targets.shape)}, expected {tuple(logits.shape[:-1])}, one per logit vector{hint}"
    )


def class_targets(
    targets: object, *, classes: int, leading: torch.Size | tuple[int, ...] | None = None
) -> Tensor:
    """Return `targets`, or raise unless they are integer class numbers in [0, classes) of shape `leading`."""
    targets = integer_targets(targets, classes=classes, leading=leading)
    if targets.numel():
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"targets: got values from {low} to {high}, expected class numbers from 0 to {classes - 1}"
                f"{padding_in_them(low)}"
            )
    return targets


def class_targets_at_hand(
    targets: object, *, classes: int, leading: torch.Size | tuple[int, ...] | None = None
) -> Tensor:
    """Return what `class_targets` does, but look at the values only where that waits for nothing (`at_hand`).

    Elsewhere `fit` has looked beforehand, and torch stops at a class that there is not.
    """
    checked = integer_targets(targets, classes=classes, leading=leading)
    return class_targets(checked, classes=classes) if at_hand(checked) else checked


def class_weights(value: object) -> Tensor:
    """Return `value`, or raise unless it is a floating-point tensor (K,), finite, and none of it below 0.

    The values are looked at only where that waits for nothing (`at_hand`).
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"class_weights: got {type(value).__name__}, expected a tensor (K,), one for each class"
        )
    if not value.is_floating_point():
        raise TypeError(f"class_weights: got {value.dtype}, expected floating-point numbers")
    if value.ndim != 1:
        raise ValueError(f"class_weights: got shape {tuple(value.shape)}, expected (K,), one for each class")
    if at_hand(value) and not bool((value.isfinite() & (value >= 0)).all()):
        raise ValueError(
            "class_weights: got NaN, infinity or a number below 0, expected finite numbers of at least 0"
        )
    return value


def terms(value: object) -> dict[str, Tensor]:
    """Return what an objective gave.

    Raises `TypeError` unless it is a dict of tensors, `ValueError` for none at all or one not a scalar.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"objective: it returned {type(value).__name__}, expected a dict of scalar tensors")
    for name, term in value.items():
        if not isinstance(term, Tensor):
            raise TypeError(
                f"objective: its term {name!r} is {term!r} ({type(term).__name__}), expected a scalar tensor"
            )
    if not value:
        raise ValueError("objective: it returned no terms, expected at least one")
    for name, term in value.items():
        if term.ndim:
            raise ValueError(f"objective: its term {name!r} has shape {tuple(term.shape)}, expected a scalar")
    return dict(value)
