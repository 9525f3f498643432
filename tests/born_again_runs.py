"""The recipe of born-again networks at its smallest: its settings, and its arms on few digits."""

from __future__ import annotations

from kdrepro.recipes.born_again import ARMS, RECIPE, config

FEW = [name for name in ARMS if name.startswith("few_")]
GENERATIONS = ["few_teacher", *(f"few_ban{generation}" for generation in range(1, 6))]
FIRST = ["few_ban1", "few_again", "few_ban_l", "few_cwtm", "few_dkpp", "few_smoothing"]
ENSEMBLES = {"few_ens2": GENERATIONS[1:3], "few_ens3": GENERATIONS[1:4]}
# What a run finds out, beside its settings.
FOUND = {"train_size", "epochs_run", "precision", "cohort"}


def settings(name: str, protocol: str = "paper") -> dict[str, object]:
    arm = RECIPE.arm(name)
    return config(arm.base, protocol) | arm.overrides
