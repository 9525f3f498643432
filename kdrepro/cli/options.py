"""What several commands have: options, and the names of the recipes for their help."""

from __future__ import annotations

from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated

import typer

# Read from the folder: to import the package would import torch, for which nobody should wait who asks for help.
RECIPES = ", ".join(sorted(each.name for each in iter_modules([str(Path(__file__).parents[1] / "recipes")])))
Protocol = Annotated[
    str,
    typer.Option(
        help="How big: smoke (seconds), quick (embedded data), reduced or paper (the paper's data)."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        help="Folder of rows to read instead of the recorded ones.",
        exists=True,
        file_okay=False,
    ),
]
