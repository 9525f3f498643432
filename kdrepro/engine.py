"""Training and prediction: knows nothing about distillation, takes any objective.

An objective is an `nn.Module` called with (student: Outputs, teacher: Outputs or None, batch: Batch); it returns named
terms, scalars that are already weighted. Their sum is minimised, over the student's parameters and the objective's own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from kdrepro import checks, devices, tensor_checks
from kdrepro.caching import CachedTeacher, CachedTranslator
from kdrepro.modes import modes_kept
from kdrepro.teacher import FrozenTeacher, members_of, run_module
from kdrepro.training import progressing
from kdrepro.training.asking import Asked, name_of, replayed, teacher_outputs
from kdrepro.training.members import Member, Trainee, check_apart, share_of
from kdrepro.training.preflight import Ask, check_batches, located
from kdrepro.training.resume import History
from kdrepro.types import Inputs, Outputs, TrainingData, in_parts, moved

# Looking at a value on the device makes the host wait for it, so losses are looked at in lots of this many steps.
_LOOK_EVERY = 50
# The names of `TrainingData`.
_ASKED_OF_DATA = ("seed", "batch_size", "examples", "__len__", "to", "epoch", "first", "check_classes")

Teacher = nn.Module | Sequence[nn.Module] | Asked


@torch.no_grad()
def predict(
    model: nn.Module | FrozenTeacher | Sequence[nn.Module],
    inputs: Inputs,
    *,
    batch_size: int = 1000,
    device: torch.device | str = "auto",
    precision: str = "fp32",
) -> Tensor:
    """Return a net's logits for `inputs`, in eval mode, on the CPU in float32: (N, ...) → (N, K).

    Of a list of nets they are those whose softmax is the mean of theirs. Inputs that are a mapping of tensors go to the
    net as keyword arguments. `device` is as in `fit`. The modes of the nets are put back as they were.
    Raises `TypeError` for a model or inputs of another kind; `ValueError` for no inputs, a mapping whose tensors hold
    different numbers of examples, or a device this machine lacks.
    """
    return outputs(model, inputs, batch_size=batch_size, device=device, precision=precision).logits


@torch.no_grad()
def outputs(
    model: nn.Module | FrozenTeacher | Sequence[nn.Module],
    inputs: Inputs,
    *,
    batch_size: int = 1000,
    device: torch.device | str = "auto",
    precision: str = "fp32",
) -> Outputs:
    """Return what `predict` does and the features that one net gives (see `Taps`), on the CPU in float32."""
    tensor_checks.examples(inputs, of="batch")
    size = checks.whole("batch_size", batch_size, least=1)
    where = devices.place(device)
    nets = () if isinstance(model, FrozenTeacher) else members_of(model, argument="model")
    with modes_kept(*nets), devices.autocast(devices.precision_for(precision, where), where):
        for net in nets:
            net.to(where).eval()
        frozen = model.to(where) if isinstance(model, FrozenTeacher) else FrozenTeacher(nets)
        parts = [
            run_module(nets[0], part, side="model") if len(nets) == 1 else frozen(part)
            for part in (moved(part, where) for part in in_parts(inputs, size))
        ]
    return Outputs(
        torch.cat([part.logits.float().cpu() for part in parts]),
        {
            name: torch.cat([part.features[name].float().cpu() for part in parts])
            for name in parts[0].features
        },
    )


def fit(
    student: nn.Module,
    objective: nn.Module,
    batches: TrainingData,
    *,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    epochs: int,
    teacher: Teacher | None = None,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
    gradient_clip: float | None = None,
    after_step: Callable[[nn.Module], None] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    device: torch.device | str = "auto",
    precision: str = "auto",
    checkpoint: Path | str | None = None,
    checkpoint_seconds: float = 20.0,
    progress: str | None = None,
    cuda_graphs: bool = False,
) -> History:
    """Train `student`, in place, to minimise the sum of the objective's terms.

    `optimizer` is called with the parameters of student and objective; `schedule`, called with the optimiser, steps
    once a batch. `gradient_clip` bounds the norm of the gradient; `after_step` is called with the student after each
    step (weight constraints). An objective whose weights depend on the epoch, or a part of it, has a method
    `start_epoch(epoch)`, which is called before each, counted from 0 (with a checkpoint, once with 0 before it is
    looked at), and twice where what is around it passes it on. `validate` is called
    with the student in eval mode after each epoch and returns a number, less is better: the weights of the best epoch
    are kept, and with `patience` training stops after that many epochs without a better one. `teacher` is a network, a
    list of them, or what `cache_teacher` made; it runs in eval mode and without gradient, and is bitwise unchanged
    afterwards.

    With `checkpoint`, a run that was killed at any moment and is started again with the same arguments ends with the
    same numbers as an uninterrupted one. All randomness is a function of the seed of `batches` and the epoch; the
    caller's random state is left alone. A checkpoint of another teacher, other data or other settings is refused.
    It is written after an epoch, but at most every `checkpoint_seconds`, and at the end. `progress` is a label: a bar
    on a terminal, elsewhere one line an epoch.

    Under `accelerate launch` every process takes its share of each batch (BatchNorm statistics are each process's own,
    and what `validate` returns is averaged).

    `device` is `auto` (CUDA, then MPS, then the CPU), `cpu`, `cuda`, `cuda:1` or `mps`, or a `torch.device`.
    `precision` is that of the networks, `fp32`, `bf16`, or `auto`: bf16 where the processor multiplies it itself, as
    many CPUs do too. Weights are float32 in any case, and so are the losses of this package and the sums of yours: an
    objective of your own gets what nets give in bf16, and had better begin with `.float()`. Where that is faster,
    weights lie with the channels last in memory while it trains.
    `cuda_graphs` records the passes of a step on CUDA, once for each shape of a batch, and replays them, which spares a
    small net the launching of its kernels one by one; the numbers are the same. It is for nets and objectives whose
    Python does the same in every step, and which change what they keep in place: a choice or a count would stay as
    recorded, but what `start_epoch` sets is recorded anew in each epoch. Elsewhere, and under `accelerate launch`, it
    does nothing.

    Raises `ValueError` or `TypeError`, naming the argument, before training starts, also for a batch of any epoch in
    which `mask` counts nothing (of batches in an order of their own this is found when they come); `FloatingPointError`
    with the step, the terms and the side that is not finite; `RuntimeError`, in the first epoch, for what `cuda_graphs`
    cannot record. An error in an epoch has a note that says in which batch.
    """
    member = Member(
        student=student,
        objective=objective,
        optimizer=optimizer,
        schedule=schedule,
        gradient_clip=gradient_clip,
        after_step=after_step,
        validate=validate,
        patience=patience,
        checkpoint=checkpoint,
    )
    (history,) = fit_cohort(
        [member],
        batches,
        epochs=epochs,
        teacher=teacher,
        device=device,
        precision=precision,
        checkpoint_seconds=checkpoint_seconds,
        progress=progress,
        cuda_graphs=cuda_graphs,
    )
    return history


def fit_cohort(
    members: Sequence[Member],
    batches: TrainingData,
    *,
    epochs: int,
    teacher: Teacher | None = None,
    device: torch.device | str = "auto",
    precision: str = "auto",
    checkpoint_seconds: float = 20.0,
    progress: str | None = None,
    cuda_graphs: bool = False,
) -> list[History]:
    """Train several students on the same batches, asking their teacher once for all of them.

    Each ends with the numbers that `fit` alone would give it, bit for bit: it has its own optimiser, random state and
    checkpoint, and comparisons between them are paired. A history's `seconds` are the student's own and an equal share
    of what was done for all. Everything else is as in `fit`.

    Raises `ValueError` for no member, two that train one parameter or write one checkpoint, or objectives that want an
    ensemble's classes averaged at different temperatures.
    """
    checks.whole("epochs", epochs, least=1)
    missing = [name for name in _ASKED_OF_DATA if not hasattr(batches, name)]
    if missing:
        raise TypeError(
            f"batches: got {type(batches).__name__}, without {', '.join(missing)}; expected kdrepro.Batches or another "
            "TrainingData: its order is a function of seed and epoch"
        )
    if not members:
        raise ValueError("members: got none, expected at least one")
    check_apart(members)
    with devices.accelerator(device) as run:
        return _fit_cohort(
            members,
            batches,
            epochs=epochs,
            teacher=teacher,
            run=run,
            precision=devices.precision_for(precision, run.device),
            checkpoint_seconds=checkpoint_seconds,
            progress=progress,
            cuda_graphs=cuda_graphs and run.device.type == "cuda" and run.num_processes == 1,
        )


def _fit_cohort(
    members: Sequence[Member],
    batches: TrainingData,
    *,
    epochs: int,
    teacher: Teacher | None,
    run: Accelerator,
    precision: str,
    checkpoint_seconds: float,
    progress: str | None,
    cuda_graphs: bool,
) -> list[History]:
    data = batches.to(run.device)
    check_batches(data, epochs=epochs, processes=run.num_processes)
    if isinstance(teacher, CachedTeacher | CachedTranslator):
        teacher.check_fits(data)
    elif teacher is not None:
        teacher = teacher if isinstance(teacher, FrozenTeacher) else FrozenTeacher(teacher)
        for member in members:
            teacher.check_apart(student=member.student, objective=member.objective)
    ask = teacher_outputs(teacher, members, precision, run.device)
    taught = name_of(teacher) if any(member.checkpoint for member in members) else ""
    trainees = [
        Trainee(
            member,
            data,
            epochs=epochs,
            run=run,
            precision=precision,
            teacher=taught,
            cuda_graphs=cuda_graphs,
        )
        for member in members
    ]
    with contextlib.ExitStack() as left, devices.own_randomness(run.device):
        for trainee in trainees:
            left.callback(trainee.leave)
        # The first examples are tried here already, and an objective may draw numbers for them.
        for trainee in trainees:
            trainee.start(ask)
        done = min(trainee.history.epochs for trainee in trainees)
        # An ensemble is asked at the objective's temperature, which may change.
        if cuda_graphs and ask and isinstance(teacher, FrozenTeacher) and len(teacher.modules) == 1:
            ask = replayed(ask, run.device)
        bar = progressing.bar(progress, epochs * len(data), done * len(data), run)
        while waiting := [trainee for trainee in trainees if not trainee.finished]:
            # A cohort that was killed between two of its checkpoints has members that are an epoch ahead.
            epoch = min(trainee.history.epochs for trainee in waiting)
            active = [trainee for trainee in waiting if trainee.history.epochs == epoch]
            shared_seconds = _epoch(epoch, active, data, ask, run, bar)
            for trainee in active:
                trainee.end_epoch(shared_seconds, checkpoint_seconds=checkpoint_seconds)
            progressing.say(progress, bar, active, run)
    if bar is not None:
        bar.close()
    return [trainee.end() for trainee in trainees]


def _epoch(
    epoch: int,
    active: Sequence[Trainee],
    data: TrainingData,
    ask: Ask | None,
    run: Accelerator,
    bar: tqdm[Any] | None,
) -> float:
    """Train all for an epoch; return each one's share of the seconds that are no one's own."""
    started = time.perf_counter()
    for trainee in active:
        trainee.start_epoch()
    since_look = 0
    whole_batches = iter(data.epoch(epoch))
    for number in count():
        with located(epoch, number):
            whole_batch = next(whole_batches, None)
            if whole_batch is None:
                break
            batch, share = share_of(whole_batch, run)
            taught = ask(batch) if ask else None
            for trainee in active:
                trainee.learn(batch, taught, share=share, alone=len(active) == 1)
        since_look += 1
        if since_look == _LOOK_EVERY or number == len(data) - 1:
            for trainee in active:
                trainee.look(number, ask)
            if bar is not None:
                bar.update(since_look)
            since_look = 0
    own = sum(trainee.seconds for trainee in active)
    return (time.perf_counter() - started - own) / len(active)
