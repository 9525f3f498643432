"""The recipe of FitNets at its smallest: its runner, its settings, its arms on digits, and a watch on its trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from kdrepro.ledger import Ledger
from kdrepro.recipes.fitnets import RECIPE, config
from kdrepro.run import Run
from kdrepro.runs import Runner

DIGITS = ("teacher", "student_alone", "kd", "fitnet", "fitnet_joint", "fitnet_code")
SOFT = {"kd", "fitnet", "fitnet_joint", "fitnet_code"}
TWO_STAGES = {"fitnet", "fitnet_code"}
ONE_STAGE = {"fitnet_joint"}

# What a run finds out, beside its settings.
FOUND = {"train_size", "best_epoch", "epochs_run", "epochs_at_most", "precision"}
FOUND_OF_HINTS = {"hint_epochs_run", "hint_best_epoch"}
FOUND_OF_SOFT_TARGETS = {"decay_epochs_used"}


def runner(folder: Path, recipe=RECIPE, **changes) -> Runner:
    arguments = {"protocol": "smoke", "ledger": Ledger(folder), "work": folder, "device": "cpu"}
    return Runner(recipe, **(arguments | {"progress": False, "precision": "fp32"} | changes))


def settings(name: str, protocol: str = "paper") -> dict[str, object]:
    """What an arm asks for, but for the precision, of which a run finds out what there is."""
    arm = RECIPE.arm(name)
    its = config(arm.base or name, protocol) | arm.overrides
    its.pop("precision", None)
    return its


class Stopped(Exception):
    """Ends a run."""


def watch(monkeypatch: pytest.MonkeyPatch, *, stop_at: int | None = None) -> list[tuple[str, nn.Module]]:
    """Note the objective of each training as it begins; stop at that step, counted over all of them."""
    seen: list[tuple[str, nn.Module]] = []
    steps, fit = 0, Run.fit

    def watched(self: Run, student, objective, batches, *, after_step, part="", **options):
        nonlocal steps

        def counted(net: nn.Module) -> None:
            nonlocal steps
            if steps == stop_at:
                raise Stopped
            steps += 1
            after_step(net)

        seen.append((part, objective))
        return fit(self, student, objective, batches, after_step=counted, part=part, **options)

    monkeypatch.setattr(Run, "fit", watched)
    return seen
