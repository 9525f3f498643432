"""What is looked at so that training which cannot work ends with a reason: the first examples, and later the losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kdrepro.data.batches import Batches
from kdrepro.modes import modes_kept
from kdrepro.teacher import run_module, untouched
from kdrepro.training.resume import Step
from kdrepro.types import Batch, Outputs, TrainingData

Ask = Callable[[Batch], Outputs]


def check_batches(data: TrainingData, *, epochs: int, processes: int) -> None:
    """Raise `ValueError` where a batch has nothing for one of the processes: no example, or none that counts."""
    if (data.examples % data.batch_size or data.batch_size) < processes:
        raise ValueError(f"batch_size: its last batch has fewer examples than the {processes} processes")
    if isinstance(data, Batches):
        data.check_counted(epochs, processes=processes)


@contextmanager
def located(epoch: int, number: int) -> Iterator[None]:
    """Note on an error which batch it was in."""
    try:
        yield
    except Exception as problem:
        # Python 3.10 has no notes.
        if hasattr(problem, "add_note"):
            problem.add_note(f"in batch {number} of epoch {epoch}, both counted from 0")
        raise


@torch.no_grad()
def try_one(step: Step, ask: Ask | None, data: TrainingData, *, processes: int) -> None:
    """Run the first examples through student, teacher and objective, so that what cannot work fails before training."""
    batch = data.first(2)
    # Whatever its mask, the first examples count here. No target says whether its shape is right, so it stays.
    if batch.targets is None:
        mask = None if batch.mask is None else torch.ones_like(batch.mask)
        batch = Batch(batch.inputs, None, mask, batch.index)
    else:
        batch = Batch(batch.inputs, batch.counted_targets, None, batch.index)
    with modes_kept(step):
        step.eval()
        _try_batch(step, ask, batch, data)
    if (data.examples % data.batch_size or data.batch_size) // processes == 1:
        _try_a_batch_of_one(step, data, whose=" of each process" if processes > 1 else "")


def _try_batch(step: Step, ask: Ask | None, batch: Batch, data: TrainingData) -> None:
    outputs = run_module(step.student, batch.inputs, side="student")
    data.check_classes(outputs.logits.shape[-1])
    taught = ask(batch) if ask else None
    for side, logits in (("student", outputs.logits), ("teacher", taught.logits if taught else None)):
        # A class that is -inf throughout is one that is left out, which the losses allow.
        if logits is not None and not bool(
            (logits.isfinite() | logits.isneginf().flatten(0, -2).all(dim=0)).all()
        ):
            raise ValueError(
                f"{side}: its logits on the first examples are not finite, expected finite numbers"
            )
    # An objective may ask for gradients itself.
    with torch.enable_grad():
        step(batch, taught)


@torch.no_grad()
def _try_a_batch_of_one(step: Step, data: TrainingData, *, whose: str) -> None:
    """Raise where the last batch, of one example, leaves BatchNorm nothing to compare with."""
    with untouched(step):
        step.train()
        try:
            run_module(step.student, data.first(1).inputs, side="student")
        except ValueError as error:
            raise ValueError(
                f"batch_size: got {data.batch_size} for {data.examples} examples, which leaves one for the last batch"
                f"{whose}, and the student cannot train on that ({error}); choose another"
            ) from error


def look(
    recent: list[dict[str, Tensor]],
    epoch: int,
    number: int,
    step: Step,
    ask: Ask | None,
    data: TrainingData,
) -> None:
    """Raise at the first step of `recent` whose loss is not finite, saying which side broke."""
    finite = torch.stack([torch.stack(list(terms.values())).sum() for terms in recent]).isfinite()
    if bool(finite.all()):
        return
    position = int((~finite).nonzero()[0])
    bad = number - len(recent) + 1 + position
    batch = next(batch for place, batch in enumerate(data.epoch(epoch)) if place == bad)
    side = "the student's weights are no longer finite"
    if batch.mask is not None and not bool(batch.mask.any()):
        side = "its mask is False everywhere, so nothing of the batch counts"
    elif ask is not None and not bool(ask(batch).logits.isfinite().all()):
        side = "the teacher's logits are not finite on this batch"
    elif all(bool(parameter.isfinite().all()) for parameter in step.parameters()):
        side = "the student's logits overflowed"
    terms = ", ".join(f"{name} {value.item():.4g}" for name, value in recent[position].items())
    raise FloatingPointError(
        f"step {epoch * len(data) + bad} (epoch {epoch}, batch {bad}): the loss is not finite ({terms}); {side}. "
        "Try a lower learning rate, gradient_clip, or precision='fp32'"
    )
