"""The recipe of FitNets at its smallest: its settings, its arms on digits, and a watch on its trainings."""

from __future__ import annotations

import pytest
from stopped_trainings import stops_at
from torch import nn

from kdrepro.recipes.fitnets import RECIPE, config
from kdrepro.run import Run

DIGITS = ("teacher", "student_alone", "kd", "fitnet", "fitnet_joint", "fitnet_code")
SOFT = {"kd", "fitnet", "fitnet_joint", "fitnet_code"}
TWO_STAGES = {"fitnet", "fitnet_code"}
ONE_STAGE = {"fitnet_joint"}

# What a run finds out, beside its settings.
FOUND = {"train_size", "best_epoch", "epochs_run", "epochs_at_most", "precision"}
FOUND_OF_HINTS = {"hint_epochs_run", "hint_best_epoch"}
FOUND_OF_SOFT_TARGETS = {"decay_epochs_used"}


def settings(name: str, protocol: str = "paper") -> dict[str, object]:
    """What an arm asks for, but for the precision, of which a run finds out what there is."""
    arm = RECIPE.arm(name)
    its = config(arm.base or name, protocol) | arm.overrides
    its.pop("precision", None)
    return its


def watch(monkeypatch: pytest.MonkeyPatch, *, stop_at: int | None = None) -> list[tuple[str, nn.Module]]:
    """Note the objective of each training as it begins; stop at that step, counted over all of them."""
    seen: list[tuple[str, nn.Module]] = []
    stop, fit = stops_at(stop_at), Run.fit

    def watched(self: Run, student, objective, batches, *, after_step, part="", **options):
        def counted(net: nn.Module) -> None:
            stop(net)
            after_step(net)

        seen.append((part, objective))
        return fit(self, student, objective, batches, after_step=counted, part=part, **options)

    monkeypatch.setattr(Run, "fit", watched)
    return seen
