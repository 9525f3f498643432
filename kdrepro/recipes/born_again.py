"""Furlanello et al. (2018), Born-Again Neural Networks: generations on CIFAR-10 as in section 5, and on digits.

    kdrepro run born_again --protocol reduced
    kdrepro run born_again --protocol paper --arms mnist_teacher,mnist_ban1,mnist_ban2

Cost on digits: 520 runs, 8.06 hours on cpu: AMD EPYC, 1 thread, most of it MNIST. On pictures, protocol reduced,
three seeds: 33 runs, 10 hours on cpu: AMD EPYC, 1 thread.
Evidence, test errors on MNIST at protocol paper, n = 20: mnist_teacher 144.8 ± 3.1, mnist_again 144.2 ± 2.7,
mnist_ban1 143.7 ± 2.5, mnist_ban5 146.3 ± 2.3, mnist_ban_l 155.4 ± 4.1, mnist_smoothing 128.0 ± 2.7;
commits 8f0b7d7, 055478e, 210804f. On pictures, n = 3: teacher 1774 ± 37, again 1808 ± 27, ban1 1895 ± 18,
ban3 2048 ± 32, ban_l 1721 ± 39; commit 7175205.

The arms of WRN-28-2 and DenseNet-112-33, protocol paper, want a GPU; none is recorded.

The paper gives no learning rate and no number of epochs for CIFAR; those of Wide Residual Networks (Zagoruyko &
Komodakis, 2016), which it names, are used. The digits are an experiment of ours, for its many seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from kdrepro.arms import SCHEDULES, Arm, Recipe, Result, chosen, ensemble, same_seed, taught_by
from kdrepro.data import mnist
from kdrepro.data.batches import Batches, CropFlip
from kdrepro.data.examples import DataSet
from kdrepro.data.pictures import cifar10, digits
from kdrepro.methods.born_again import (
    BornAgain,
    ConfidenceWeighted,
    LabelSmoothing,
    PermutedDarkKnowledge,
)
from kdrepro.methods.supervised import Supervised
from kdrepro.models.densenet import DenseNet
from kdrepro.models.mlp import MLP
from kdrepro.models.wide_resnet import WideResNet
from kdrepro.protocols import EVIDENCE
from kdrepro.run import Run, fit_runs
from kdrepro.teacher import FrozenTeacher
from kdrepro.training.members import Member

_PICTURES: dict[str, Any] = {
    "net": "WRN-28-1",
    "depth": 28,
    "width": 1,
    "dropout": 0.3,
    "optimizer": "SGD, Nesterov momentum 0.9",
    "learning_rate": 0.1,
    "rate_factor": 0.2,
    "rate_steps": [0.3, 0.6, 0.8],
    "weight_decay": 0.0005,
    "batch_size": 128,
    "epochs": 200,
    "crop": 4,
}
# The paper trains DenseNets as it trains Wide-ResNets, but without dropout.
_WIDER = _PICTURES | {"net": "WRN-28-2", "width": 2}
_DENSE = {key: value for key, value in _PICTURES.items() if key not in ("width", "dropout")} | {
    "net": "DenseNet-112-33",
    "depth": 112,
    "growth": 33,
}
# 15 epochs do not fit a net of this size to the pictures, and dropout would keep it further from them.
_REDUCED = {"net": "WRN-16-1", "depth": 16, "dropout": 0.0, "epochs": 15}
# Hinton's student (2015, section 3) with the settings that its recipe chose on held-out digits.
_DIGITS: dict[str, Any] = {
    "net": "784-800-800-10",
    "hidden": [800, 800],
    "optimizer": "SGD, momentum 0.9",
    "learning_rate": 0.2,
    "schedule": "linear to 0",
    "weight_decay": 0.0,
    "batch_size": 250,
    "epochs": 30,
}
_FEW = _DIGITS | {"batch_size": 100, "learning_rate": 0.1}
_BASES = {"pictures": _PICTURES, "wrn28_2": _WIDER, "densenet": _DENSE, "mnist": _DIGITS, "few": _FEW}
_SMOOTHING = 0.1


def config(base: str, protocol: str) -> dict[str, Any]:
    """Return the settings of an arm at a protocol."""
    settings = dict(_BASES[base])
    if base == "pictures" and protocol == "reduced":
        settings |= _REDUCED
    if protocol == "quick":
        settings["epochs"] = 10
    if protocol == "smoke":
        settings |= {"epochs": 1, "hidden": [32, 32]}
    return settings


def load_few(protocol: str) -> DataSet:
    """Return the embedded digits, or at `smoke` a few hundred of them."""
    return digits("smoke" if protocol == "smoke" else "quick")


def build(settings: dict[str, Any]) -> nn.Module:
    """Return the net that the settings describe."""
    if "hidden" in settings:
        return MLP([784, *settings["hidden"], mnist.CLASSES])
    if "growth" in settings:
        return DenseNet(settings["depth"], settings["growth"])
    return WideResNet(settings["depth"], settings["width"], dropout=settings["dropout"])


def train(run: Run) -> Result:
    """Train one net of one generation."""
    (result,) = train_cohort([run])
    return result


def train_cohort(runs: Sequence[Run]) -> list[Result]:
    """Train nets of one generation and seed on the same batches, under the one teacher that they need.

    A generation has initial weights and an order of the examples of its own; what is compared within it has the same.
    """
    first = runs[0]
    settings, train = first.config, first.data.train
    seed = 1000 * settings["generation"] + first.seed
    batches = Batches(
        train.inputs,
        train.targets,
        batch_size=settings["batch_size"],
        seed=seed,
        augment=CropFlip(pixels=settings["crop"]) if "crop" in settings else None,
    )
    teacher = _teacher(runs)
    students = [run.build(seed) for run in runs]
    for run in runs:
        run.config["train_size"] = len(train)
    histories = fit_runs(
        runs,
        [
            Member(
                student=student,
                objective=_OBJECTIVES[run.config["objective"]](run.config),
                optimizer=_optimizer(run.config),
                schedule=_schedule(run.config, len(batches)),
                checkpoint=run.runner.checkpoint(run.id),
                label=run.name,
            )
            for run, student in zip(runs, students, strict=True)
        ],
        batches,
        teacher=teacher,
        epochs=settings["epochs"],
    )
    return [
        Result(
            run.measure(student, train, teacher=teacher if run.arm.needs(run.seed) else None),
            student,
            history,
        )
        for run, student, history in zip(runs, students, histories, strict=True)
    ]


def _teacher(runs: Sequence[Run]) -> FrozenTeacher | None:
    net = taught_by(runs)
    return None if net is None else FrozenTeacher(net)


_OBJECTIVES: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "labels": lambda settings: Supervised(),
    "teacher": lambda settings: BornAgain(),
    "teacher and labels": lambda settings: BornAgain(label_weight=1.0),
    "labels weighted by confidence": lambda settings: ConfidenceWeighted(),
    "permuted teacher": lambda settings: PermutedDarkKnowledge(),
    "smoothed labels": lambda settings: LabelSmoothing(smoothing=settings["smoothing"]),
}
_NESTEROV = {"SGD, Nesterov momentum 0.9": True, "SGD, momentum 0.9": False}


def _optimizer(settings: dict[str, Any]) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    nesterov = chosen(settings, "optimizer", _NESTEROV)
    return lambda parameters: SGD(
        parameters,
        lr=settings["learning_rate"],
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=settings["weight_decay"],
        fused=True,
    )


def _schedule(settings: dict[str, Any], steps: int) -> Callable[[Optimizer], LRScheduler]:
    epochs = settings["epochs"]
    if "rate_steps" not in settings:
        return chosen(settings, "schedule", SCHEDULES)(epochs * steps)
    places = [round(share * epochs) * steps for share in settings["rate_steps"]]
    return lambda optimizer: MultiStepLR(optimizer, places, gamma=settings["rate_factor"])


def _arms(
    base: str,
    *,
    generations: int,
    seeds: int,
    load: Callable[[str], DataSet],
    protocols: Sequence[str],
    compared: bool = True,
) -> dict[str, Arm]:
    """Return a teacher and its generations and, if `compared`, what they are compared with and their ensembles."""
    prefix = "" if base == "pictures" else f"{base}_"

    def arm(summary: str, objective: str, generation: int, *, taught: bool = True) -> Arm:
        before = f"{prefix}ban{generation - 1}" if generation > 1 else f"{prefix}teacher"
        smoothed = {"smoothing": _SMOOTHING} if objective == "smoothed labels" else {}
        return Arm(
            summary,
            train,
            seeds=seeds,
            needs=same_seed(before) if taught else lambda seed: (),
            base=base,
            overrides={"objective": objective, "generation": generation} | smoothed,
            load=load,
            protocols=protocols,
            cohort=f"{prefix}generation{generation}" if generation else "",
        )

    arms = {f"{prefix}teacher": arm("the first generation, on labels", "labels", 0, taught=False)}
    for generation in range(1, generations + 1):
        arms[f"{prefix}ban{generation}"] = arm(
            f"generation {generation}, on its teacher alone", "teacher", generation
        )
    if not compared:
        return arms
    arms |= {
        f"{prefix}again": arm("retrained on labels, from other initial weights", "labels", 1, taught=False),
        f"{prefix}ban_l": arm("labels and teacher", "teacher and labels", 1),
        f"{prefix}cwtm": arm("labels weighted by the teacher's largest", "labels weighted by confidence", 1),
        f"{prefix}dkpp": arm("the teacher with its others permuted", "permuted teacher", 1),
        f"{prefix}smoothing": arm("smoothed labels, no teacher", "smoothed labels", 1, taught=False),
    }
    for count in (2, 3):
        members = [f"{prefix}ban{generation}" for generation in range(1, count + 1)]
        arms[f"{prefix}ens{count}"] = Arm(
            f"the first {count} born-again generations averaged",
            ensemble,
            seeds=seeds,
            needs=same_seed(*members),
            base=base,
            overrides={"generation": count},
            load=load,
            protocols=protocols,
        )
    return arms


ARMS = {
    **_arms("pictures", generations=3, seeds=3, load=cifar10, protocols=EVIDENCE),
    **_arms("wrn28_2", generations=1, seeds=3, load=cifar10, protocols=("paper",), compared=False),
    **_arms("densenet", generations=1, seeds=3, load=cifar10, protocols=("paper",), compared=False),
    **_arms("mnist", generations=5, seeds=20, load=digits, protocols=("paper",)),
    **_arms("few", generations=5, seeds=20, load=load_few, protocols=("smoke", "quick", "paper")),
}

RECIPE = Recipe("born_again", ARMS, config, cifar10, build, {}, held_out=10_000, train_cohort=train_cohort)
