"""What is seen of a training while it runs: a bar on a terminal, elsewhere a line for each epoch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from kdrepro.training.members import Trainee


def bar(progress: str | None, total: int, done: int, run: Accelerator) -> tqdm[Any] | None:
    """Return a bar of `total` steps, of which some are done, labelled `progress`; `None` where there is no terminal."""
    if progress is None or not run.is_main_process or not sys.stderr.isatty():
        return None
    return tqdm(total=total, initial=done, desc=progress, unit="step", dynamic_ncols=True)


def say(progress: str | None, bar: tqdm[Any] | None, active: Sequence[Trainee], run: Accelerator) -> None:
    """Say the latest losses after an epoch: behind the bar, or in a line for each of those that trained."""
    latest = [
        {name: curve[-1] for name, curve in trainee.history.curves.items() if name != "learning_rate"}
        for trainee in active
    ]
    if bar is not None:
        losses = {
            " ".join(filter(None, [trainee.member.label, name])): f"{value:.4g}"
            for trainee, values in zip(active, latest, strict=True)
            for name, value in values.items()
            if len(active) == 1 or name == "loss"
        }
        bar.set_postfix(losses)
    elif progress is not None and run.is_main_process:
        for trainee, values in zip(active, latest, strict=True):
            words = " ".join(f"{name} {value:.4g}" for name, value in values.items())
            who = " ".join(filter(None, [progress, trainee.member.label]))
            history = trainee.history
            print(
                f"{who}: epoch {history.epochs}/{trainee.epochs} {words} ({history.seconds:.1f} s)",
                flush=True,
            )
