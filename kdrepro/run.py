"""A run, as an arm's training is given it: one arm, one seed, one protocol, and what they need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdrepro import metrics
from kdrepro.arms import Arm
from kdrepro.checkpoints import metadata_of
from kdrepro.engine import fit, fit_cohort, predict
from kdrepro.row import Row
from kdrepro.teacher import FrozenTeacher
from kdrepro.training.members import Member
from kdrepro.training.resume import History
from kdrepro.types import TrainingData

if TYPE_CHECKING:
    from kdrepro.runner import Runner


def origin_of(run: str, curves: Mapping[str, Sequence[float]]) -> str:
    """Return what weights say of where they are from: the run, and 16 digits that no other training of it has."""
    return f"{run} {hashlib.sha256(json.dumps(curves, sort_keys=True).encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Run:
    """One arm, one seed, one protocol: what an arm's `train` is given."""

    runner: Runner
    name: str
    arm: Arm
    seed: int

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings of this run, as its row records them; `train` adds what it finds out, such as `train_size`."""
        return self.runner.settings(self.name, self.arm)

    @property
    def precision(self) -> str:
        """`fp32` or `bf16`: what this run trains in."""
        return str(self.config["precision"])

    @property
    def id(self) -> str:
        """The run's name in the ledger."""
        return self.runner.run_id(self.name, self.seed)

    @property
    def data(self) -> Any:
        """The arm's data set at this protocol and split."""
        return self.runner.data(self.arm)

    def build(self, seed: int | None = None) -> nn.Module:
        """Return the arm's net with the initial weights of a seed (default: the run's own)."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed if seed is None else seed)
            return self.runner.recipe.build(self.config)

    def started(self) -> nn.Module:
        """Return the net that this run goes on from, or the arm's with the initial weights of this seed."""
        if not self.arm.start:
            return self.build()
        self.config["starts_from"] = self.runner.run_id(self.arm.start, self.seed)
        return self._learned(self.arm.start, self.seed)

    def teachers(self) -> list[nn.Module]:
        """Return the trained nets that this arm needs, in order.

        Raises `ValueError` for one whose row names other data than is here.
        """
        return [self._learned(name, seed) for name, seed in self.arm.needs(self.seed)]

    def _learned(self, name: str, seed: int) -> nn.Module:
        row = self.runner.ledger.get(self.runner.run_id(name, seed))
        if self.runner.recording:
            self._check_weights(name, seed, row)
        if row is not None and row.data["digest"] != self.data.digest:
            raise ValueError(
                f"{row.run}: was trained on {row.data['name']} with digest {row.data['digest']}, here it is "
                f"{self.data.digest}; delete its row and weights, or set KDREPRO_RUNS to another folder"
            )
        return self.runner.trained(name, seed)

    def _check_weights(self, name: str, seed: int, row: Row | None) -> None:
        """Raise unless the weights of a net to learn from are those of its row."""
        file = self.runner.weights(name, seed)
        # Older weights say no more than the run.
        if row is None or metadata_of(file).get("run") not in (None, row.run, origin_of(row.run, row.curves)):
            why = "have no row" if row is None else "are of another training than its row"
            raise ValueError(f"{file}: these weights {why}; delete them, and the run is trained again")

    def measure(
        self,
        model: nn.Module | FrozenTeacher,
        train: Any,
        *,
        teacher: nn.Module | FrozenTeacher | Tensor | None = None,
    ) -> dict[str, float]:
        """Measure a classifier on the test set, its accuracy on the `train` examples, its agreement with `teacher`.

        Instead of the teacher its logits on the test set will do.
        """
        device, test = self.runner.device, self.data.test
        logits = predict(model, test.inputs, device=device)
        found = metrics.classification("test", logits, test.targets)
        found["train_accuracy"] = metrics.accuracy(predict(model, train.inputs, device=device), train.targets)
        if teacher is not None:
            asked = teacher if isinstance(teacher, Tensor) else predict(teacher, test.inputs, device=device)
            found["teacher_agreement"] = metrics.agreement(logits, asked)
        return found

    def fit(
        self, student: nn.Module, objective: nn.Module, batches: Any, *, part: str = "", **options: Any
    ) -> History:
        """Call `kdrepro.fit` with this run's checkpoint, device, precision and label.

        `part` names one of several trainings that make up the run; each has a checkpoint of its own.
        """
        return fit(
            student,
            objective,
            batches,
            checkpoint=self.runner.checkpoint(self.id, part),
            progress=" ".join([self.name, f"seed {self.seed}", *([part] if part else [])])
            if self.runner.progress
            else None,
            **_how(self),
            **options,
        )


def _how(run: Run) -> dict[str, Any]:
    return {
        "device": run.runner.device,
        "precision": run.precision,
        "checkpoint_seconds": run.runner.checkpoint_seconds,
    }


def fit_runs(
    runs: Sequence[Run], members: Sequence[Member], batches: TrainingData, **options: Any
) -> list[History]:
    """Call `kdrepro.engine.fit_cohort` for runs of one seed, with their device, precision and label."""
    first = runs[0]
    progress = f"seed {first.seed}" if first.runner.progress else None
    return fit_cohort(members, batches, progress=progress, **_how(first), **options)
