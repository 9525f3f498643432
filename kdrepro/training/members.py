"""One student in training: its steps, its optimiser, its random state, and its epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdrepro import checks, devices, objectives
from kdrepro.training.cuda_graphs import Replay, copied
from kdrepro.training.preflight import Ask, look, try_one
from kdrepro.training.resume import History, State, Step, signature
from kdrepro.types import Batch, Outputs, TrainingData

# The terms of a step, and the gradients of what is trained.
Passes = tuple[dict[str, Tensor], list[Tensor | None]]


@dataclass(kw_only=True)
class Member:
    """A student and how it is trained: what `fit` takes that is the student's own. `label` is for the progress line."""

    student: nn.Module
    objective: nn.Module
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    gradient_clip: float | None = None
    after_step: Callable[[nn.Module], None] | None = None
    validate: Callable[[nn.Module], float] | None = None
    patience: int | None = None
    checkpoint: Path | str | None = None
    label: str = ""

    def __post_init__(self) -> None:
        objectives.check_network("student", self.student)
        objectives.check_objective("objective", self.objective)
        if isinstance(self.optimizer, Optimizer) or not callable(self.optimizer):
            raise TypeError(
                f"optimizer: got {type(self.optimizer).__name__}, expected a callable that makes one of parameters, "
                "such as functools.partial(torch.optim.SGD, lr=0.1)"
            )
        if self.gradient_clip is not None:
            checks.positive("gradient_clip", self.gradient_clip)
        if self.patience is not None:
            checks.whole("patience", self.patience, least=1)
            if self.validate is None:
                raise ValueError(
                    f"patience: got {self.patience} without validate, expected both: it watches that number"
                )


def check_apart(members: Sequence[Member]) -> None:
    """Raise `ValueError` unless each member has a student, parameters of its objective and a checkpoint of its own."""
    if len({id(member.student) for member in members}) < len(members):
        raise ValueError("members: got one student twice, expected a student of its own for each")
    whose: dict[int, int] = {}
    files: dict[Path, int] = {}
    for place, member in enumerate(members):
        parameters = [*member.student.parameters(), *member.objective.parameters()]
        for each in {id(each) for each in parameters if each.requires_grad}:
            if (first := whose.setdefault(each, place)) != place:
                raise ValueError(
                    f"members: got a parameter that both number {first} and number {place} train, expected students "
                    "and objectives with parameters of their own"
                )
        if member.checkpoint is not None:
            file = Path(member.checkpoint).resolve()
            if (first := files.setdefault(file, place)) != place:
                raise ValueError(
                    f"checkpoint: got {file} for number {first} and number {place} of the members, expected a file each"
                )


class Trainee:
    """A `Member` on its device: what the loop of `fit` asks for one step, and for the start and end of an epoch."""

    def __init__(
        self,
        member: Member,
        data: TrainingData,
        *,
        epochs: int,
        run: Accelerator,
        precision: str,
        teacher: str,
        cuda_graphs: bool,
    ) -> None:
        self.member, self.data, self.epochs, self.run, self.teacher = member, data, epochs, run, teacher
        self.cuda_graphs = cuda_graphs
        self.replay: Replay[Passes] | None = None
        self.order: devices.ChannelsLast | None = None
        if devices.prefers_channels_last(member.student, precision=precision, device=run.device):
            self.order = devices.ChannelsLast(member.student)
        self.step = Step(member.student, member.objective, precision, run.device).to(run.device)

    def start(self, ask: Ask | None) -> None:
        """Try the first examples, so that what cannot work fails before training; then take up a checkpoint."""
        try:
            try_one(self.step, ask, self.data, processes=self.run.num_processes)
        except RuntimeError:
            if self.order is None:
                raise
            # A net that flattens with `view` needs its channels where they were.
            self.leave()
            try_one(self.step, ask, self.data, processes=self.run.num_processes)
        # What an earlier backward pass left would be added to the first step's.
        for parameter in self.step.parameters():
            parameter.grad = None
        self.trained = [parameter for parameter in self.step.parameters() if parameter.requires_grad]
        if not self.trained:
            raise ValueError(
                "student: got no parameter that requires a gradient, expected at least one to train"
            )
        if self.cuda_graphs:
            self.replay = Replay(
                self._passes,
                self.run.device,
                state=lambda: [*self.step.parameters(), *self.step.buffers()],
                fixed=self.trained,
            )
            self.room = [torch.empty_like(parameter) for parameter in self.trained]
        self.optimizer = self.member.optimizer(self.trained)
        self.scheduler = self.member.schedule(self.optimizer) if self.member.schedule else None
        # Not the optimiser: Accelerate's wrapper looks for packages on the disk at every step, and adds nothing here.
        self.wrapped = self.run.prepare(self.step)
        if self.member.checkpoint:
            # One that has trained already has, for the signature, the settings it began with.
            objectives.tell_epoch(self.member.objective, 0)
        self.state = State(
            self.step,
            self.optimizer,
            self.scheduler,
            Path(self.member.checkpoint) if self.member.checkpoint else None,
            signature(
                self.step,
                self.data,
                epochs=self.epochs,
                optimizer=self.optimizer,
                scheduler=self.scheduler,
                gradient_clip=self.member.gradient_clip,
                teacher=self.teacher,
            ),
        )
        self.history = self.state.load()
        where = devices.describe(self.run.device)
        if where not in self.history.devices:
            self.history.devices.append(where)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or patience is at its end."""
        return self.history.epochs >= self.epochs or self._out_of_patience()

    def start_epoch(self) -> None:
        """Wake the student and tell the objective the epoch."""
        # Dropout is a function of seed, epoch and process, so a resumed run needs no saved random state.
        seed = (self.data.seed << 20) + (self.history.epochs << 4) + self.run.process_index + 1
        devices.seed(seed, self.run.device)
        self.wrapped.train()
        objectives.tell_epoch(self.member.objective, self.history.epochs)
        self.random = devices.random_state(self.run.device)
        if self.replay is not None and objectives.depends_on_epoch(self.member.objective):
            # A weight that depends on the epoch is a number of Python's.
            self.replay.forget()
        self.sums: dict[str, Tensor] = {}
        self.recent: list[dict[str, Tensor]] = []
        self.seconds = 0.0

    def _passes(self, batch: Batch, taught: Outputs | None) -> Passes:
        """The passes forward and backward."""
        if self.cuda_graphs and any(parameter.grad is not None for parameter in self.trained):
            raise ValueError(
                "optimizer: its zero_grad left gradients to add to, expected none with cuda_graphs: a replayed step "
                "writes over them"
            )
        terms = self.wrapped(batch, taught)
        loss = torch.stack(list(terms.values())).sum()
        self.run.backward(loss * self.share if self.share != 1.0 else loss)
        gradients = [parameter.grad for parameter in self.trained]
        if self.cuda_graphs:
            # In one place for all recordings, which would keep as many gradients.
            gradients = copied(gradients, into=self.room)
        return {name: value.detach() for name, value in terms.items()}, gradients

    def learn(self, batch: Batch, taught: Outputs | None, *, share: float, alone: bool) -> None:
        """Take one step; `share` is the weight of this process, `alone` says that no other trainee draws numbers."""
        started = time.perf_counter()
        if not alone:
            devices.set_random_state(self.random, self.run.device)
        self.share = share
        terms, gradients = (self.replay or self._passes)(batch, taught)
        for parameter, gradient in zip(self.trained, gradients, strict=True):
            parameter.grad = gradient
        held = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        if self.member.gradient_clip is not None:
            self.run.clip_grad_norm_(held, self.member.gradient_clip)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        # Of what the optimiser was not given nobody else clears the gradient.
        for parameter in set(self.trained) - set(held):
            parameter.grad = None
        if self.member.after_step is not None:
            self.member.after_step(self.member.student)
        self.recent.append({name: value * share for name, value in terms.items()})
        if not alone:
            self.random = devices.random_state(self.run.device)
        self.seconds += time.perf_counter() - started

    def look(self, number: int, ask: Ask | None) -> None:
        """Look at the losses of the last steps, up to batch `number`; raise where one is not finite."""
        look(self.recent, self.history.epochs, number, self.step, ask, self.data)
        for each in self.recent:
            for name, value in each.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.recent = []

    def end_epoch(self, shared_seconds: float, *, checkpoint_seconds: float) -> None:
        """Note the epoch's curves and its time, with the share of what the cohort did for all; validate and save."""
        started = time.perf_counter()
        sums = self.sums
        if self.run.num_processes > 1:
            # Each process has seen its share of every batch.
            sums = {name: self.run.reduce(total, "mean") for name, total in sorted(sums.items())}
        values = {f"loss/{name}": (sums[name] / len(self.data)).item() for name in self.sums}
        values = {
            "loss": sum(values.values()),
            **values,
            # Some optimisers keep it as a tensor, which they change in place.
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
        }
        if self.member.validate is not None:
            values["validation"] = self._validation(self.member.validate)
        history = self.history
        # A term that is not there in an epoch added nothing to its loss.
        for name in dict.fromkeys((*history.curves, *values)):
            curve = history.curves.setdefault(name, [0.0] * history.epochs)
            curve.append(values.get(name, 0.0))
        history.epochs += 1
        history.seconds += self.seconds + shared_seconds + time.perf_counter() - started
        if self.member.validate is not None and _is_new_best(history.curves["validation"]):
            history.best_epoch = history.epochs - 1
            self.state.keep_best()
        if self.run.is_main_process:
            self.state.save(history, at_once=self.finished, every=checkpoint_seconds)

    def _validation(self, validate: Callable[[nn.Module], float]) -> float:
        """What `validate` says; of several processes, whose BatchNorm statistics differ, the mean, the same for all."""
        value = _validate(validate, self.member.student)
        if self.run.num_processes == 1:
            return value
        return float(self.run.reduce(torch.tensor(value, device=self.run.device), "mean"))

    def end(self) -> History:
        """Put back the weights of the best epoch, where there is one."""
        if self.member.validate is not None:
            self.state.restore_best()
        return self.history

    def leave(self) -> None:
        """Give the student back in the order in memory that it came in, and what was recorded free."""
        self.replay = None
        if self.order is not None:
            self.order.undo()
            self.order = None

    def _out_of_patience(self) -> bool:
        if self.member.patience is None or self.history.best_epoch is None:
            return False
        return self.history.epochs - 1 - self.history.best_epoch >= self.member.patience


@torch.no_grad()
def _validate(validate: Callable[[nn.Module], float], student: nn.Module) -> float:
    student.eval()
    value = float(validate(student))
    student.train()
    return value


def _is_new_best(curve: list[float]) -> bool:
    # NaN is no better than anything, and anything is better than NaN.
    return curve[-1] == curve[-1] and not any(earlier <= curve[-1] for earlier in curve[:-1])


def share_of(batch: Batch, run: Accelerator) -> tuple[Batch, float]:
    """Return this process's rows of a batch, and the weight that makes the average over processes the batch's mean.

    That is over the positions that count: of sentences in equal parts one part may have more words. A term with one
    value for each sample is weighed the same way.
    """
    if run.num_processes == 1:
        return batch, 1.0
    own = batch.every(run.num_processes, first=run.process_index)
    if own.mask is None or batch.mask is None:
        return own, own.size * run.num_processes / batch.size
    return own, float(own.mask.sum() / batch.mask.sum()) * run.num_processes
