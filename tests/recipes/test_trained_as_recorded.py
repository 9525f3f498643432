"""What a row says of a training is what the loop was given: rate, momentum, weights of terms, bounds, batches, seed."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
import torch
from smoke_runs import runner
from torch import nn
from torch.optim import SGD, Adam, RMSprop
from watched_trainings import Watched, recorded, rows_of, watch

from kdrepro.attention_looks import SHOWN
from kdrepro.attention_looks import attention_maps as maps_of
from kdrepro.data.batches import CropFlip, Jitter
from kdrepro.data.examples import DataSet, Examples
from kdrepro.exhibits import attention_maps
from kdrepro.methods.born_again import BornAgain, LabelSmoothing
from kdrepro.methods.sequence_kd import WordLevelKD
from kdrepro.methods.supervised import Supervised
from kdrepro.recipes import attention_transfer, born_again, fitnets, hinton_kd, sequence_kd
from kdrepro.runner import Runner

SEED = 1


@pytest.fixture
def trained(monkeypatch) -> list[Watched]:
    return watch(monkeypatch)


def by_run(trained: list[Watched]) -> dict[str, Watched]:
    """The trainings by arm, and the part of the run where it has several."""
    return {each.run_id.split(".", 2)[2].replace(f".s{SEED}", ""): each for each in trained}


def assert_batches(trainee: Watched, its: dict, *, seed: int = SEED) -> None:
    assert (trainee.data.seed, trainee.data.batch_size) == (seed, its["batch_size"])
    assert trainee.rate == pytest.approx(its["learning_rate"])


# Hinton et al.


@pytest.fixture
def hinton(tmp_path) -> Runner:
    return runner(tmp_path, hinton_kd.RECIPE)


def test_hinton(hinton, trained):
    arms = ["teacher", "student_alone", "soft_targets_T20", "units30_T2.5", "few_digits_soft"]
    hinton.run(hinton.plan(arms, [SEED]))
    assert len(trained) > len(arms) - 1
    for each in trained:
        its = recorded(hinton, each)
        assert_batches(each, its, seed=its["seed"])
        assert each.member.gradient_clip == its["gradient_clip"]
        assert isinstance(each.optimizer, Adam if its["optimizer"] == "Adam" else SGD)
        if isinstance(each.optimizer, SGD):
            assert each.group["momentum"] == 0.9
        assert each.group["lr"] == pytest.approx(0.0, abs=1e-9)
        jitter = each.data.augment
        assert (jitter.pixels if isinstance(jitter, Jitter) else 0) == its.get("jitter", 0)
        assert (each.member.after_step is not None) == (its.get("max_norm") is not None)
        if "temperature" in its:
            soft = (each.objective.temperature, each.objective.soft_weight)
            assert soft == (its["temperature"], its["soft_weight"])
        else:
            assert isinstance(each.objective, Supervised)


def test_hintons_early_stopping_looks_at_no_test_digit_and_at_none_that_is_trained_on(hinton, trained):
    hinton.run(hinton.plan(["few_digits_hard"], [SEED]))
    (one,) = trained
    assert_stopped_by_others(one, hinton.data(hinton.recipe.arm("few_digits_hard")).test)


def assert_stopped_by_others(trainee: Watched, test: Examples) -> None:
    """What a training is stopped by are neither examples that it trains on nor those of the test."""
    assert trainee.member.validate is not None
    before = trainee.member.validate(trainee.member.student)
    kept = test.targets.clone()
    test.targets.copy_((test.targets + 1) % 10)
    assert trainee.member.validate(trainee.member.student) == before
    test.targets.copy_(kept)
    watched = watched_inputs(trainee)
    assert len(watched) > 10
    assert not watched & rows_of(trainee.data.inputs.flatten(1))
    assert not watched & rows_of(test.inputs.flatten(1))


def watched_inputs(trainee: Watched) -> set[bytes]:
    """The examples that a training is stopped by: those that its student is shown when it is asked."""
    seen: list[torch.Tensor] = []
    first = next(module for module in trainee.member.student.modules() if not list(module.children()))
    handle = first.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().cpu()))
    assert trainee.member.validate is not None
    trainee.member.validate(trainee.member.student)
    handle.remove()
    size = trainee.data.inputs[0].numel()
    return rows_of(torch.cat(seen).reshape(-1, size))


# Born again.


def test_born_again(tmp_path, trained):
    its = runner(tmp_path, born_again.RECIPE)
    its.run(its.plan(["few_ban2", "few_ban_l", "few_smoothing"], [SEED]))
    for each in trained:
        row = recorded(its, each)
        assert_batches(each, row, seed=1000 * row["generation"] + SEED)
        assert (each.group["weight_decay"], each.group["momentum"]) == (row["weight_decay"], 0.9)
        assert each.group["lr"] == pytest.approx(0.0, abs=1e-9)
    arms = by_run(trained)
    assert isinstance(arms["few_teacher"].objective, Supervised)
    for name, label_weight in (("few_ban1", 0.0), ("few_ban2", 0.0), ("few_ban_l", 1.0)):
        assert isinstance(arms[name].objective, BornAgain)
        assert arms[name].objective.label_weight == label_weight
    smoothing = arms["few_smoothing"].objective
    assert isinstance(smoothing, LabelSmoothing)
    assert smoothing.smoothing == recorded(its, arms["few_smoothing"])["smoothing"]


def pictures(protocol: str) -> DataSet:
    generator = torch.Generator().manual_seed(0)
    parts = [
        Examples(torch.randn(12, 3, 32, 32, generator=generator), torch.arange(12) % 10) for _ in range(2)
    ]
    return DataSet("made_up", "sha256:00", *parts)


def on_few_pictures(recipe, folder, *arms: str, **changes) -> Runner:
    """A recipe for CIFAR-10 at protocol `reduced`, on a dozen made-up pictures and for two epochs."""
    made = {
        name: dataclasses.replace(arm, load=pictures, overrides=arm.overrides | {"epochs": 2} | changes)
        for name, arm in recipe.arms.items()
    }
    its = runner(folder, dataclasses.replace(recipe, arms=made, load=pictures), protocol="reduced")
    # What is shown of a protocol that is recorded is of committed code.
    its.dirty = False
    its.run(its.plan(arms, [SEED]))
    return its


def test_born_again_on_pictures(tmp_path, trained):
    its = on_few_pictures(born_again.RECIPE, tmp_path, "ban1")
    assert by_run(trained).keys() == {"teacher", "ban1"}
    for each in trained:
        row = recorded(its, each)
        assert_batches(each, row, seed=1000 * row["generation"] + SEED)
        found = (each.group["weight_decay"], each.group["nesterov"], each.group["momentum"])
        assert found == (row["weight_decay"], "Nesterov" in row["optimizer"], 0.9)
        # Two epochs of one batch: lowered after the first, and twice at the end of the second.
        assert each.history.curves["learning_rate"] == pytest.approx(
            [row["learning_rate"] * row["rate_factor"] ** count for count in (2, 3)]
        )
        assert isinstance(each.data.augment, CropFlip)
        assert each.data.augment.pixels == row["crop"]


# Attention transfer.


def test_attention_transfer(tmp_path, trained):
    arms = ("at", "at_kd", "kd", "f_at", "at_norm_by_group", "at_max1", "student_alone")
    its = on_few_pictures(attention_transfer.RECIPE, tmp_path, *arms, depth=10)
    assert len(trained) == len(arms) + 1
    for each in trained:
        row = recorded(its, each)
        assert_batches(each, row)
        assert (each.group["weight_decay"], each.group["momentum"]) == (row["weight_decay"], 0.9)
        crop = each.data.augment
        assert isinstance(crop, CropFlip)
        assert (crop.pixels, crop.padding, crop.flip) == (row["crop"], row["padding"], row["flip"])
        assert each.scheduler.factor == row["rate_factor"]
        assert each.scheduler.places == [round(2 * share) for share in row["rate_steps"]]
        objective = each.objective
        for name in ("temperature", "soft_weight", "form", "power", "pool", "activation_weight"):
            if name in row:
                assert getattr(objective, name) == row[name], (each.run_id, name)
        if row.get("by_group"):
            wanted = {
                f"group{place}": row["attention_weight"] / side**2 for place, side in enumerate((32, 16, 8))
            }
            assert objective.attention_weight == wanted
        elif "attention_weight" in row:
            assert objective.attention_weight == row["attention_weight"]


def test_rows_of_attention_transfer_keep_maps_of_a_few_pictures_and_how_far_they_are_from_the_teachers(
    tmp_path,
):
    its = on_few_pictures(attention_transfer.RECIPE, tmp_path, "at", "student_alone", depth=10)
    found, maps = attention_maps.recorded_maps(its.ledger, ["teacher_wrn16_2", "student_alone", "at"])
    test = pictures("reduced").test
    # Labels are those of the first pictures, in order.
    assert found.shape == (6, 3, 32, 32)
    numpy.testing.assert_allclose(found, test.inputs[list(SHOWN)].numpy(), atol=0.02)
    nets = {arm: its.trained(arm, SEED) for arm in maps}
    for arm, own in maps.items():
        wanted = maps_of(nets[arm], test.inputs, device="cpu")
        for group, several in own.items():
            numpy.testing.assert_allclose(several, wanted[group][list(SHOWN)].numpy(), atol=0.01)
    rows = {row.arm: row for row in its.ledger.rows()}
    teacher, student = (maps_of(nets[arm], test.inputs, device="cpu") for arm in ("teacher_wrn16_2", "at"))
    for group in teacher:
        away = (teacher[group] - student[group]).flatten(1).norm(dim=1).mean()
        assert rows["at"].metrics[f"map_distance_{group}"] == pytest.approx(float(away), rel=1e-4)
    assert not any("map_distance" in name for name in rows["student_alone"].metrics)
    # The pictures are kept once.
    assert "picture" not in rows["at"].samples


# Sequence-level distillation.


def test_sequence_kd(tmp_path, trained):
    its = runner(tmp_path, sequence_kd.RECIPE)
    arms = ["cmu_word_kd", "cmu_seq_inter", "cmu_pruned_50", "cmu_seq_word_inter"]
    its.run(its.plan(arms, [SEED]))
    parts = {"retrain": "retrain_rate", "fine": "fine_rate"}
    for each in trained:
        row = recorded(its, each)
        part = each.run_id.partition("+")[2]
        # Arms that go on from others train with a part of the rate.
        part_of = parts.get(part, "fine_rate" if "starts_from" in row else "")
        assert each.rate == pytest.approx(row["learning_rate"] * row.get(part_of, 1.0))
        assert (each.data.seed, each.data.batch_size) == (SEED, row["batch_size"])
        assert each.member.gradient_clip == row["gradient_clip"]
        assert each.group["lr"] == pytest.approx(0.0, abs=1e-9)
        assert isinstance(each.objective, WordLevelKD) == ("soft_weight" in row)
        if isinstance(each.objective, WordLevelKD):
            assert each.objective.soft_weight == row["soft_weight"]
        assert (each.member.after_step is not None) == ("pruned" in row)
    assert {each.run_id.partition("+")[2] for each in trained} == {"", "retrain", "fine"}


# FitNets.


def kernel_norms(module: nn.Module) -> torch.Tensor:
    (weight,) = (each for each in module.parameters() if each.ndim > 1)
    return weight.detach().flatten(1).norm(dim=1)


def test_fitnets(tmp_path, trained):
    its = runner(tmp_path, fitnets.RECIPE)
    its.run(its.plan(["fitnet", "fitnet_joint", "student_alone", "kd"], [SEED]))
    arms = by_run(trained)
    for name, each in arms.items():
        row = recorded(its, each)
        assert_batches(each, row)
        if name == "teacher":
            assert isinstance(each.optimizer, SGD)
            assert each.scheduler.divisor == row["rate_divisor"]
            assert each.group["momentum"] == pytest.approx(row["final_momentum"])
        else:
            assert isinstance(each.optimizer, RMSprop)
            assert (each.group["alpha"], each.group["eps"]) == (0.9, 1e-5)
            assert each.scheduler is None
        for layer, limit in zip((module for module in _layers(each)), row["max_norm"], strict=False):
            assert kernel_norms(layer).max() <= limit + 1e-5
    for name in ("fitnet+hint", "fitnet_joint"):
        row = recorded(its, arms[name])
        regressors = [value for key, value in arms[name].first.items() if value.ndim > 1]
        assert [float(each.abs().max()) for each in regressors] == [
            pytest.approx(row["regressor_init"], rel=0.01)
        ]
        (trained_weight,) = (each for each in arms[name].objective.parameters() if each.ndim > 1)
        assert trained_weight.flatten(1).norm(dim=1).max() <= row["regressor_norm"] + 1e-5
    soft = recorded(its, arms["kd"])
    objective = arms["kd"].objective
    assert (objective.temperature, objective.soft_weight, objective.final_soft_weight) == (
        soft["temperature"],
        soft["soft_weight"],
        soft["final_soft_weight"],
    )
    joint = arms["fitnet_joint"]
    assert joint.objective.hint_weight == recorded(its, joint)["hint_weight"]


def _layers(trainee: Watched) -> list[nn.Module]:
    """The student's layers that have weights, in order."""
    net = getattr(trainee.member.student, "module", trainee.member.student)
    return [layer for layer in net.children() if any(each.ndim > 1 for each in layer.parameters())]


def test_fitnets_stop_by_no_test_digit_and_by_none_that_is_trained_on(tmp_path, trained):
    its = runner(tmp_path, fitnets.RECIPE)
    its.run(its.plan(["fitnet"], [SEED]))
    assert by_run(trained).keys() == {"teacher", "fitnet+hint", "fitnet"}
    for each in trained:
        assert_stopped_by_others(each, its.data(its.recipe.arm("fitnet")).test)
