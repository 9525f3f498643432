"""A recipe that is made up, whose runs take no time, and its runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import smoke_runs
import torch
from small_networks import batch, network

from kdrepro import Batches, Supervised
from kdrepro.arms import Arm, Recipe, Result
from kdrepro.data.examples import DataSet, Examples
from kdrepro.run import Run
from kdrepro.runner import Runner

SEEN: list[tuple[str, int]] = []


def train(run: Run) -> Result:
    SEEN.append((run.name, run.seed))
    net, examples = run.build(), run.data.train
    batches = Batches(examples.inputs, examples.targets, batch_size=8, seed=run.seed)
    history = run.fit(
        net,
        Supervised(),
        batches,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=run.config["learning_rate"]),
        epochs=2,
    )
    run.config["found_out"] = len(examples)
    return Result({"test_errors": float(len(run.data.test))}, net, history)


def untrained(run: Run) -> Result:
    return Result({"members": float(len(run.teachers()))}, parameters=7)


def load(protocol: str) -> DataSet:
    return DataSet("made_up", "sha256:00", Examples(*batch(30)), Examples(*batch(10, seed=1)))


RECIPE = Recipe(
    name="made_up",
    arms={
        "first": Arm("needs nothing", train, seeds=3),
        "second": Arm("needs one", train, seeds=2, needs=lambda seed: [("first", seed // 2)]),
        "third": Arm("needs a chain", train, seeds=1, needs=lambda seed: [("second", 1), ("first", 2)]),
        "mean": Arm("trains nothing", untrained, seeds=1, needs=lambda seed: [("first", 0), ("first", 1)]),
        "faster": Arm("another rate", train, base="first", overrides={"learning_rate": 0.5}),
    },
    config=lambda base, protocol: {"base": base, "protocol": protocol, "learning_rate": 0.1},
    load=load,
    build=lambda settings: network(torch.randint(1000, ()).item()),
    candidates={"first": [{"learning_rate": 0.01}, {"learning_rate": 0.3}], "faster": [{"extra": 1}]},
    held_out=10,
)


def make_runner(folder: Path, recipe: Recipe = RECIPE, **changes: Any) -> Runner:
    SEEN.clear()
    return smoke_runs.runner(folder, recipe, protocol="quick", **changes)
