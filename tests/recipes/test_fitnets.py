"""The program of the FitNets paper on digits, whole, at its smallest."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdrepro import engine, metrics, predict
from kdrepro.caching import CachedTeacher
from kdrepro.claims import Comparison, Side, paper
from kdrepro.fitnet_training import FitNetTraining
from kdrepro.ledger import Ledger, Row
from kdrepro.methods.fitnets import FitNetKD, HintStage, JointFitNet
from kdrepro.models import maxout
from kdrepro.recipes import fitnets
from kdrepro.recipes.fitnets import RECIPE, config
from kdrepro.runs import Run, Runner

DIGITS = ("teacher", "student_alone", "kd", "fitnet", "fitnet_joint", "joint_hint_label", "fitnet_code")
SOFT = {"kd", "fitnet", "fitnet_joint", "fitnet_code"}
TWO_STAGES = {"fitnet", "fitnet_code"}
ONE_STAGE = {"fitnet_joint", "joint_hint_label"}
HINTED = TWO_STAGES | ONE_STAGE
# What a run finds out, beside its settings.
FOUND = {"train_size", "best_epoch", "hint_epochs_run", "epochs_run", "precision"}


def runner(folder: Path, recipe=RECIPE, **changes) -> Runner:
    arguments = {"protocol": "smoke", "ledger": Ledger(folder), "work": folder, "device": "cpu"}
    return Runner(recipe, **(arguments | {"progress": False, "precision": "fp32"} | changes))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Every arm on digits with seed 0."""
    its = runner(tmp_path_factory.mktemp("runs"))
    its.run(its.plan(DIGITS, [0]))
    return its


@pytest.fixture(scope="module")
def rows(done: Runner) -> dict[str, Row]:
    return {row.arm: row for row in done.ledger.rows()}


def settings(name: str, protocol: str = "paper") -> dict[str, object]:
    arm = RECIPE.arm(name)
    return config(arm.base or name, protocol) | arm.overrides


# The arms, and what the claims say of them.


def sides(value: Side | float | None) -> set[str]:
    return set(value.arms) if isinstance(value, Side) else set()


def test_the_arms_are_those_that_the_claims_name():
    named: set[str] = set()
    for claim in paper("romero2015").claims:
        compared: list[Comparison] = [*claim.comparisons, *([claim.direction] if claim.direction else [])]
        named |= {arm for each in compared for side in (each.lower, each.higher) for arm in sides(side)}
        named |= {claim.arm} if claim.arm else set()
    assert named
    assert named <= set(RECIPE.arms)
    assert set(DIGITS) - named == {"fitnet_code"}
    assert set(DIGITS) <= set(RECIPE.arms)


def test_the_settings_that_the_deviations_show_are_there():
    shown = re.findall(r"\{(\w+)\.(\w+)\}", " ".join(each.ours for each in paper("romero2015").deviations))
    assert len(shown) > 10
    assert [f"{arm}.{key}" for arm, key in shown if key not in settings(arm).keys() | FOUND] == []


def test_each_seed_has_a_teacher_of_its_own_and_the_authors_variant_one_seed():
    for name in DIGITS:
        arm = RECIPE.arm(name)
        needs = [] if name in ("teacher", "student_alone") else [("teacher", 3)]
        assert list(arm.needs(3)) == needs, name
        assert arm.seeds == (1 if name == "fitnet_code" else 5), name


# The settings.


def test_the_papers_settings_are_those_of_appendix_a_2():
    student = settings("fitnet")
    expected = {
        "learning_rate": 0.0005,
        "init_range": 0.005,
        "batch_size": 128,
        "epochs": 500,
        "patience": 100,
    }
    expected |= {"temperature": 3.0, "soft_weight": 4.0, "final_soft_weight": 1.0, "decay_epochs": 150}
    expected |= {"hint_layer": "layer2", "guided_layer": "layer4", "shorter": 1}
    assert expected.items() <= student.items()
    assert student["held_out_fraction"] * 60_000 == 10_000
    code = settings("fitnet_code")
    changed = {key: value for key, value in code.items() if student.get(key) != value}
    assert changed == {
        "net": "mnist_student_code",
        "final_soft_weight": 0.0,
        "soften_student": False,
    }


@pytest.mark.parametrize("name", DIGITS)
def test_a_shorter_protocol_differs_in_length_alone_but_for_the_demonstration(name):
    reduced = {key: value for key, value in settings(name).items() if settings(name, "reduced")[key] != value}
    assert set(reduced) == {"shorter"}
    quick = settings(name, "quick")
    changed = {key for key, value in settings(name).items() if quick[key] != value}
    shorter = {"shorter", "init_range", "batch_size", "learning_rate", "epochs", "patience"}
    allowed = shorter | ({"input_dropout", "dropout"} if name == "teacher" else set())
    assert changed == allowed
    # The weight of the soft targets and the momentum change over the same part of the training as in the paper.
    if name in SOFT:
        assert 1 < quick["decay_epochs"] // quick["shorter"] < quick["epochs"] // quick["shorter"]


def test_settings_of_one_run_do_not_leak_into_another():
    config("teacher", "quick")["epochs"] = 7
    assert config("teacher", "paper")["epochs"] == 500
    assert config("student_alone", "paper")["learning_rate"] == 0.0005


@pytest.mark.parametrize(
    ("name", "weights"),
    [("teacher", 360_816), ("student_alone", 29_944), ("fitnet", 29_944), ("fitnet_code", 35_992)],
)
def test_the_nets_are_the_papers(name, weights, tmp_path):
    net = Run(runner(tmp_path), name, RECIPE.arm(name), 0).build()
    assert maxout.counted_weights(net) == weights
    drops = [part.probability for part in net.modules() if hasattr(part, "probability")]
    assert drops == ([0.2, 0.5, 0.5, 0.5] if name == "teacher" else [])
    largest = max(part.weight.abs().max().item() for part in net.modules() if hasattr(part, "weight"))
    assert 0.0049 < largest <= 0.005


# The rows.


def test_every_arm_leaves_a_row_with_its_metrics_and_settings(rows):
    assert set(rows) == set(DIGITS)
    measured = {"test_errors", "test_accuracy", "test_error_rate", "test_nll", "test_ece", "train_accuracy"}
    for name, row in rows.items():
        assert measured | {"valid_error_rate"} <= set(row.metrics), name
        taught = name not in ("teacher", "student_alone")
        assert ("teacher_agreement" in row.metrics) == taught, name
        assert settings(name, "smoke").items() <= row.config.items(), name
        assert set(row.config) - set(settings(name)) == FOUND - (
            set() if name in TWO_STAGES else {"hint_epochs_run"}
        ), name
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
    again = runner(tmp_path)
    row = again.run(again.plan(["fitnet"], [0]))[-1]
    assert (row.metrics, row.curves, row.config) == (
        rows["fitnet"].metrics,
        rows["fitnet"].curves,
        rows["fitnet"].config,
    )


def test_students_that_are_compared_start_from_the_same_weights(done):
    states = [Run(done, name, RECIPE.arm(name), 1).build().state_dict() for name in DIGITS[1:6]]
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=0, atol=0)


# The trainings of an arm.


class Stopped(Exception):
    """Ends a run."""


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


def watch(monkeypatch: pytest.MonkeyPatch, *, stop_at: int | None = None) -> list[tuple[str, nn.Module]]:
    """Note the objective of each training as it begins; stop at that step, counted over all of them."""
    seen: list[tuple[str, nn.Module]] = []
    steps, fit = 0, Run.fit

    def watched(self: Run, student, objective, batches, *, after_step, part="", **options):
        nonlocal steps

        def counted(net: nn.Module) -> None:
            nonlocal steps
            if steps == stop_at:
                raise Stopped
            steps += 1
            after_step(net)

        seen.append((part, objective))
        return fit(self, student, objective, batches, after_step=counted, part=part, **options)

    monkeypatch.setattr(Run, "fit", watched)
    return seen


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("student_alone", [("", "Supervised")]),
        ("kd", [("", "FitNetKD")]),
        ("fitnet", [("hint", "HintStage"), ("", "FitNetKD")]),
        ("fitnet_code", [("hint", "HintStage"), ("", "FitNetKD")]),
        ("fitnet_joint", [("", "JointFitNet")]),
        ("joint_hint_label", [("", "JointFitNet")]),
    ],
)
def test_an_arm_is_these_trainings_in_this_order(name, kinds, done, monkeypatch, tmp_path):
    seen = watch(monkeypatch)
    its = runner(tmp_path)
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
            assert isinstance(objective.objective, FitNetKD) == (name == "fitnet_joint")
        if isinstance(objective, HintStage):
            (convolution, activation) = objective.regressor
            assert (convolution.in_channels, convolution.out_channels) == (16, 96)
            assert convolution.kernel_size == (1, 1)
            assert isinstance(activation, maxout.Maxout)


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


# Kills.


# Four epochs of three steps for each stage: within the first, at its last step, before the second one's first step,
# and within the second.
@pytest.mark.parametrize("moment", [0, 4, 11, 12, 16, 23])
def test_a_run_killed_in_either_stage_or_between_them_ends_with_the_same_numbers(
    moment, longer, undisturbed, monkeypatch, tmp_path
):
    monkeypatch.setitem(engine.fit.__kwdefaults__, "checkpoint_seconds", 0.0)
    its = runner(tmp_path, longer)
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
    monkeypatch.setitem(engine.fit.__kwdefaults__, "checkpoint_seconds", 0.0)
    its = runner(tmp_path, longer)
    its.trained = undisturbed.trained
    with monkeypatch.context() as patch:
        watch(patch, stop_at=16)
        with pytest.raises(Stopped):
            its.run([("fitnet", 0)])
    # Of 24 steps 12 are the first stage, and 3 of the second are in its checkpoint.
    watch(monkeypatch, stop_at=9)
    (row,) = its.run([("fitnet", 0)])
    assert row.config["hint_epochs_run"] == 4


# The depth study on CIFAR-10: a shorter schedule is the same one in less time.


@pytest.mark.parametrize("kind", ["alone", "kd", "hint"])
def test_no_net_of_the_depth_study_has_more_epochs_than_another(kind, monkeypatch):
    arm = RECIPE.arm(f"depth7_{kind}")
    its = settings(f"depth7_{kind}", "reduced")
    assert len(its["max_norm"]) == len(list(RECIPE.build(its).children()))
    stages = 2 if arm.train is fitnets.fitnet else 1
    training = object.__new__(FitNetTraining)
    training.settings, training.shorter = its, its["shorter"] * stages
    assert stages * (its["epochs"] // training.shorter) == 20
    assert its["patience"] // training.shorter >= its["epochs"] // training.shorter
    if kind != "alone":
        objective = training.soft_targets()
        last = its["epochs"] // training.shorter
        objective.start_epoch(last)
        assert objective.weight_now == pytest.approx(1.0)
        objective.start_epoch(last // 2)
        assert objective.weight_now == pytest.approx(2.5)


def test_what_a_teacher_said_is_kept_for_its_weights_and_precision(done, monkeypatch):
    """The pictures are not needed for it: the digits are told to be like them."""
    monkeypatch.setattr(CachedTeacher, "save", lambda self, file: files.append(file.name))
    files: list[str] = []
    run = Run(done, "kd", RECIPE.arm("kd"), 0)
    run.config["hidden"] = None
    FitNetTraining(run)
    (name,) = files
    assert re.fullmatch(r"fitnets\.smoke\.teacher\.s0\.logits\.[0-9a-f]{16}\.fp32\.safetensors", name)
