"""Romero et al. (2015), FitNets: Hints for Thin Deep Nets: MNIST as in section 3.3 and appendix A.2.

kdrepro run fitnets --protocol paper
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler

from kdrepro import metrics
from kdrepro.caching import CachedTeacher, cache_teacher
from kdrepro.data import mnist
from kdrepro.data.batches import Batches
from kdrepro.data.examples import DataSet
from kdrepro.engine import outputs
from kdrepro.members import History
from kdrepro.methods.fitnets import FitNetKD, HintStage, JointFitNet, regressor
from kdrepro.methods.supervised import Supervised
from kdrepro.models import maxout
from kdrepro.runs import Arm, Key, Recipe, Result, Run
from kdrepro.taps import Taps
from kdrepro.teacher import FrozenTeacher
from kdrepro.types import Batch, Outputs

# Appendix A.2: 50,000 digits to train on and 10,000 to stop by, both stages alike. The constraint on the weights and
# the optimiser's constants are in the authors' configuration file only.
_STUDENT: dict[str, Any] = {
    "optimizer": "RMSProp, decay 0.9",
    "learning_rate": 0.0005,
    "net": "mnist_student",
    "init_range": 0.005,
    "max_norm": [0.9, 0.9, 1.9365, 1.9365, 1.9365, 1.9365, 1.9365],
    "input_dropout": 0.0,
    "dropout": 0.0,
    "epochs": 500,
    "patience": 100,
    "batch_size": 128,
    "held_out_fraction": 1 / 6,
}
# As Goodfellow et al. (2013), which the paper refers to; the numbers are in that paper's published configuration.
_TEACHER = _STUDENT | {
    "optimizer": "SGD, momentum 0.5 to 0.7",
    "learning_rate": 0.05,
    "rate_divisor": 1.00004,
    "momentum_epochs": 250,
    "net": "mnist_teacher",
    "max_norm": [0.9, 1.9365, 1.9365, 1.9365],
    "input_dropout": 0.2,
    "dropout": 0.5,
}
_KD = {"temperature": 3.0, "soft_weight": 4.0, "final_soft_weight": 1.0, "decay_epochs": 150}
_HINT = {"hint_layer": "layer2", "guided_layer": "layer4", "regressor_norm": 0.9}
# The weight that libraries give to the mean square of the hint, beside the other terms.
_JOINT = _HINT | {"hint_weight": 100.0}
# What the authors' configuration file has where it differs from the paper.
_CODE = {"net": "mnist_student_code", "final_soft_weight": 0.0, "soften_student": False, "epochs": 1000}

_NETS = {
    "mnist_teacher": maxout.MNIST_TEACHER,
    "mnist_student": maxout.MNIST_STUDENT,
    "mnist_student_code": maxout.MNIST_STUDENT_CODE,
}
# What a protocol divides the numbers of epochs by.
_SHORTER = {"paper": 1, "reduced": 5, "quick": 50, "smoke": 500}
# `quick` has some 3,000 digits and eight epochs. With the paper's first weights all of them would pass before a net
# learned anything, so the weights are ten times larger, and steps are smaller lots at a higher rate. The teacher's rate
# goes down, since at these weights it diverges at the paper's; with so few steps it also learns faster with less
# dropout. Chosen on held-out digits of the embedded set.
_QUICK = {"init_range": 0.05, "batch_size": 32, "learning_rate": 0.001, "epochs": 400, "patience": 400}
_QUICK_TEACHER = _QUICK | {"learning_rate": 0.02, "input_dropout": 0.1, "dropout": 0.2}


def config(base: str, protocol: str) -> dict[str, Any]:
    """Return the settings of an arm at a protocol."""
    settings = dict({"teacher": _TEACHER}.get(base, _STUDENT))
    if protocol == "quick":
        settings |= _QUICK_TEACHER if base == "teacher" else _QUICK
    return settings | {"shorter": _SHORTER[protocol]}


def load(protocol: str) -> DataSet:
    """Return the digits of a protocol: all of MNIST, the 5,000 embedded ones, or a few hundred of these."""
    if protocol in ("paper", "reduced"):
        return mnist.load("mnist")
    digits = mnist.load("mnist5k")
    return digits if protocol == "quick" else digits.few(400, 200)


def build(settings: dict[str, Any]) -> nn.Module:
    """Return the net that the settings describe."""
    return maxout.maxout_net(
        _NETS[settings["net"]],
        image=(1, 28, 28),
        input_dropout=settings["input_dropout"],
        dropout=settings["dropout"],
        init_range=settings["init_range"],
    )


def supervised(run: Run) -> Result:
    """Train on the labels alone."""
    return _Training(run).classify(Supervised())


def kd(run: Run) -> Result:
    """Train on labels and soft targets, from random weights."""
    return _Training(run).classify(_soft_targets(run))


def fitnet(run: Run) -> Result:
    """Train the guided layers on the hint, and then the whole net on labels and soft targets."""
    training = _Training(run)
    hints = training.hints()
    # What is best is what comes nearest to the hint on the digits held out.
    history = training.fit(
        hints, validate=lambda: training.valid_loss(hints), also=hints.regressor, part="hint"
    )
    run.config["hint_epochs_run"] = history.epochs
    return training.classify(_soft_targets(run), before=history)


def joint(run: Run) -> Result:
    """Train on hints, labels and, with a temperature, soft targets at once."""
    training = _Training(run)
    beside = _soft_targets(run) if "temperature" in run.config else Supervised()
    objective = JointFitNet(training.hints(), beside, hint_weight=run.config["hint_weight"])
    return training.classify(objective, also=objective.hints.regressor)


class _Training:
    """The examples, the net and the teacher of one run, and the trainings that it goes through."""

    def __init__(self, run: Run) -> None:
        settings = self.settings = run.config
        self.run = run
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
            self.cached = cache_teacher(
                self.teacher, self.batches, device=run.runner.device, precision=run.runner.precision
            )

    def outputs(self, model: nn.Module | FrozenTeacher, inputs: Tensor) -> Outputs:
        runner = self.run.runner
        return outputs(model, inputs, device=runner.device, precision=runner.precision)

    def hints(self) -> HintStage:
        """Return the first stage's objective, with a regressor sized from the maps."""
        assert self.teacher is not None
        few = self.train.train.inputs[:2]
        guided = self.outputs(self.student, few).features["guided"]
        self.hint = self.outputs(self.teacher, self.train.test.inputs).features["hint"]
        with torch.random.fork_rng():
            torch.manual_seed(self.run.seed + 1)
            fitted = regressor(
                guided.shape[1:], self.hint.shape[1:], activation=maxout.Maxout(pieces=2), pieces=2
            )
            maxout.uniform_(fitted, limit=self.settings["init_range"])
        return HintStage(fitted, student_tap="guided", teacher_tap="hint")

    def valid_loss(self, hints: HintStage) -> float:
        """Return how far the guided layer is from the hint on the examples held out."""
        found = self.outputs(self.student, self.train.test.inputs)
        # Features come back on the CPU, the regressor is where it trains.
        where = next(hints.parameters()).device
        student = Outputs(found.logits, {"guided": found.features["guided"].to(where)})
        teacher = Outputs(found.logits, {"hint": self.hint.to(where)})
        return float(hints(student, teacher, Batch(found.logits, self.train.test.targets))["hint"])

    def valid_error_rate(self) -> float:
        """Return the share of errors on the examples held out."""
        logits = self.outputs(self.student, self.train.test.inputs).logits
        return metrics.errors(logits, self.train.test.targets) / len(self.train.test)

    def fit(
        self,
        objective: nn.Module,
        *,
        validate: Callable[[], float],
        also: nn.Module | None = None,
        part: str = "",
    ) -> History:
        settings = self.settings

        def constrain(_: nn.Module) -> None:
            for layer, limit in zip(self.net.children(), settings["max_norm"], strict=True):
                maxout.kernel_norm_(layer, limit=limit)
            if also is not None:
                maxout.kernel_norm_(also, limit=settings["regressor_norm"])

        shorter = settings["shorter"]
        return self.run.fit(
            self.student,
            objective,
            self.batches,
            teacher=self.cached,
            epochs=max(1, settings["epochs"] // shorter),
            patience=max(1, settings["patience"] // shorter),
            validate=lambda _: validate(),
            optimizer=_optimizer(settings),
            schedule=_schedule(settings, len(self.batches)),
            after_step=constrain,
            part=part,
        )

    def classify(
        self, objective: nn.Module, *, also: nn.Module | None = None, before: History | None = None
    ) -> Result:
        """Train the whole net, stopping by the errors on the examples held out, and measure it."""
        history = self.fit(objective, validate=self.valid_error_rate, also=also)
        found = self.run.measure(self.net, self.train.train, teacher=self.teacher)
        assert history.best_epoch is not None
        found["valid_error_rate"] = history.curves["validation"][history.best_epoch]
        if before is not None:
            curves = {f"hint_stage/{name}": curve for name, curve in before.curves.items()}
            history = History(
                curves | history.curves, history.epochs, before.seconds + history.seconds, history.best_epoch
            )
        self.settings["best_epoch"] = history.best_epoch
        return Result(found, self.net, history)


def _tapped(net: nn.Module, settings: dict[str, Any], **taps: str) -> nn.Module:
    """Return the net with the features that its settings name."""
    named = {name: settings[key] for name, key in taps.items() if key in settings}
    return Taps(net, named) if named else net


def _soft_targets(run: Run) -> FitNetKD:
    settings = run.config
    return FitNetKD(
        temperature=settings["temperature"],
        soft_weight=settings["soft_weight"],
        final_soft_weight=settings["final_soft_weight"],
        decay_epochs=max(1, settings["decay_epochs"] // settings["shorter"]),
        soften_student=settings.get("soften_student", True),
    )


def _optimizer(settings: dict[str, Any]) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    rate = settings["learning_rate"]
    if settings["optimizer"].startswith("SGD"):
        return lambda parameters: SGD(parameters, lr=rate, momentum=0.5, fused=True)
    # The authors' library divides by no less than 1e-5, torch adds that much.
    return lambda parameters: RMSprop(parameters, lr=rate, alpha=0.9, eps=1e-5)


def _schedule(settings: dict[str, Any], steps: int) -> Callable[[Optimizer], LRScheduler] | None:
    if "rate_divisor" not in settings:
        return None
    ramp = settings["momentum_epochs"] // settings["shorter"] * steps
    return lambda optimizer: _RateAndMomentum(optimizer, divisor=settings["rate_divisor"], ramp=max(1, ramp))


class _RateAndMomentum(LRScheduler):
    """Divide the learning rate a little each step, and raise the momentum from 0.5 to 0.7 within `ramp` steps."""

    def __init__(self, optimizer: Optimizer, *, divisor: float, ramp: int) -> None:
        self.divisor, self.ramp = divisor, ramp
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        for group in self.optimizer.param_groups:
            group["momentum"] = 0.5 + 0.2 * min(1.0, self.last_epoch / self.ramp)
        return [max(1e-6, base / self.divisor**self.last_epoch) for base in self.base_lrs]


def _own_teacher(seed: int) -> Sequence[Key]:
    return [("teacher", seed)]


ARMS = {
    "teacher": Arm("3 maxout layers of 48, 48 and 24 channels, with dropout", supervised),
    "student_alone": Arm("6 thin maxout layers on the labels", supervised),
    "kd": Arm("the student on labels and soft targets", kd, needs=_own_teacher, overrides=_KD),
    "fitnet": Arm("a hint first, then soft targets", fitnet, needs=_own_teacher, overrides=_KD | _HINT),
    "fitnet_joint": Arm(
        "hint and soft targets in one stage", joint, needs=_own_teacher, overrides=_KD | _JOINT
    ),
    "joint_hint_label": Arm("hint and labels in one stage", joint, needs=_own_teacher, overrides=_JOINT),
    "fitnet_code": Arm(
        "both stages as the authors' file has them",
        fitnet,
        seeds=1,
        needs=_own_teacher,
        overrides=_KD | _HINT | _CODE,
    ),
}

RECIPE = Recipe("fitnets", ARMS, config, load, build, {}, held_out=10_000)
