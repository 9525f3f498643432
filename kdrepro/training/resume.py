"""What a killed run needs to go on and end with the same numbers: its state, and what came of its epochs so far."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdrepro import devices, digests, tensor_checks
from kdrepro.checkpoints import load_state, save_state
from kdrepro.teacher import run_module
from kdrepro.types import Batch, Outputs, TrainingData, at_least_float32

# What checkpoints did not say at first: one that does not is taken for one of the same.
_LATER = ("mask", "student", "objective's buffers", "schedule's state")


@dataclass
class History:
    """What `fit` leaves: one value per epoch for `loss`, each `loss/<term>`, `learning_rate`, and `validation`.

    The learning rate is the one that the schedule has come to when the epoch ends, that of the next step.
    `best_epoch` (from 0) is that of the weights kept when `validate` was given; `seconds` counts resumed parts too, and
    `devices` says in words where the parts were trained, in order.
    """

    curves: dict[str, list[float]] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    best_epoch: int | None = None
    devices: list[str] = field(default_factory=list)


class Step(nn.Module):
    """Student and objective as the one module that is trained, which is what distributed training wraps."""

    def __init__(
        self, student: nn.Module, objective: nn.Module, precision: str, device: torch.device
    ) -> None:
        super().__init__()
        self.student, self.objective = student, objective
        self.precision, self.device = precision, device

    def forward(self, batch: Batch, teacher: Outputs | None) -> dict[str, Tensor]:
        with devices.autocast(self.precision, self.device):
            outputs = run_module(self.student, batch.inputs, side="student")
        terms = tensor_checks.terms(self.objective(outputs, teacher, batch))
        # A sum over an epoch in half precision would soon stand still.
        return {name: at_least_float32(value) for name, value in terms.items()}


def signature(
    step: Step,
    data: TrainingData,
    *,
    epochs: int,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    gradient_clip: float | None,
    teacher: str,
) -> dict[str, Any]:
    """Return what has to be the same for a run to go on from a checkpoint; `teacher` is the digest of its weights."""
    first = data.first(64)
    inputs = first.inputs if isinstance(first.inputs, Mapping) else {"inputs": first.inputs}
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    whole = {
        f"all {name}": value
        for name in ("targets", "predictions")
        if isinstance(value := getattr(data, name, None), Tensor)
    }
    augment, mask = getattr(data, "augment", None), getattr(data, "mask", None)
    return {
        "epochs": epochs,
        "batch_size": data.batch_size,
        "seed": data.seed,
        "examples": data.examples,
        "precision": step.precision,
        "objective": repr(step.objective),
        "settings": [_settings(part) for part in step.objective.modules()],
        # Its state would be loaded over the settings asked for: another learning rate would go unnoticed.
        "optimizer": " ".join(repr(optimizer).split()),
        "schedule": _described(scheduler, scheduler.state_dict() if scheduler is not None else {}),
        "gradient_clip": gradient_clip,
        "teacher": teacher,
        # All targets or lengths of targets; of the inputs the first, which are soon read, and how they are augmented.
        "data": digests.of_tensors(tensors | {"targets": first.targets} | whole),
        "augment": _described(augment, vars(augment) if hasattr(augment, "__dict__") else {}),
        "mask": digests.of_tensors({"mask": mask}) if isinstance(mask, Tensor) else "none",
        # Not what it prints, which another torch may put in other words.
        "student": _short([(name, _settings(part)) for name, part in step.student.named_modules()]),
        # They would be loaded over those asked for: the weights of classes, for instance.
        "objective's buffers": digests.of_tensors(dict(step.objective.named_buffers())),
        "schedule's state": _short(_plain(scheduler.state_dict()) if scheduler is not None else None),
        "parameters": sum(parameter.numel() for parameter in step.parameters()),
        "shapes": _short([(name, tuple(value.shape)) for name, value in step.state_dict().items()]),
    }


def _short(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    """The numbers and strings of a state, whatever they lie in; of anything else its type."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, int | float | str | None):
        return value
    return value.tolist() if hasattr(value, "tolist") else type(value).__name__


def _described(part: object, state: Mapping[str, Any]) -> str:
    """Name a part of a training and the numbers of its state; of one that is a function that it is one is all."""
    if part is None:
        return "none"
    numbers = {
        name: value
        for name, value in state.items()
        if not name.startswith("_") and isinstance(value, int | float | str | list)
    }
    return f"{type(part).__name__} {numbers}"


def _settings(part: nn.Module) -> str:
    """Name a part of a net or an objective with what it was made with, which its repr need not show.

    Numbers, strings, and what it has of these in tuples, such as the size of a kernel: no lists, which grow.
    """
    kept = {
        name: _plain(value) if isinstance(value, tuple) else value
        for name, value in vars(part).items()
        if not isinstance(value, list) and name != "training"
    }
    return _described(part, kept)


class State:
    """What a resumed run needs, and the weights of the best epoch."""

    def __init__(
        self,
        step: Step,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        file: Path | None,
        signature: dict[str, Any],
    ) -> None:
        self.step, self.optimizer, self.scheduler = step, optimizer, scheduler
        self.file, self.signature = file, signature
        self.best: dict[str, Tensor] | None = None
        self.saved = time.monotonic()

    def keep_best(self) -> None:
        """Keep a copy of the weights, of student and objective, as the best so far."""
        self.best = {name: value.detach().clone() for name, value in self.step.state_dict().items()}

    def restore_best(self) -> None:
        """Put the best weights back, if any were kept."""
        if self.best is not None:
            self.step.load_state_dict(self.best)

    def save(self, history: History, *, at_once: bool, every: float) -> None:
        """Write all that a run goes on from, unless `every` seconds have not passed; `at_once` whatever has."""
        if self.file is None or (not at_once and time.monotonic() - self.saved < every):
            return
        state = {
            "signature": self.signature,
            "history": vars(history),
            "step": self.step.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "best": self.best,
        }
        save_state(state, self.file)
        self.saved = time.monotonic()

    def load(self) -> History:
        """Take up what the file holds and return how far it is; `ValueError` for a file of another run."""
        if self.file is None or not self.file.exists():
            return History()
        state = load_state(self.file)
        if not isinstance(found := state.get("signature"), dict):
            there = ", ".join(map(str, [*state][:3])) or "nothing"
            raise ValueError(
                f"checkpoint: {self.file} holds no training of fit's ({there}); name another file"
            )
        other = [
            f"{name} {found.get(name)!r}, here {value!r}"
            for name, value in self.signature.items()
            if found.get(name, value if name in _LATER else None) != value
        ]
        if other:
            raise ValueError(
                f"checkpoint: {self.file} was written by another run ({'; '.join(other)}); "
                "delete it or name another file"
            )
        self.step.load_state_dict(state["step"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.best = state["best"]
        return History(**state["history"])
