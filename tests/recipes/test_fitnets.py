"""The program of the FitNets paper on digits, whole, at its smallest: its rows, and the trainings of an arm."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from fitnet_runs import (
    DIGITS,
    FOUND,
    FOUND_OF_HINTS,
    FOUND_OF_SOFT_TARGETS,
    ONE_STAGE,
    SOFT,
    TWO_STAGES,
    settings,
    watch,
)
from smoke_runs import runner

from kdrepro import metrics, predict
from kdrepro.caching import CachedTeacher
from kdrepro.fitnet_training import FitNetTraining
from kdrepro.methods.fitnets import FitNetKD, HintStage, JointFitNet
from kdrepro.methods.supervised import Supervised
from kdrepro.models import maxout
from kdrepro.recipes.fitnets import RECIPE
from kdrepro.run import Run
from kdrepro.runner import Runner


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Every arm on digits with seed 0."""
    its = runner(tmp_path_factory.mktemp("runs"), RECIPE)
    its.run(its.plan(DIGITS, [0]))
    return its


# The rows.


def test_every_arm_leaves_a_row_with_its_metrics_and_settings(rows):
    assert set(rows) == set(DIGITS)
    measured = {"test_errors", "test_accuracy", "test_error_rate", "test_nll", "test_ece", "train_accuracy"}
    for name, row in rows.items():
        assert measured | {"valid_error_rate"} <= set(row.metrics), name
        taught = name not in ("teacher", "student_alone")
        assert ("teacher_agreement" in row.metrics) == taught, name
        distances = {key.removeprefix("hint_distance") for key in row.metrics if "hint" in key}
        expected = {"_after", "_blind"} if name in ONE_STAGE else {"", "_after", "_blind"}
        assert distances == (expected if name in ONE_STAGE | TWO_STAGES else set()), name
        assert settings(name, "smoke").items() <= row.config.items(), name
        found = FOUND | (FOUND_OF_HINTS if name in TWO_STAGES else set())
        found |= FOUND_OF_SOFT_TARGETS if name in SOFT else set()
        assert set(row.config) - set(settings(name)) == found, name
        assert ("temperature" in row.config) == (name in SOFT), name
        assert ("hint_weight" in row.config) == (name in ONE_STAGE), name
        assert row.metrics["test_errors"] == round(200 * row.metrics["test_error_rate"]), name
        assert row.teacher == ("fitnets.smoke.teacher.s0" if taught else None), name
        assert (row.data["name"], row.config["train_size"]) == ("mnist5k", 333), name
        assert row.seconds > 0, name


def test_the_curves_are_those_of_the_terms_and_of_both_stages(rows):
    for name, row in rows.items():
        expected = {"loss", "loss/hard", "learning_rate", "validation"}
        expected |= {"loss/soft"} if name in SOFT else set()
        expected |= {"loss/hint"} if name in ONE_STAGE else set()
        if name in TWO_STAGES:
            expected |= {
                f"hint_stage/{each}" for each in ("loss", "loss/hint", "learning_rate", "validation")
            }
        assert set(row.curves) == expected, name
        for key, curve in row.curves.items():
            epochs = "hint_epochs_run" if key.startswith("hint_stage/") else "epochs_run"
            assert len(curve) == row.config[epochs] > 0, (name, key)
        best = row.curves["validation"][row.config["best_epoch"]]
        assert (
            row.metrics["valid_error_rate"] == pytest.approx(best, rel=1e-5) == min(row.curves["validation"])
        )


def test_the_recorded_numbers_are_those_of_the_weights(done, rows):
    test = done.data(RECIPE.arm("teacher")).test
    for name in ("teacher", "fitnet", "fitnet_joint"):
        logits = predict(done.trained(name, 0), test.inputs, device="cpu")
        assert metrics.classification("test", logits, test.targets).items() <= rows[name].metrics.items()
    student, teacher = (
        predict(done.trained(name, 0), test.inputs, device="cpu") for name in ("kd", "teacher")
    )
    assert rows["kd"].metrics["teacher_agreement"] == metrics.agreement(student, teacher)


def test_what_is_done_is_not_planned_again(done):
    assert done.plan(DIGITS, [0]) == []
    assert done.plan(["fitnet"], [0, 1]) == [("teacher", 1), ("fitnet", 1)]


def test_the_same_run_elsewhere_has_the_same_numbers(done, rows, tmp_path):
    again = runner(tmp_path, RECIPE)
    row = again.run(again.plan(["fitnet"], [0]))[-1]
    assert (row.metrics, row.curves, row.config) == (
        rows["fitnet"].metrics,
        rows["fitnet"].curves,
        rows["fitnet"].config,
    )


def test_students_that_are_compared_start_from_the_same_weights(done):
    states = [Run(done, name, RECIPE.arm(name), 1).build().state_dict() for name in DIGITS[1:5]]
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0)


# The trainings of an arm.


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("student_alone", [("", "Supervised")]),
        ("kd", [("", "FitNetKD")]),
        ("fitnet", [("hint", "HintStage"), ("", "FitNetKD")]),
        ("fitnet_code", [("hint", "HintStage"), ("", "FitNetKD")]),
        ("fitnet_joint", [("", "JointFitNet")]),
    ],
)
def test_an_arm_is_these_trainings_in_this_order(name, kinds, done, monkeypatch, tmp_path):
    seen = watch(monkeypatch)
    its = runner(tmp_path, RECIPE)
    its.trained = done.trained
    its.run([(name, 0)])
    assert [(part, type(objective).__name__) for part, objective in seen] == kinds
    for _, objective in seen:
        if isinstance(objective, FitNetKD):
            assert objective.soften_student == (name != "fitnet_code")
            assert (objective.temperature, objective.soft_weight) == (3.0, 4.0)
            assert objective.final_soft_weight == (0.0 if name == "fitnet_code" else 1.0)
        if isinstance(objective, JointFitNet):
            assert objective.hint_weight == 100
            assert isinstance(objective.objective, FitNetKD)
        if isinstance(objective, HintStage):
            (convolution, activation) = objective.regressor
            assert (convolution.in_channels, convolution.out_channels) == (16, 96)
            assert convolution.kernel_size == (1, 1)
            assert isinstance(activation, maxout.Maxout)


def test_one_stage_without_soft_targets_trains_on_hint_and_labels(done, monkeypatch, tmp_path):
    arm = RECIPE.arm("fitnet_joint")
    asked = {
        key: value
        for key, value in arm.overrides.items()
        if not {"soft", "temperature", "decay"} & set(key.split("_"))
    }
    recipe = replace(RECIPE, arms=RECIPE.arms | {"fitnet_joint": replace(arm, overrides=asked)})
    seen = watch(monkeypatch)
    its = runner(tmp_path, recipe)
    its.trained = done.trained
    row = its.run([("fitnet_joint", 0)])[-1]
    ((_, objective),) = seen
    assert isinstance(objective, JointFitNet)
    assert isinstance(objective.objective, Supervised)
    assert set(row.curves) == {"loss", "loss/hard", "loss/hint", "learning_rate", "validation"}
    assert "temperature" not in row.config


def test_what_a_teacher_said_is_kept_for_its_weights_and_precision(done, monkeypatch):
    """The pictures are not needed for it: the digits are told to be like them."""
    monkeypatch.setattr(CachedTeacher, "save", lambda self, file: files.append(file.name))
    files: list[str] = []
    run = Run(done, "kd", RECIPE.arm("kd"), 0)
    run.config["hidden"] = None
    FitNetTraining(run).teacher_outputs("test")
    pattern = r"fitnets\.smoke\.teacher\.s0\.logits\.(train|test)\.[0-9a-f]{16}\.fp32\.safetensors"
    found = [re.fullmatch(pattern, name) for name in files]
    assert [match and match[1] for match in found] == ["train", "test"]
