"""What a recipe is made of: arms, what each learns from, and what training one gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from kdrepro import checks
from kdrepro.protocols import PROTOCOLS
from kdrepro.teacher import FrozenTeacher
from kdrepro.training.resume import History

if TYPE_CHECKING:
    from kdrepro.run import Run

Key = tuple[str, int]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Arm:
    """One thing that a recipe trains: how, from which other runs' nets, and with how many seeds it is recorded.

    `overrides` are settings of this arm laid over the recipe's for its `base` (default: its own name). `load` gives the
    data set where that is not the recipe's, and `protocols` says at which the arm can be trained. Arms of one seed
    that name the same `cohort` are trained together, by the recipe's `train_cohort`, wherever a plan holds several.
    `start` is the arm whose trained weights, of the same seed, this one goes on from.
    """

    summary: str
    train: Callable[[Run], Result]
    seeds: int = 5
    needs: Callable[[int], Sequence[Key]] = lambda seed: ()
    base: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    load: Callable[[str], Any] | None = None
    protocols: Sequence[str] = PROTOCOLS
    cohort: str = ""
    start: str = ""

    def before(self, seed: int) -> list[Key]:
        """The runs whose nets this one learns from or goes on from."""
        return [*self.needs(seed), *([(self.start, seed)] if self.start else [])]


@dataclass(frozen=True)
class Recipe:
    """The program of one paper: its arms in order, and the settings, data and nets that they use.

    `config(base, protocol)` gives the settings of an arm, `load(protocol)` the data set (with `name`, `digest`,
    `train`, `test` and `held_out(count)`), `build(config)` a net. `candidates` are the settings that were tried without
    the test set, by arm, on `held_out` examples: the last training examples, or of a text the first validation pairs.
    `train_cohort` trains several runs of one seed on the same batches and gives what `Arm.train` would give for each.
    """

    name: str
    arms: dict[str, Arm]
    config: Callable[[str, str], dict[str, Any]]
    load: Callable[[str], Any]
    build: Callable[[dict[str, Any]], nn.Module]
    candidates: dict[str, Sequence[dict[str, Any]]]
    held_out: int
    train_cohort: Callable[[Sequence[Run]], Sequence[Result]] | None = None

    def arm(self, name: str) -> Arm:
        """Return an arm by name; a wrong one raises `ValueError` with the right ones."""
        return self.arms[checks.choice("arm", name, self.arms)]


@dataclass(frozen=True)
class Result:
    """What training an arm gives: its metrics, the net (`None` where nothing was trained) and its history.

    `samples` are texts that the net wrote, or small arrays as texts (`array_texts`), by what they are.
    """

    metrics: dict[str, float]
    model: nn.Module | None = None
    history: History = field(default_factory=History)
    parameters: int | None = None
    samples: dict[str, list[str]] = field(default_factory=dict)


def taught_by(runs: Sequence[Run]) -> nn.Module | None:
    """Return the one net that the runs of a cohort learn from, if any does; those on labels alone name none."""
    learners = [run for run in runs if run.arm.needs(run.seed)]
    if not learners:
        return None
    (_,) = {key for run in learners for key in run.arm.needs(run.seed)}
    (net,) = learners[0].teachers()
    return net


def ensemble(run: Run) -> Result:
    """Average the probabilities of the nets that a run needs; nothing is trained."""
    members = FrozenTeacher(run.teachers())
    run.config["train_size"] = len(run.data.train)
    parameters = sum(parameter.numel() for member in members.modules for parameter in member.parameters())
    return Result(run.measure(members, run.data.train), parameters=parameters)


def same_seed(*names: str) -> Callable[[int], Sequence[Key]]:
    """Return what a run learns from that learns from other arms' nets of its own seed (see `Arm.needs`)."""
    return lambda seed: [(name, seed) for name in names]


def linear_to_zero(steps: int) -> Callable[[Optimizer], LRScheduler]:
    """Return what makes the schedule "linear to 0": from the learning rate at the first step to 0 after `steps`."""
    return lambda optimizer: LambdaLR(optimizer, lambda step: 1 - step / steps)


# By what the settings call them, given the number of steps.
SCHEDULES = {"linear to 0": linear_to_zero}


def chosen(settings: dict[str, Any], name: str, options: Mapping[str, _T]) -> _T:
    """Return what a setting names; one that is none of the options raises `ValueError` with their names."""
    return options[checks.choice(name, settings[name], options)]


def candidates(recipe: Recipe) -> Recipe:
    """Return the recipe whose arms are the settings to choose from, named `<arm>.try<number>`."""
    arms = {
        f"{name}.try{number}": dataclasses.replace(
            recipe.arm(name),
            base=recipe.arm(name).base or name,
            overrides=recipe.arm(name).overrides | overrides,
            seeds=1,
        )
        for name, tried in recipe.candidates.items()
        for number, overrides in enumerate(tried)
    }
    return dataclasses.replace(recipe, arms=recipe.arms | arms)
