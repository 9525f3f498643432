"""The recipe of sequence-level distillation at its smallest: its runner, and its arms on spelling."""

from __future__ import annotations

from pathlib import Path

from kdrepro.claims import Claim, Side
from kdrepro.ledger import Ledger
from kdrepro.recipes.sequence_kd import RECIPE
from kdrepro.runs import Runner

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
}


def runner(folder: Path, recipe=RECIPE, *, work: Path | None = None) -> Runner:
    return Runner(
        recipe,
        protocol="smoke",
        ledger=Ledger(folder),
        work=work or folder,
        device="cpu",
        precision="fp32",
        progress=False,
    )


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
