"""The recipe of sequence-level distillation at its smallest: its arms on spelling, and what a claim is judged by."""

from __future__ import annotations

from kdrepro.claims import Claim, Side
from kdrepro.recipes.sequence_kd import RECIPE

CMU = {name.removeprefix("cmu_") for name in RECIPE.arms if name.startswith("cmu_")}
UNTAUGHT = {"teacher", "student_alone", "student_longer", "teacher_longer"}

# What a run finds out, beside its settings.
FOUND = {
    "train_size",
    "epochs_run",
    "precision",
    "starts_from",
    "bleu_signature",
    "translations_5",
    "teacher_cached",
    "compiled",
}


def metrics_read(claim: Claim) -> set[str]:
    """The metrics that a claim is judged by."""
    sides = [Side.of(name, claim.metric) for name in (claim.start, claim.end) if name]
    sides += [
        side
        for each in (*claim.comparisons, *claim.premise)
        for side in (each.lower, each.higher)
        if isinstance(side, Side)
    ]
    return {claim.metric, *(side.metric for side in sides)} - {""}
