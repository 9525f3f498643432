"""The two stages of a FitNet: what passes from one to the other, and what a kill in either leaves behind."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from fitnet_runs import settings, watch
from smoke_runs import runner
from stopped_trainings import Stopped
from torch import Tensor

from kdrepro import fitnet_training
from kdrepro.fitnet_training import FitNetTraining
from kdrepro.recipes.fitnets import RECIPE, config
from kdrepro.run import Run
from kdrepro.runner import Runner

LONGER = {
    "shorter": 125,
    "patience": 500,
    "init_range": 0.05,
}  # four epochs of three steps, and nets that learn


@pytest.fixture(scope="module")
def longer():
    """The recipe with more epochs than at `smoke`."""
    return dataclasses.replace(RECIPE, config=lambda base, protocol: config(base, protocol) | LONGER)


@pytest.fixture(scope="module")
def undisturbed(longer, tmp_path_factory) -> Runner:
    its = runner(tmp_path_factory.mktemp("undisturbed"), longer)
    its.run(its.plan(["fitnet"], [0]))
    return its


def test_the_second_stage_starts_from_the_guided_layers_of_the_first_and_new_layers_above(
    longer, undisturbed, monkeypatch, tmp_path
):
    its = runner(tmp_path, longer)
    its.trained = undisturbed.trained
    found: dict[str, Tensor] = {}

    def caught(self, objective, *, also=None, before=None):
        found.update({name: value.clone() for name, value in self.net.state_dict().items()})
        raise Stopped

    monkeypatch.setattr(FitNetTraining, "classify", caught)
    with pytest.raises(Stopped):
        its.run([("fitnet", 0)])
    fresh = Run(its, "fitnet", RECIPE.arm("fitnet"), 0).build().state_dict()
    moved = {name.split(".")[0] for name, value in found.items() if not torch.equal(value, fresh[name])}
    assert moved == {"layer1", "layer2", "layer3", "layer4"}


def test_the_first_stage_brings_the_guided_layer_nearer(undisturbed):
    (row,) = undisturbed.ledger.rows(arm="fitnet")
    assert row.config["hint_epochs_run"] == row.config["epochs_run"] == 4
    distances = row.curves["hint_stage/validation"]
    assert distances[-1] < distances[0]


def test_weights_are_kept_within_their_limits(undisturbed):
    for name in ("teacher", "fitnet"):
        net = undisturbed.trained(name, 0)
        for layer, limit in zip(net.children(), settings(name)["max_norm"], strict=True):
            (weight,) = [each for each in layer.parameters() if each.ndim > 1]
            assert weight.flatten(1).norm(dim=1).max() <= limit * (1 + 1e-5)


def test_the_distance_to_the_hint_is_told_beside_that_of_its_mean_at_each_position(undisturbed, longer):
    (row,) = undisturbed.ledger.rows(arm="fitnet")
    best = row.curves["hint_stage/validation"][row.config["hint_best_epoch"]]
    assert (
        row.metrics["hint_distance"]
        == pytest.approx(best, rel=1e-5)
        == min(row.curves["hint_stage/validation"])
    )
    run = Run(undisturbed, "fitnet", longer.arm("fitnet"), 0)
    training = FitNetTraining(run)
    training.hints()
    seen = training.cached.features["hint"]
    squares = (training.hint - seen.mean(dim=0)).square().flatten(1).sum(dim=1)
    assert row.metrics["hint_distance_blind"] == pytest.approx(squares.mean().item() / 2, rel=1e-4)
    by_channel = (training.hint - seen.mean(dim=(0, 2, 3))[:, None, None]).square().flatten(1).sum(dim=1)
    assert squares.mean() < by_channel.mean()
    # The second stage is about something else.
    assert row.metrics["hint_distance_after"] != row.metrics["hint_distance"]


def test_what_the_teacher_said_about_the_hint_is_kept_with_its_classes(
    undisturbed, longer, tmp_path, monkeypatch
):
    """Who comes later and wants the classes alone does not ask again. The digits are told to be like pictures."""
    asked: list[int] = []
    ask = fitnet_training.cache_teacher
    monkeypatch.setattr(
        fitnet_training, "cache_teacher", lambda *args, **rest: asked.append(1) or ask(*args, **rest)
    )
    its = runner(tmp_path, longer)
    its.trained, its.weights = undisturbed.trained, undisturbed.weights
    for name in ("fitnet", "kd", "kd", "fitnet"):
        run = Run(its, name, longer.arm(name), 0)
        run.config["hidden"] = None
        training = FitNetTraining(run)
        assert bool(training.cached.features) == (name == "fitnet")
        assert training.teacher_outputs("test").features == {}
    # Once about what it trains on, and once about the test.
    assert len(asked) == 2


# Kills.


# Four epochs of three steps for each stage: within the first, at its last step, before the second one's first step,
# and within the second.
@pytest.mark.parametrize("moment", [0, 4, 11, 12, 16, 23])
def test_a_run_killed_in_either_stage_or_between_them_ends_with_the_same_numbers(
    moment, longer, undisturbed, monkeypatch, tmp_path
):
    its = runner(tmp_path, longer, checkpoint_seconds=0.0)
    its.trained = undisturbed.trained
    with monkeypatch.context() as patch:
        watch(patch, stop_at=moment)
        with pytest.raises(Stopped):
            its.run([("fitnet", 0)])
    kept = {file.name for file in (tmp_path / "checkpoints").glob("*.pt")}
    run = its.run_id("fitnet", 0)
    assert (f"{run}+hint.pt" in kept, f"{run}.pt" in kept) == (moment >= 3, moment >= 15)
    assert its.ledger.rows() == []
    torch.rand(moment)
    (row,) = its.run([("fitnet", 0)])
    expected = undisturbed.ledger.get(row.run)
    assert (row.metrics, row.curves, row.config) == (expected.metrics, expected.curves, expected.config)
    files = [each.weights("fitnet", 0).read_bytes() for each in (its, undisturbed)]
    assert files[0] == files[1]
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_first_stage_that_is_done_is_not_trained_again(longer, undisturbed, monkeypatch, tmp_path):
    its = runner(tmp_path, longer, checkpoint_seconds=0.0)
    its.trained = undisturbed.trained
    with monkeypatch.context() as patch:
        watch(patch, stop_at=16)
        with pytest.raises(Stopped):
            its.run([("fitnet", 0)])
    # Of 24 steps 12 are the first stage, and 3 of the second are in its checkpoint.
    watch(monkeypatch, stop_at=9)
    (row,) = its.run([("fitnet", 0)])
    assert row.config["hint_epochs_run"] == 4
