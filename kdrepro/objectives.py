"""What an objective is told, and how it is told from a network."""

from __future__ import annotations

import inspect

from torch import nn

_CALLED_WITH = ["student", "teacher", "batch"]


def tell_epoch(objective: nn.Module, epoch: int) -> None:
    """Call `start_epoch(epoch)` of every part that has it, the outermost first: a wrapper need not pass it on.

    One that does pass it on tells what it wraps twice, so to be told the same epoch again has to change nothing.
    """
    for part in objective.modules():
        start = getattr(part, "start_epoch", None)
        if callable(start):
            start(epoch)


def depends_on_epoch(objective: nn.Module) -> bool:
    """Say whether any part of an objective wants to be told the epoch."""
    return any(callable(getattr(part, "start_epoch", None)) for part in objective.modules())


def check_network(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a module, and none whose forward takes `student`, `teacher` and `batch`."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name}: got {type(value).__name__}, expected an nn.Module")
    signature = _signature(value)
    if signature is not None and list(signature.parameters)[:3] == _CALLED_WITH:
        raise TypeError(
            f"{name}: got {type(value).__name__}, an objective (it is called with student, teacher and batch), "
            "expected a network"
        )


def check_objective(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a module that can be called with (student, teacher, batch)."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name}: got {type(value).__name__}, expected an nn.Module")
    signature = _signature(value)
    if signature is None:
        return
    try:
        signature.bind(*_CALLED_WITH)
    except TypeError as error:
        raise TypeError(
            f"{name}: got {type(value).__name__}, which cannot be called with (student, teacher, batch) ({error}), "
            "expected an objective, such as kdrepro.HintonKD"
        ) from error


def _signature(module: nn.Module) -> inspect.Signature | None:
    """What a module's forward takes; None where nothing says so, as of one that was compiled to something else."""
    try:
        return inspect.signature(module.forward)
    except (TypeError, ValueError):
        return None
