"""The runner of a recipe at its smallest: at protocol `smoke`, on the processor, saying nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdrepro.arms import Recipe
from kdrepro.ledger import Ledger
from kdrepro.runner import Runner


def runner(folder: Path, recipe: Recipe, **changes: Any) -> Runner:
    """With rows and weights in `folder`; `changes` are of the runner's arguments."""
    where = {"protocol": "smoke", "ledger": Ledger(folder), "work": folder, "device": "cpu"}
    return Runner(recipe, **(where | {"precision": "fp32", "progress": False} | changes))
