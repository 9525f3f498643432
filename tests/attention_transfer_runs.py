"""The recipe of attention transfer at its smallest: its runner, its settings, and its arms that have no teacher."""

from __future__ import annotations

from pathlib import Path

from kdrepro.ledger import Ledger
from kdrepro.recipes.attention_transfer import RECIPE, config
from kdrepro.runs import Runner

TEACHERS = {"teacher_wrn16_2", "teacher_wrn40_1", "teacher_wrn40_2"}
ALONE = TEACHERS | {"student_alone"}
# What a run finds out, beside its settings.
FOUND = {"train_size", "epochs_run", "precision", "cohort"}


def runner(folder: Path, recipe=RECIPE, **changes) -> Runner:
    arguments = {"protocol": "smoke", "ledger": Ledger(folder), "work": folder, "device": "cpu"}
    return Runner(recipe, **(arguments | {"progress": False, "precision": "fp32"} | changes))


def settings(name: str, protocol: str = "paper") -> dict[str, object]:
    return config(name, protocol) | RECIPE.arm(name).overrides
