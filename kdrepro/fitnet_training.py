"""How the nets of Romero et al. (2015), FitNets, are trained: in two stages, stopped early, with bounded weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler

from kdrepro import devices, metrics
from kdrepro.arms import Result, chosen
from kdrepro.caching import CachedTeacher, cache_teacher
from kdrepro.data.batches import Batches
from kdrepro.engine import outputs
from kdrepro.losses.features import hint_loss
from kdrepro.methods.fitnets import FitNetKD, HintStage, regressor
from kdrepro.models import maxout
from kdrepro.models.mlp import max_norm_
from kdrepro.run import Run
from kdrepro.taps import Taps
from kdrepro.teacher import FrozenTeacher
from kdrepro.training.resume import History
from kdrepro.types import Batch, Outputs


class FitNetTraining:
    """The examples, the net and the teacher of one run, and the trainings that it goes through."""

    def __init__(self, run: Run, *, stages: int = 1) -> None:
        settings = self.settings = run.config
        self.run = run
        # By what the numbers of epochs are divided.
        self.shorter = settings["shorter"] * (stages if settings.get("stages_share_epochs") else 1)
        self.train = run.data.held_out(round(len(run.data.train) * settings["held_out_fraction"]))
        settings["train_size"] = len(self.train.train)
        self.net = run.build()
        self.student = _tapped(self.net, settings, guided="guided_layer")
        self.batches = Batches(
            self.train.train.inputs,
            self.train.train.targets,
            batch_size=settings["batch_size"],
            seed=run.seed,
        )
        self.teacher: FrozenTeacher | None = None
        self.cached: CachedTeacher | None = None
        if run.arm.needs(run.seed):
            (net,) = run.teachers()
            self.teacher = FrozenTeacher(_tapped(net, settings, hint="hint_layer"))
            self.cached = self.teacher_outputs("train")

    def teacher_outputs(self, part: str) -> CachedTeacher:
        """Ask the teacher about the examples to `train` on, to stop by (`valid`), or to `test` with.

        A teacher on CIFAR takes long, and what it says is kept for the runs that have it too. Of the test examples only
        the classes are.
        """
        runner, run = self.run.runner, self.run
        teacher = self.teacher
        assert teacher is not None
        examples = {"train": self.train.train, "valid": self.train.test, "test": run.data.test}[part]
        tap = self.settings.get("hint_layer", "logits") if part != "test" else "logits"

        def ask() -> CachedTeacher:
            batches = Batches(
                examples.inputs, examples.targets, batch_size=self.settings["batch_size"], seed=0
            )
            found = cache_teacher(teacher, batches, device=runner.device, precision=run.precision)
            return found.without_features() if tap == "logits" else found

        if "hidden" not in self.settings:
            return ask()
        ((name, seed),) = run.arm.needs(run.seed)
        # A teacher that was trained again, or is asked in another precision, says something else.
        weights, folder = runner.weights_digest(name, seed), runner.work / "teacher_outputs"

        def kept(tap: str) -> Path:
            return folder / f"{runner.run_id(name, seed)}.{tap}.{part}.{weights}.{run.precision}.safetensors"

        if kept(tap).exists():
            return CachedTeacher.load(kept(tap))
        cached = ask()
        cached.save(kept(tap))
        # Who wants the classes alone need not ask again.
        if tap != "logits" and not kept("logits").exists():
            cached.without_features().save(kept("logits"))
        return cached

    def soft_targets(self) -> FitNetKD:
        """Return the second stage's objective."""
        settings = self.settings
        decay = settings["decay_epochs_used"] = max(1, settings["decay_epochs"] // self.shorter)
        return FitNetKD(
            temperature=settings["temperature"],
            soft_weight=settings["soft_weight"],
            final_soft_weight=settings["final_soft_weight"],
            decay_epochs=decay,
            soften_student=settings.get("soften_student", True),
        )

    def outputs(self, model: nn.Module | FrozenTeacher, inputs: Tensor) -> Outputs:
        """Ask a net on this run's device and in its precision, in eval mode, features included."""
        return outputs(model, inputs, device=self.run.runner.device, precision=self.run.precision)

    def hints(self) -> HintStage:
        """Return the first stage's objective, with a regressor sized from the maps."""
        few = self.train.train.inputs[:2]
        guided = self.outputs(self.student, few).features["guided"]
        self.hint = (
            self.teacher_outputs("valid").features["hint"].float().to(devices.place(self.run.runner.device))
        )
        with torch.random.fork_rng():
            torch.manual_seed(self.run.seed + 1)
            fitted = regressor(
                guided.shape[1:], self.hint.shape[1:], activation=maxout.Maxout(pieces=2), pieces=2
            )
            maxout.uniform_(fitted, limit=self.settings["regressor_init"])
        return HintStage(fitted, student_tap="guided", teacher_tap="hint")

    def guided_layers(self) -> nn.Module:
        """Return the net up to its guided layer: the first stage has no use for what lies above."""
        layers = dict(self.net.named_children())
        lower = list(layers)[: list(layers).index(self.settings["guided_layer"]) + 1]
        below = nn.Sequential(OrderedDict((name, layers[name]) for name in lower))
        below.add_module("flat", nn.Flatten())
        return _tapped(below, self.settings, guided="guided_layer")

    @torch.no_grad()
    def valid_loss(self, hints: HintStage, student: nn.Module) -> float:
        """Return how far a student's guided layer is from the hint on the examples held out."""
        found = self.outputs(student, self.train.test.inputs)
        # Features come back on the CPU, the hint is where the regressor trains.
        seen = Outputs(found.logits, {"guided": found.features["guided"].to(self.hint.device)})
        teacher = Outputs(found.logits, {"hint": self.hint})
        return float(hints(seen, teacher, Batch(found.logits, self.train.test.targets))["hint"])

    def hint_distances(self, hints: HintStage) -> dict[str, float]:
        """Return how far the trained student is from the hint on the examples held out, and how far a blind one is.

        No student that looks at no picture comes nearer than the hint's mean at each position, which its padding alone
        may tell it.
        """
        assert self.cached is not None
        mean = self.cached.features["hint"].float().mean(dim=0, keepdim=True).to(self.hint.device)
        return {
            "hint_distance_after": self.valid_loss(hints, self.student),
            "hint_distance_blind": float(hint_loss(mean.expand_as(self.hint), self.hint).mean()),
        }

    def valid_error_rate(self) -> float:
        """Return the share of errors on the examples held out."""
        logits = self.outputs(self.student, self.train.test.inputs).logits
        return metrics.errors(logits, self.train.test.targets) / len(self.train.test)

    def fit(
        self,
        objective: nn.Module,
        *,
        validate: Callable[[], float],
        student: nn.Module | None = None,
        also: nn.Module | None = None,
        part: str = "",
    ) -> History:
        """Train the net, or `student`, which is a part of it, and the parameters of the objective.

        What constrains weights also constrains `also`.
        """
        settings = self.settings
        epochs = settings["epochs_at_most"] = max(1, settings["epochs"] // self.shorter)
        layers = list(self.net.children())

        def constrain(_: nn.Module) -> None:
            for layer, limit in zip(layers, settings["max_norm"], strict=True):
                max_norm_(layer, limit=limit)
            if also is not None:
                max_norm_(also, limit=settings["regressor_norm"])

        return self.run.fit(
            self.student if student is None else student,
            objective,
            self.batches,
            teacher=self.cached,
            epochs=epochs,
            patience=max(1, settings["patience"] // self.shorter),
            validate=lambda _: validate(),
            optimizer=optimizer_of(settings, self.net),
            schedule=schedule_of(settings, len(self.batches)),
            after_step=constrain,
            part=part,
            cuda_graphs=True,
        )

    def classify(
        self, objective: nn.Module, *, also: nn.Module | None = None, before: History | None = None
    ) -> Result:
        """Train the whole net, stopping by the errors on the examples held out, and measure it."""
        history = self.fit(objective, validate=self.valid_error_rate, also=also)
        taught = self.teacher_outputs("test").logits.float().cpu() if self.teacher is not None else None
        found = self.run.measure(self.net, self.train.train, teacher=taught)
        assert history.best_epoch is not None
        found["valid_error_rate"] = history.curves["validation"][history.best_epoch]
        if before is not None:
            curves = {f"hint_stage/{name}": curve for name, curve in before.curves.items()}
            history = replace(
                history,
                curves=curves | history.curves,
                seconds=before.seconds + history.seconds,
                devices=before.devices + history.devices,
            )
        self.settings["best_epoch"] = history.best_epoch
        return Result(found, self.net, history)


def _tapped(net: nn.Module, settings: dict[str, Any], **taps: str) -> nn.Module:
    """Return the net with the features that its settings name."""
    named = {name: settings[key] for name, key in taps.items() if key in settings}
    return Taps(net, named) if named else net


# The students' has one learning rate, the teachers' a momentum that rises to `final_momentum`.
_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    # The authors' library divides by no less than 1e-5, torch adds that much.
    "RMSProp, decay 0.9": partial(RMSprop, alpha=0.9, eps=1e-5),
    "SGD, momentum 0.5 to 0.7": partial(SGD, momentum=0.5, fused=True),
    "SGD, momentum 0.5 to 0.65": partial(SGD, momentum=0.5, fused=True),
}


def optimizer_of(settings: dict[str, Any], net: nn.Module) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """Return what makes the optimiser; where there is a `convolution_rate`, the net's convolutions have that part."""
    rate = settings["learning_rate"]
    slow: set[int] = set()
    if "convolution_rate" in settings:
        convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
        slow = {id(each) for layer in convolutions for each in layer.parameters()}

    def made(parameters: Iterable[nn.Parameter]) -> Optimizer:
        given = list(parameters)
        groups: list[dict[str, Any]] = [{"params": [each for each in given if id(each) not in slow]}]
        if slow:
            # A regressor is no layer of the net, and has the full rate.
            convolved = [each for each in given if id(each) in slow]
            groups.append({"params": convolved, "lr": rate * settings["convolution_rate"]})
        return chosen(settings, "optimizer", _OPTIMIZERS)(groups, lr=rate)

    return made


def schedule_of(settings: dict[str, Any], steps: int) -> Callable[[Optimizer], LRScheduler] | None:
    """Return what makes the schedule of a teacher's rate and momentum; a student's rate stays as it is."""
    if "momentum_epochs" not in settings:
        return None

    def within(epochs: str) -> int:
        return max(1, int(settings[epochs]) // int(settings["shorter"]) * steps)

    if "rate_divisor" in settings:
        rate = {"divisor": settings["rate_divisor"]}
    else:
        rate = {"end": settings["rate_end"], "last": within("rate_epochs")}
    final, ramp = settings["final_momentum"], within("momentum_epochs")
    return lambda optimizer: _RateAndMomentum(optimizer, **rate, final=final, ramp=ramp)


class _RateAndMomentum(LRScheduler):
    """Lower the learning rate a little each step, and raise the momentum from 0.5 to `final` within `ramp` steps.

    The rate is divided by `divisor` at each step, or falls linearly to the part `end` of it within `last` steps.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        final: float,
        ramp: int,
        divisor: float = 1.0,
        end: float = 1.0,
        last: int = 1,
    ) -> None:
        self.final, self.ramp = final, ramp
        self.divisor, self.end, self.last = divisor, end, last
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        step = self.last_epoch
        for group in self.optimizer.param_groups:
            group["momentum"] = 0.5 + (self.final - 0.5) * min(1.0, step / self.ramp)
        left = 1 - (1 - self.end) * min(1.0, step / self.last)
        return [max(1e-6, base * left / self.divisor**step) for base in self.base_lrs]
