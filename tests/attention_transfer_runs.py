"""The recipe of attention transfer at its smallest: its settings, and its arms that have no teacher."""

from __future__ import annotations

from kdrepro.recipes.attention_transfer import RECIPE, config

TEACHERS = {"teacher_wrn16_2", "teacher_wrn40_1", "teacher_wrn40_2"}
ALONE = TEACHERS | {"student_alone"}
# What a run finds out, beside its settings.
FOUND = {"train_size", "epochs_run", "precision", "cohort"}


def settings(name: str, protocol: str = "paper") -> dict[str, object]:
    return config(name, protocol) | RECIPE.arm(name).overrides
