"""Zagoruyko & Komodakis (2017), Paying More Attention to Attention: CIFAR-10, as in section 4.1.

    kdrepro run attention_transfer --protocol reduced

Cost at protocol reduced: 23 runs, 19.7 hours on cpu: AMD EPYC, 1 thread; 3 runs, 2.34 hours on cpu: AMD EPYC, 2
threads; 35 runs, 3.39 hours on cuda: NVIDIA H200; 7 runs, 1.76 hours on cuda: NVIDIA H200, then cpu: AMD EPYC, 1
thread. On the GPU many of these ran at a time. Evidence, test errors at protocol reduced, n = 5: teacher_wrn16_2 1246 ±
27, student_alone 1500 ± 34, at 1407 ± 38, at_sum1 1400 ± 25, f_at 1476 ± 42, kd 1390 ± 19, at_kd 1399 ± 17, at_10 1477
± 22, at_norm_0.1 1464 ± 24, at_norm_by_group 1407 ± 23; n = 3: teacher_wrn40_1 1305 ± 53, at_from40 1442 ± 55,
f_at_from40 1565 ± 20, kd_from40 1439 ± 38, at_kd_from40 1435 ± 10, at_norm_1000 2138 ± 121; commits 84bf955, affcb9a,
8546750, 7231975, 1982738, 97e89bf, 50e76fc, 1ae1830, 24afad0, b59bdc8. The students of WRN-40-2 are not recorded, nor
at_sum4 and at_max1.

The settings are those of the authors' program (github.com/szagoruyko/attention-transfer, cifar.py); what we could read
of the paper does not give them. None was tuned on CIFAR-10; the weight of the full activations is nowhere given, and
is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdrepro.arms import Arm, Recipe, Result, chosen, same_seed, taught_by
from kdrepro.attention_looks import GROUPS, attention_maps, kept, mean_distance
from kdrepro.data.batches import Batches, CropFlip
from kdrepro.data.examples import DataSet
from kdrepro.data.pictures import cifar10, digits
from kdrepro.methods.attention_transfer import AttentionTransfer, FullActivationTransfer
from kdrepro.methods.hinton_kd import HintonKD
from kdrepro.methods.supervised import Supervised
from kdrepro.models.wide_resnet import WideResNet
from kdrepro.protocols import DEMONSTRATIONS, EVIDENCE, PROTOCOLS
from kdrepro.run import Run, fit_runs
from kdrepro.taps import Taps
from kdrepro.teacher import FrozenTeacher
from kdrepro.training.members import Member

_SETTINGS: dict[str, Any] = {
    "optimizer": "SGD, momentum 0.9 cleared at each step of the learning rate",
    "learning_rate": 0.1,
    "rate_factor": 0.2,
    "rate_steps": [0.3, 0.6, 0.8],
    "weight_decay": 0.0005,
    "batch_size": 128,
    "epochs": 200,
    "crop": 4,
    "padding": "reflect",
    "flip": True,
    "in_channels": 3,
    "depth": 16,
    "width": 1,
}
_TEACHERS: dict[str, dict[str, Any]] = {
    "teacher_wrn16_2": {"depth": 16, "width": 2},
    "teacher_wrn40_1": {"depth": 40, "width": 1},
    "teacher_wrn40_2": {"depth": 40, "width": 2},
}
# Small nets on digits, chosen on held-out digits of those that are embedded, to show something within two minutes.
# Small batches, because in so few epochs what counts is the number of steps; digits are neither mirrored nor moved.
_DIGITS = {"crop": 0, "flip": False, "in_channels": 1, "depth": 10, "batch_size": 32, "epochs": 2}
_DIGIT_TEACHERS = {
    "teacher_wrn16_2": {"depth": 10, "width": 2, "epochs": 4},
    "teacher_wrn40_1": {"depth": 16, "width": 1, "epochs": 4},
}

_AT = {"objective": "attention", "attention_weight": 1000.0, "form": "code", "power": 2, "pool": "sum"}
_KD = {"temperature": 4.0, "soft_weight": 0.9}
_FULL = {"objective": "activations", "activation_weight": 1.0}


def config(base: str, protocol: str) -> dict[str, Any]:
    """Return the settings of an arm at a protocol."""
    settings = _SETTINGS | _TEACHERS.get(base, {})
    if protocol == "reduced":
        settings["epochs"] = 30
    if protocol in DEMONSTRATIONS:
        settings |= _DIGITS | _DIGIT_TEACHERS.get(base, {})
    if protocol == "smoke":
        settings["epochs"] = 1
    return settings


def load(protocol: str) -> DataSet:
    """Return the pictures of a protocol: CIFAR-10, its JPEG copy, or the embedded digits in their place."""
    return cifar10(protocol) if protocol in EVIDENCE else digits(protocol, smoke=(256, 128))


def build(settings: dict[str, Any]) -> nn.Module:
    """Return the net that the settings describe."""
    return WideResNet(settings["depth"], settings["width"], in_channels=settings["in_channels"])


def train(run: Run) -> Result:
    """Train one net."""
    (result,) = train_cohort([run])
    return result


def train_cohort(runs: Sequence[Run]) -> list[Result]:
    """Train the nets of several runs of one seed on the same batches, under the one teacher that they need."""
    first = runs[0]
    settings, train = first.config, first.data.train
    batches = Batches(
        train.inputs,
        train.targets,
        batch_size=settings["batch_size"],
        seed=first.seed,
        augment=CropFlip(pixels=settings["crop"], padding=settings["padding"], flip=settings["flip"]),
    )
    teacher = _teacher(runs)
    students = [run.build() for run in runs]
    members = []
    for run, student in zip(runs, students, strict=True):
        run.config["train_size"] = len(train)
        members.append(
            Member(
                student=Taps(student, {group: group for group in GROUPS})
                if run.arm.needs(run.seed)
                else student,
                objective=_objective(run, student, teacher, train.inputs[:2]),
                optimizer=_optimizer(run.config),
                schedule=_schedule(run.config, len(batches)),
                checkpoint=run.runner.checkpoint(run.id),
                label=run.name,
            )
        )
    histories = fit_runs(runs, members, batches, teacher=teacher, epochs=settings["epochs"], cuda_graphs=True)
    # The teacher's logits are asked for, not its features, which for all test pictures would fill the memory.
    bare = None if teacher is None else FrozenTeacher(_bare(teacher.modules[0]))
    looks = (
        None
        if bare is None
        else attention_maps(bare.modules[0], first.data.test.inputs, device=first.runner.device)
    )
    results = []
    for run, student, history in zip(runs, students, histories, strict=True):
        taught = bool(run.arm.needs(run.seed))
        found = run.measure(student, train, teacher=bare if taught else None)
        own = attention_maps(student, run.data.test.inputs, device=run.runner.device)
        if taught and looks is not None:
            found |= {f"map_distance_{group}": mean_distance(own[group], looks[group]) for group in GROUPS}
        results.append(Result(found, student, history, samples=kept(run.data.test, own, pictures=not taught)))
    return results


def _teacher(runs: Sequence[Run]) -> FrozenTeacher | None:
    net = taught_by(runs)
    return None if net is None else FrozenTeacher(Taps(net, {group: group for group in GROUPS}))


def _objective(run: Run, student: nn.Module, teacher: FrozenTeacher | None, few: Tensor) -> nn.Module:
    settings = run.config
    soft = {key: settings[key] for key in _KD if key in settings}
    if settings.get("objective") == "attention":
        weight = settings["attention_weight"]
        if settings.get("by_group"):
            maps = attention_maps(student, few, device=run.runner.device)
            weight = {group: weight / each[0].numel() for group, each in maps.items()}
        return AttentionTransfer(
            GROUPS,
            attention_weight=weight,
            form=settings["form"],
            power=settings["power"],
            pool=settings["pool"],
            **soft,
        )
    if settings.get("objective") == "activations":
        assert teacher is not None
        sides = [_channels(net) for net in (student, teacher.modules[0])]
        # A seed of its own, so that the student's initial weights are those of the other arms.
        with torch.random.fork_rng():
            torch.manual_seed(run.seed + 1)
            return FullActivationTransfer(
                GROUPS,
                activation_weight=settings["activation_weight"],
                channels={
                    group: (own, other)
                    for group, own, other in zip(GROUPS, *sides, strict=True)
                    if own != other
                },
            )
    return HintonKD(**soft) if soft else Supervised()


def _bare(net: nn.Module) -> nn.Module:
    return net.module if isinstance(net, Taps) else net


def _channels(net: nn.Module) -> list[int]:
    """Return the channels of each group of a wide residual net."""
    net = _bare(net)
    assert isinstance(net, WideResNet)
    return [16 * net.width, 32 * net.width, 64 * net.width]


# The steps of the learning rate, which clear it, are `_RateSteps`.
_OPTIMIZERS = {"SGD, momentum 0.9 cleared at each step of the learning rate": partial(SGD, momentum=0.9)}


def _optimizer(settings: dict[str, Any]) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    made = chosen(settings, "optimizer", _OPTIMIZERS)
    rate, decay = settings["learning_rate"], settings["weight_decay"]
    return lambda parameters: made(parameters, lr=rate, weight_decay=decay, fused=True)


def _schedule(settings: dict[str, Any], steps: int) -> Callable[[Optimizer], LRScheduler]:
    epochs = [round(share * settings["epochs"]) for share in settings["rate_steps"]]
    places = [epoch * steps for epoch in epochs]
    return lambda optimizer: _RateSteps(optimizer, places=places, factor=settings["rate_factor"])


class _RateSteps(LRScheduler):
    """Lower the learning rate at some steps, and forget the momentum there, as the authors' new optimiser does."""

    def __init__(self, optimizer: Optimizer, *, places: Sequence[int], factor: float) -> None:
        self.places, self.factor = list(places), factor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        if self.last_epoch in self.places:
            self.optimizer.state.clear()
        passed = sum(self.last_epoch >= place for place in self.places)
        return [base * self.factor**passed for base in self.base_lrs]


def _student(
    summary: str,
    overrides: dict[str, Any],
    *,
    teacher: str = "wrn16_2",
    protocols: Sequence[str] = PROTOCOLS,
) -> Arm:
    return Arm(
        summary,
        train,
        needs=same_seed(f"teacher_{teacher}"),
        overrides=overrides,
        protocols=protocols,
        cohort=teacher,
    )


def _weighted(
    summary: str, weight: float, *, form: str = "code", protocols: Sequence[str] = PROTOCOLS
) -> Arm:
    return _student(summary, _AT | {"form": form, "attention_weight": weight}, protocols=protocols)


ARMS = {
    "teacher_wrn16_2": Arm("WRN-16-2 on the labels", train),
    "teacher_wrn40_1": Arm("WRN-40-1 on the labels", train),
    "teacher_wrn40_2": Arm("WRN-40-2 on the labels", train, protocols=("paper",)),
    "student_alone": Arm("WRN-16-1 on the labels", train, cohort="wrn16_2"),
    "at": _student("attention of WRN-16-2, the code's form", _AT),
    "at_sum1": _student("the same with maps of absolute values", _AT | {"power": 1}),
    "at_sum4": _student("the same with maps of fourth powers", _AT | {"power": 4}),
    "at_max1": _student("the same with maps of the largest value", _AT | {"power": 1, "pool": "max"}),
    # The paper's form has a factor of ½. β is about 0.1, in a mean over the batch; or in a sum over it 1,000 divided by
    # its pictures, which cancel out, and by the positions of each group's map; or the code's number.
    "at_norm_0.1": _student("the paper's form, β = 0.1", _AT | {"form": "paper", "attention_weight": 0.05}),
    "at_norm_by_group": _student(
        "the paper's form, its β for each group, summed over the batch",
        _AT | {"form": "paper", "attention_weight": 500.0, "by_group": True},
    ),
    "at_10": _weighted("the code's form, weight 10", 10.0),
    # More weights than the claims name, where they cost next to nothing.
    "at_100": _weighted("the code's form, weight 100", 100.0, protocols=DEMONSTRATIONS),
    "at_norm_1": _weighted("the paper's form, β = 1", 0.5, form="paper", protocols=DEMONSTRATIONS),
    "f_at": _student("full activations of WRN-16-2", _FULL),
    "kd": _student("soft targets of WRN-16-2", _KD),
    "at_kd": _student("attention and soft targets of WRN-16-2", _AT | _KD),
    "at_from40": _student("attention of WRN-40-1, the code's form", _AT, teacher="wrn40_1"),
    "f_at_from40": _student("full activations of WRN-40-1", _FULL, teacher="wrn40_1"),
    "kd_from40": _student("soft targets of WRN-40-1", _KD, teacher="wrn40_1"),
    "at_kd_from40": _student("attention and soft targets of WRN-40-1", _AT | _KD, teacher="wrn40_1"),
    # The student of these is the net that teaches above; alone on the labels it is `teacher_wrn16_2`.
    **{
        f"wide_{name}": _student(
            f"WRN-16-2, {what} of WRN-40-2", how | {"width": 2}, teacher="wrn40_2", protocols=("paper",)
        )
        for name, what, how in (
            ("at", "attention", _AT),
            ("f_at", "full activations", _FULL),
            ("kd", "soft targets", _KD),
            ("at_kd", "attention and soft targets", _AT | _KD),
        )
    },
    # On its own and last: should it diverge, all others are there.
    "at_norm_1000": Arm(
        "the paper's form, β = 1000",
        train,
        needs=same_seed("teacher_wrn16_2"),
        overrides=_AT | {"form": "paper", "attention_weight": 500.0},
    ),
}

# Attention transfer in both forms with every weight that is trained.
SWEEP = ("at_10", "at_100", "at", "at_norm_0.1", "at_norm_1", "at_norm_by_group", "at_norm_1000")

RECIPE = Recipe(
    "attention_transfer", ARMS, config, load, build, {}, held_out=5_000, train_cohort=train_cohort
)
