"""A watch on every training: what the loop was given, to be compared with what a row says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from kdrepro import engine
from kdrepro.runner import Runner
from kdrepro.training.members import Trainee


class Watched(Trainee):
    """A trainee that keeps the initial weights of what it trains beside the student."""

    def start(self, ask: Any) -> None:
        self.first = {
            name: value.detach().clone() for name, value in self.member.objective.named_parameters()
        }
        super().start(ask)

    @property
    def run_id(self) -> str:
        """The run, and behind a plus sign which of its trainings."""
        assert self.member.checkpoint is not None
        return Path(self.member.checkpoint).stem

    @property
    def rate(self) -> float:
        """The learning rate that the schedule, if there is one, starts from."""
        group = self.optimizer.param_groups[0]
        return float(group.get("initial_lr", group["lr"]))

    @property
    def group(self) -> dict[str, Any]:
        """The optimiser's settings when the training has ended."""
        return self.optimizer.param_groups[0]

    @property
    def objective(self) -> nn.Module:
        return self.member.objective


def watch(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """Note each trainee of `fit` and `fit_cohort` as it is made; it can be asked when its training has ended."""
    found: list[Watched] = []

    class Noted(Watched):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            found.append(self)

    monkeypatch.setattr(engine, "Trainee", Noted)
    return found


def recorded(runner: Runner, trainee: Watched) -> dict[str, Any]:
    """The configuration that the row of a trainee's run holds."""
    row = runner.ledger.get(trainee.run_id.partition("+")[0])
    assert row is not None
    return row.config | {"seed": row.seed}


def rows_of(inputs: Tensor) -> set[bytes]:
    """The examples, so that two sets of them can be compared."""
    return {each.numpy().tobytes() for each in inputs.cpu().contiguous()}
