"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
