"""Training and prediction: knows nothing about distillation, takes any objective.

An objective is an `nn.Module` called with (student: Outputs, teacher: Outputs or None, batch: Batch); it returns named
terms, scalars that are already weighted. Their sum is minimised, over the student's parameters and the objective's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from kdrepro import checks, devices
from kdrepro.checkpoints import load_state, save_state
from kdrepro.data.batches import Batches
from kdrepro.teacher import FrozenTeacher, run_module
from kdrepro.types import Batch, Outputs

# Looking at a value on the device makes the host wait for it, so losses are looked at in lots of this many steps.
_LOOK_EVERY = 50


@dataclass
class History:
    """What `fit` leaves: one value per epoch for `loss`, each `loss/<term>`, `learning_rate`, and `validation`.

    `best_epoch` (from 0) is that of the weights kept when `validate` was given; `seconds` counts resumed parts too.
    """

    curves: dict[str, list[float]] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    best_epoch: int | None = None


class CachedTeacher:
    """A teacher's logits on a whole data set, (N, K), looked up by `batch.index`. Made by `cache_teacher`."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = checks.logits("logits", logits)

    def to(self, device: torch.device | str) -> CachedTeacher:
        """Return the same cache on `device`."""
        return CachedTeacher(self.logits.to(device))

    def check_fits(self, batches: Batches) -> None:
        """Raise `ValueError` if the cached outputs cannot be those of the inputs that `batches` gives."""
        if batches.augment is not None:
            raise ValueError("teacher: got cached outputs with augmented batches: they belong to other views")
        if len(self.logits) != len(batches.inputs):
            raise ValueError(
                f"teacher: got cached outputs of {len(self.logits)} examples, expected {len(batches.inputs)}"
            )

    def look_up(self, batch: Batch) -> Outputs:
        """Return the logits of the examples of `batch`."""
        if batch.index is None:
            raise ValueError(
                "batch.index: got None, expected the examples' positions (a cached teacher looks them up)"
            )
        return Outputs(self.logits[batch.index])


Teacher = nn.Module | FrozenTeacher | CachedTeacher


def cache_teacher(
    teacher: nn.Module | FrozenTeacher,
    batches: Batches,
    *,
    temperature: float = 1.0,
    device: str = "auto",
    precision: str = "auto",
) -> CachedTeacher:
    """Run the teacher once over the data of `batches`: right only where student and teacher see the same view.

    `temperature` matters to an ensemble only (the members are averaged after softening). The precision is that of the
    `fit` the cache is for, so that the cached loss equals the uncached one.
    Raises `ValueError` when `batches` augments: the cached outputs would belong to other inputs.
    """
    if batches.augment is not None:
        raise ValueError(
            "batches: got augmented batches, expected none: cached outputs would belong to other views"
        )
    frozen = teacher if isinstance(teacher, FrozenTeacher) else FrozenTeacher(teacher)
    where = devices.accelerator(device).device
    frozen.to(where)
    with devices.autocast(devices.precision_for(precision, where), where):
        parts = [
            frozen(part.to(where), temperature=temperature).logits
            for part in torch.split(batches.inputs, batches.batch_size)
        ]
    return CachedTeacher(torch.cat(parts))


@torch.no_grad()
def predict(
    model: nn.Module | FrozenTeacher,
    inputs: Tensor,
    *,
    batch_size: int = 1000,
    device: str = "auto",
    precision: str = "fp32",
) -> Tensor:
    """Return a net's logits for `inputs`, in eval mode, on the CPU in float32: (N, ...) → (N, K).

    The net's mode is put back as it was. Raises `ValueError` for no inputs or a device this machine lacks.
    """
    if len(inputs) == 0:
        raise ValueError("inputs: got an empty batch, expected at least one example")
    where = devices.accelerator(device).device
    model.to(where)
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with devices.autocast(devices.precision_for(precision, where), where):
            parts = [
                (
                    run_module(model, part.to(where), side="model")
                    if isinstance(model, nn.Module)
                    else model(part.to(where))
                )
                for part in torch.split(inputs, checks.whole("batch_size", batch_size, least=1))
            ]
    finally:
        for part, training in modes:
            part.training = training
    return torch.cat([each.logits.float().cpu() for each in parts])


class _Step(nn.Module):
    """Student and objective as the one module that is trained, which is what distributed training wraps."""

    def __init__(
        self, student: nn.Module, objective: nn.Module, precision: str, device: torch.device
    ) -> None:
        super().__init__()
        self.student, self.objective = student, objective
        self.precision, self.device = precision, device

    def forward(self, batch: Batch, teacher: Outputs | None) -> dict[str, Tensor]:
        with devices.autocast(self.precision, self.device):
            outputs = run_module(self.student, batch.inputs, side="student")
        terms: dict[str, Tensor] = self.objective(outputs, teacher, batch)
        if not terms:
            raise ValueError(
                f"objective: {type(self.objective).__name__} returned no terms, expected at least one"
            )
        return terms


def fit(
    student: nn.Module,
    objective: nn.Module,
    batches: Batches,
    *,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    epochs: int,
    teacher: Teacher | None = None,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
    gradient_clip: float | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    checkpoint: Path | str | None = None,
    checkpoint_seconds: float = 20.0,
    progress: str | None = None,
) -> History:
    """Train `student`, in place, to minimise the sum of the objective's terms.

    `optimizer` is called with the parameters of student and objective; `schedule`, called with the optimiser, steps
    once a batch. `gradient_clip` bounds the norm of the gradient; `after_step` is called with the student after each
    step (weight constraints). `validate` is called with the student in eval mode after each epoch and returns a
    number, less is better: the weights of the best epoch are kept, and with `patience` training stops after that many
    epochs without a better one. The teacher runs in eval mode and without gradient, and is bitwise unchanged
    afterwards.

    With `checkpoint`, a run that was killed at any moment and is started again with the same arguments ends with the
    same numbers as an uninterrupted one. All randomness is a function of the seed of `batches` and the epoch; the
    caller's random state is left alone. `progress` is a label: a bar on a terminal, elsewhere one line an epoch.

    Under `accelerate launch` every process takes its share of each batch (BatchNorm statistics are each process's own).

    Raises `ValueError` or `TypeError`, naming the argument, before training starts; `FloatingPointError` with the step,
    the terms and the side that is not finite.
    """
    checks.whole("epochs", epochs, least=1)
    if gradient_clip is not None:
        checks.positive("gradient_clip", gradient_clip)
    if patience is not None:
        checks.whole("patience", patience, least=1)
        if validate is None:
            raise ValueError(
                f"patience: got {patience} without validate, expected both: it watches that number"
            )
    run = devices.accelerator(device)
    precision = devices.precision_for(precision, run.device)
    data = batches.to(run.device)
    if len(data.inputs) % data.batch_size and len(data.inputs) % data.batch_size < run.num_processes:
        raise ValueError(
            f"batch_size: its last batch has fewer examples than the {run.num_processes} processes"
        )
    ask = _teacher_outputs(teacher, objective, precision, run.device)
    if isinstance(teacher, CachedTeacher):
        teacher.check_fits(data)
    if isinstance(teacher, nn.Module | FrozenTeacher):
        frozen = teacher if isinstance(teacher, FrozenTeacher) else FrozenTeacher(teacher)
        frozen.check_apart(student=student, objective=objective)
    if devices.has_images(student):
        student.to(memory_format=torch.channels_last)
    step = _Step(student, objective, precision, run.device).to(run.device)
    _try_one(step, ask, data)

    trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("student: got no parameter that requires a gradient, expected at least one to train")
    bare_optimizer = optimizer(trained)
    scheduler = schedule(bare_optimizer) if schedule else None
    # Not the optimiser: Accelerate's wrapper looks for packages on the disk at every step, and adds nothing here.
    wrapped = run.prepare(step)
    state = _State(
        step,
        bare_optimizer,
        scheduler,
        Path(checkpoint) if checkpoint else None,
        _signature(step, data, epochs, bare_optimizer),
    )
    history = state.load()

    bar = _bar(progress, epochs * len(data), history.epochs * len(data), run)
    devices_to_fork = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices_to_fork):
        while history.epochs < epochs and not _out_of_patience(history, patience):
            started = time.perf_counter()
            # Dropout is a function of seed, epoch and process, so a resumed run needs no saved random state.
            torch.manual_seed((data.seed << 20) + (history.epochs << 4) + run.process_index + 1)
            wrapped.train()
            sums: dict[str, Tensor] = {}
            recent: list[dict[str, Tensor]] = []
            seen = torch.zeros((), device=run.device)
            for number, whole_batch in enumerate(data.epoch(history.epochs)):
                batch, share = _share(whole_batch, run)
                terms = wrapped(batch, ask(batch) if ask else None)
                loss = torch.stack(list(terms.values())).sum()
                run.backward(loss * share if share != 1.0 else loss)
                if gradient_clip is not None:
                    run.clip_grad_norm_(trained, gradient_clip)
                bare_optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                bare_optimizer.zero_grad(set_to_none=True)
                if after_step is not None:
                    after_step(student)
                recent.append({name: value.detach() for name, value in terms.items()})
                if len(recent) == _LOOK_EVERY or number == len(data) - 1:
                    _look(recent, history.epochs, number, step, ask, data)
                    for each in recent:
                        for name, value in each.items():
                            sums[name] = sums.get(name, seen) + value
                    if bar is not None:
                        bar.update(len(recent))
                    recent = []
            values = {f"loss/{name}": (total / len(data)).item() for name, total in sums.items()}
            values = {
                "loss": sum(values.values()),
                **values,
                "learning_rate": bare_optimizer.param_groups[0]["lr"],
            }
            if validate is not None:
                values["validation"] = _validate(validate, student)
            for name, latest in values.items():
                history.curves.setdefault(name, []).append(latest)
            history.epochs += 1
            history.seconds += time.perf_counter() - started
            if validate is not None and _is_new_best(history.curves["validation"]):
                history.best_epoch = history.epochs - 1
                state.keep_best()
            _say(progress, bar, history, epochs, run)
            last = history.epochs == epochs or _out_of_patience(history, patience)
            if run.is_main_process:
                state.save(history, at_once=last, every=checkpoint_seconds)
    if bar is not None:
        bar.close()
    if validate is not None:
        state.restore_best()
    return history


def _teacher_outputs(
    teacher: Teacher | None, objective: nn.Module, precision: str, device: torch.device
) -> Callable[[Batch], Outputs] | None:
    if teacher is None:
        return None
    if isinstance(teacher, CachedTeacher):
        return teacher.to(device).look_up
    frozen = (teacher if isinstance(teacher, FrozenTeacher) else FrozenTeacher(teacher)).to(device)
    temperature = float(getattr(objective, "temperature", 1.0))

    def ask(batch: Batch) -> Outputs:
        with devices.autocast(precision, device):
            return frozen(batch.inputs, temperature=temperature)

    return ask


@torch.no_grad()
def _try_one(step: _Step, ask: Callable[[Batch], Outputs] | None, data: Batches) -> None:
    """Run the first examples through student, teacher and objective, so that what cannot work fails before training."""
    several = slice(0, min(2, len(data.inputs)))
    index = torch.arange(len(data.inputs), device=data.inputs.device)[several]
    counted = Batch(data.inputs, data.targets, data.mask).counted_targets
    batch = Batch(data.inputs[several], counted[several], None, index)
    mode = step.training
    step.eval()
    outputs = run_module(step.student, batch.inputs, side="student")
    checks.class_targets(counted, classes=outputs.logits.shape[-1])
    taught = ask(batch) if ask else None
    for side, logits in (("student", outputs.logits), ("teacher", taught.logits if taught else None)):
        # A class that is -inf throughout is one that is left out, which the losses allow.
        if logits is not None and not bool(
            (logits.isfinite() | logits.isneginf().flatten(0, -2).all(dim=0)).all()
        ):
            raise ValueError(
                f"{side}: its logits on the first examples are not finite, expected finite numbers"
            )
    step(batch, taught)
    step.train(mode)


def _share(batch: Batch, run: Accelerator) -> tuple[Batch, float]:
    """This process's rows of a batch, and the weight that makes the average over processes the batch's mean."""
    if run.num_processes == 1:
        return batch, 1.0
    rows = slice(run.process_index, None, run.num_processes)
    mask = None if batch.mask is None else batch.mask[rows]
    index = None if batch.index is None else batch.index[rows]
    own = Batch(batch.inputs[rows], batch.targets[rows], mask, index)
    return own, len(own.inputs) * run.num_processes / len(batch.inputs)


def _look(
    recent: list[dict[str, Tensor]],
    epoch: int,
    number: int,
    step: _Step,
    ask: Callable[[Batch], Outputs] | None,
    data: Batches,
) -> None:
    """Raise at the first step of `recent` whose loss is not finite, saying which side broke."""
    finite = torch.stack([torch.stack(list(terms.values())).sum() for terms in recent]).isfinite()
    if bool(finite.all()):
        return
    position = int((~finite).nonzero()[0])
    bad = number - len(recent) + 1 + position
    batch = next(batch for place, batch in enumerate(data.epoch(epoch)) if place == bad)
    side = "the student's weights are no longer finite"
    if ask is not None and not bool(ask(batch).logits.isfinite().all()):
        side = "the teacher's logits are not finite on this batch"
    elif all(bool(parameter.isfinite().all()) for parameter in step.parameters()):
        side = "the student's logits overflowed"
    terms = ", ".join(f"{name} {value.item():.4g}" for name, value in recent[position].items())
    raise FloatingPointError(
        f"step {epoch * len(data) + bad} (epoch {epoch}, batch {bad}): the loss is not finite ({terms}); {side}. "
        "Try a lower learning rate, gradient_clip, or precision='fp32'"
    )


@torch.no_grad()
def _validate(validate: Callable[[nn.Module], float], student: nn.Module) -> float:
    student.eval()
    value = float(validate(student))
    student.train()
    return value


def _is_new_best(curve: list[float]) -> bool:
    # NaN is no better than anything, and anything is better than NaN.
    return curve[-1] == curve[-1] and not any(earlier <= curve[-1] for earlier in curve[:-1])


def _out_of_patience(history: History, patience: int | None) -> bool:
    if patience is None or history.best_epoch is None:
        return False
    return history.epochs - 1 - history.best_epoch >= patience


def _bar(progress: str | None, total: int, done: int, run: Accelerator) -> tqdm[Any] | None:
    if progress is None or not run.is_main_process or not sys.stderr.isatty():
        return None
    return tqdm(total=total, initial=done, desc=progress, unit="step", dynamic_ncols=True)


def _say(
    progress: str | None, bar: tqdm[Any] | None, history: History, epochs: int, run: Accelerator
) -> None:
    values = {name: curve[-1] for name, curve in history.curves.items() if name != "learning_rate"}
    if bar is not None:
        bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
    elif progress is not None and run.is_main_process:
        words = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{progress}: epoch {history.epochs}/{epochs} {words} ({history.seconds:.1f} s)", flush=True)


def _signature(step: _Step, data: Batches, epochs: int, optimizer: Optimizer) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "batch_size": data.batch_size,
        "seed": data.seed,
        "examples": len(data.inputs),
        "precision": step.precision,
        "objective": repr(step.objective),
        # Its state would be loaded over the settings asked for: another learning rate would go unnoticed.
        "optimizer": " ".join(repr(optimizer).split()),
        "parameters": sum(parameter.numel() for parameter in step.parameters()),
    }


class _State:
    """What a resumed run needs, and the weights of the best epoch."""

    def __init__(
        self,
        step: _Step,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        file: Path | None,
        signature: dict[str, Any],
    ) -> None:
        self.step, self.optimizer, self.scheduler = step, optimizer, scheduler
        self.file, self.signature = file, signature
        self.best: dict[str, Tensor] | None = None
        self.saved = time.monotonic()

    def keep_best(self) -> None:
        self.best = {name: value.detach().clone() for name, value in self.step.state_dict().items()}

    def restore_best(self) -> None:
        if self.best is not None:
            self.step.load_state_dict(self.best)

    def save(self, history: History, *, at_once: bool, every: float) -> None:
        if self.file is None or (not at_once and time.monotonic() - self.saved < every):
            return
        state = {
            "signature": self.signature,
            "history": vars(history),
            "step": self.step.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "best": self.best,
        }
        save_state(state, self.file)
        self.saved = time.monotonic()

    def load(self) -> History:
        if self.file is None or not self.file.exists():
            return History()
        state = load_state(self.file)
        found = state.get("signature", {})
        other = [
            f"{name} {found.get(name)!r}, here {value!r}"
            for name, value in self.signature.items()
            if found.get(name) != value
        ]
        if other:
            raise ValueError(
                f"checkpoint: {self.file} was written by another run ({'; '.join(other)}); "
                "delete it or name another file"
            )
        self.step.load_state_dict(state["step"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.best = state["best"]
        return History(**state["history"])
