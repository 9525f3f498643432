"""The program of Hinton's paper, whole, at its smallest."""

from __future__ import annotations

import pytest
import torch
from smoke_runs import runner

from kdrepro import metrics, predict, recipes
from kdrepro.arms import candidates
from kdrepro.checkpoints import load_weights
from kdrepro.ledger import recorded
from kdrepro.recipes.hinton_kd import RECIPE, TEMPERATURES, config
from kdrepro.runner import Runner
from kdrepro.teacher import FrozenTeacher

SWEEP = {f"units{units}_T{temperature:g}" for units in (300, 30) for temperature in TEMPERATURES}
TAUGHT = {"soft_targets_T20", "no_threes", "sevens_eights", "ensemble_student", "few_digits_soft"} | SWEEP
ALONE = {"teacher", "student_alone", "units300_alone", "units30_alone", "few_digits_hard"}
# The pairs that the comparisons rest on: two students to a teacher.
PAIRS = [("soft_targets_T20", seed) for seed in range(4)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Every arm with seed 0, and four pairs of the headline."""
    its = runner(tmp_path_factory.mktemp("runs"), RECIPE)
    its.run(its.plan(seeds=[0]))
    its.run(its.plan([name for name, _ in PAIRS[:1]], [seed for _, seed in PAIRS]))
    return its


def test_the_arms_are_those_that_the_claims_name():
    assert set(RECIPE.arms) == TAUGHT | ALONE | {"ensemble"}
    seeds = {name: arm.seeds for name, arm in RECIPE.arms.items()}
    ten = {"student_alone", "soft_targets_T20"}
    assert {name for name, count in seeds.items() if count == 10} == ten
    assert {name for name, count in seeds.items() if count != 5} == ten | {"ensemble"}
    assert seeds["ensemble"] == 1
    assert recipes.names() == [recipes.load(name).name for name in recipes.names()]


def test_every_arm_leaves_a_row_with_its_metrics_and_settings(rows):
    assert set(rows) == set(RECIPE.arms)
    for name, row in rows.items():
        assert {
            "test_errors",
            "test_accuracy",
            "test_error_rate",
            "test_nll",
            "test_ece",
            "train_accuracy",
        } <= set(row.metrics), name
        assert ("teacher_agreement" in row.metrics) == (name in TAUGHT), name
        assert {"epochs", "batch_size", "learning_rate", "jitter", "train_size", "precision"} <= set(
            row.config
        ), name
        assert ("temperature" in row.config, "soft_weight" in row.config) == (name in TAUGHT,) * 2, name
        assert row.metrics["test_errors"] == round(200 * row.metrics["test_error_rate"]), name
        assert row.metrics["test_accuracy"] == pytest.approx(1 - row.metrics["test_error_rate"]), name
        assert row.data["name"] == "mnist5k"
        assert (row.seconds > 0, row.parameters > 0) == (True, True), name


def test_the_rows_say_how_they_were_trained(rows):
    for name in SWEEP:
        units, temperature = name.removeprefix("units").split("_T")
        assert rows[name].config["temperature"] == float(temperature)
        assert rows[name].config["hidden"] == [int(units)] * 2
    assert rows["soft_targets_T20"].config["temperature"] == 20
    assert rows["teacher"].config["jitter"] == 2
    assert rows["teacher"].config["max_norm"] == pytest.approx(15**0.5)
    assert {row.config["jitter"] for name, row in rows.items() if name != "teacher"} == {0}
    assert (
        rows["few_digits_hard"].config["early_stopping"],
        rows["few_digits_soft"].config["early_stopping"],
    ) == (
        True,
        False,
    )
    for name, row in rows.items():
        expected = {"loss", "learning_rate", "loss/hard"} | ({"loss/soft"} if name in TAUGHT else set())
        expected |= {"validation"} if name == "few_digits_hard" else set()
        assert set(row.curves) == (set() if name == "ensemble" else expected), name
        assert all(len(curve) == row.config["epochs_run"] for curve in row.curves.values()), name


def test_the_transfer_sets_hold_what_the_arms_say(rows, done):
    targets = done.data(RECIPE.arm("teacher")).train.targets
    assert rows["student_alone"].config["train_size"] == len(targets) == 400
    assert rows["no_threes"].config["train_size"] == int((targets != 3).sum())
    assert rows["sevens_eights"].config["train_size"] == int((targets == 7).sum() + (targets == 8).sum())
    assert rows["few_digits_hard"].config["train_size"] == rows["few_digits_soft"].config["train_size"] == 120


def test_corrected_biases_are_recorded_beside_the_plain_ones(rows):
    threes, sevens = rows["no_threes"].metrics, rows["sevens_eights"].metrics
    for name in ("", "_bias_test", "_bias_train"):
        assert threes[f"test_errors_on_3{name}"] <= threes[f"test_errors{name}"]
        assert sevens[f"test_error_rate{name}"] == sevens[f"test_errors{name}"] / 200
    for found in (threes, sevens):
        assert found["test_errors_bias_test"] <= min(found["test_errors"], found["test_errors_bias_train"])
        assert {"bias_test", "bias_train"} <= set(found)


def test_students_are_paired_with_teachers_two_by_two(done):
    for seed in range(4):
        row = done.ledger.get(done.run_id("soft_targets_T20", seed))
        assert row.teacher == done.run_id("teacher", seed // 2)
    rows = {row.arm: row for row in done.ledger.rows() if row.seed == 0}
    assert rows["units30_T3"].teacher == done.run_id("teacher", 0)
    members = [done.run_id("student_alone", seed) for seed in range(10)]
    assert rows["ensemble"].teacher == rows["ensemble_student"].teacher == members
    assert rows["student_alone"].teacher is rows["few_digits_hard"].teacher is None
    assert RECIPE.arms["units300_T8"].needs(4) == [("teacher", 4)]


def test_what_is_done_is_not_planned_again(done):
    assert done.plan(seeds=[0]) == []
    assert done.plan(["soft_targets_T20"], [0, 1, 2, 3]) == []
    assert done.plan(["soft_targets_T20"], [3, 5]) == [("teacher", 2), ("soft_targets_T20", 5)]


def test_the_recorded_numbers_are_those_of_the_weights(done, rows):
    test = done.data(RECIPE.arm("teacher")).test
    for name in ("teacher", "soft_targets_T20", "units30_T3"):
        logits = predict(done.trained(name, 0), test.inputs, device="cpu")
        assert metrics.classification("test", logits, test.targets).items() <= rows[name].metrics.items()
    student, teacher = (
        predict(done.trained(name, 0), test.inputs, device="cpu") for name in ("units30_T3", "teacher")
    )
    assert rows["units30_T3"].metrics["teacher_agreement"] == metrics.agreement(student, teacher)


def test_the_ensemble_is_the_mean_of_its_members_probabilities(done, rows):
    inputs, targets = (
        done.data(RECIPE.arm("teacher")).test.inputs,
        done.data(RECIPE.arm("teacher")).test.targets,
    )
    members = [done.trained("student_alone", seed) for seed in range(10)]
    mean = torch.stack([predict(member, inputs, device="cpu").softmax(-1) for member in members]).mean(0)
    torch.testing.assert_close(predict(FrozenTeacher(members), inputs, device="cpu").softmax(-1), mean)
    assert rows["ensemble"].metrics["test_errors"] == int((mean.argmax(-1) != targets).sum())
    assert rows["ensemble"].parameters == 10 * rows["student_alone"].parameters


def initial_weights(its: Runner, name: str, seed: int) -> dict[str, torch.Tensor]:
    from kdrepro.run import Run

    return Run(its, name, RECIPE.arm(name), seed).build().state_dict()


def test_students_that_are_compared_start_from_the_same_weights(done):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    alone, soft, other = (
        initial_weights(done, *key)
        for key in (("student_alone", 1), ("soft_targets_T20", 1), ("student_alone", 2))
    )
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(alone, soft, rtol=0, atol=0)
    assert not torch.equal(alone["layers.0.weight"], other["layers.0.weight"])


def test_the_same_run_elsewhere_has_the_same_numbers(done, tmp_path):
    again = runner(tmp_path, RECIPE)
    (_, row) = again.run(again.plan(["soft_targets_T20"], [1]))
    expected = done.ledger.get(row.run)
    assert (row.metrics, row.curves, row.config) == (expected.metrics, expected.curves, expected.config)


def test_a_net_learns_from_labels(rows):
    # One epoch on 400 digits: far from good, and far from chance.
    for name in ("student_alone", "units300_alone"):
        assert rows[name].metrics["train_accuracy"] > 0.2, name


@pytest.mark.parametrize(
    ("base", "protocol", "expected"),
    [
        ("teacher", "paper", {"hidden": [1200, 1200], "jitter": 2, "batch_size": 250}),
        ("student_alone", "paper", {"hidden": [800, 800], "jitter": 0, "batch_size": 250, "max_norm": None}),
        ("few_digits", "paper", {"train_size": 1800, "batch_size": 100}),
        ("few_digits", "quick", {"train_size": 120, "batch_size": 100}),
        ("student_alone", "quick", {"hidden": [800, 800], "batch_size": 100}),
        ("student_alone", "smoke", {"hidden": [32, 32], "epochs": 1}),
        ("teacher", "smoke", {"hidden": [32, 32], "epochs": 1, "jitter": 2}),
    ],
)
def test_settings_are_those_of_the_protocol(base, protocol, expected):
    assert expected.items() <= config(base, protocol).items()


@pytest.mark.parametrize("base", ["teacher", "student_alone", "few_digits"])
def test_reduced_is_a_quarter_of_the_papers_epochs(base):
    paper, reduced = config(base, "paper"), config(base, "reduced")
    assert reduced["epochs"] == round(paper["epochs"] / 4)
    assert {name: value for name, value in reduced.items() if name != "epochs"} == {
        name: value for name, value in paper.items() if name != "epochs"
    }


def test_settings_of_one_run_do_not_leak_into_another():
    config("teacher", "smoke")["hidden"].append(7)
    assert config("teacher", "paper")["hidden"] == [1200, 1200]
    config("student_alone", "paper")["epochs"] = 7
    assert config("student_alone", "paper")["epochs"] != 7


def test_candidates_are_the_settings_that_were_tried():
    tried = candidates(RECIPE)
    rows = recorded().rows(recipe="hinton_kd", split="select")
    assert len(rows) > 10
    for row in rows:
        arm = tried.arm(row.arm)
        today = config(arm.base, "paper") | arm.overrides
        # A setting that the recipe did not have yet was not there.
        assert {key: row.config.get(key) for key in today} == today, row.run


def test_candidates_are_tried_on_held_out_digits(tmp_path, monkeypatch):
    import dataclasses

    tried = candidates(RECIPE)
    names = [name for name in tried.arms if ".try" in name]
    assert len(names) == sum(len(settings) for settings in RECIPE.candidates.values())
    assert all(tried.arm(name).seeds == 1 for name in names)
    small = dataclasses.replace(tried, held_out=100)
    its = runner(tmp_path, small, split="select")
    name = next(name for name in names if name.startswith("student_alone"))
    (row,) = its.run(its.plan([name]))
    (settings, *_) = RECIPE.candidates["student_alone"]
    assert settings.items() <= row.config.items()
    assert row.run == f"hinton_kd.smoke.{name}.s0.select"
    assert row.config["train_size"] == 300
    assert round(row.metrics["test_error_rate"] * 100) == row.metrics["test_errors"]
    assert its.ledger.rows() == []
    assert [each.run for each in its.ledger.rows(split="select")] == [row.run]


def test_weights_that_are_lost_are_trained_again_and_the_row_stays(tmp_path):
    its = runner(tmp_path, RECIPE)
    its.run([("teacher", 0)])
    row = its.ledger.get(its.run_id("teacher", 0))
    before = its.trained("teacher", 0).state_dict()
    its.weights("teacher", 0).unlink()
    assert its.plan(["teacher"], [0]) == []
    plan = its.plan(["soft_targets_T20", "units30_T3"], [0])
    assert plan == [("teacher", 0), ("soft_targets_T20", 0), ("units30_T3", 0)]
    again, *_ = its.run(plan[:2])
    assert its.ledger.get(row.run) == row
    assert (again.started, again.metrics) == (again.started, row.metrics)
    torch.testing.assert_close(its.trained("teacher", 0).state_dict(), before, rtol=0, atol=0)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_weights_of_another_size_are_refused_by_name(tmp_path):
    its = runner(tmp_path, RECIPE)
    its.run([("units30_alone", 0)])
    its.weights("units30_alone", 0).rename(its.weights("teacher", 0))
    with pytest.raises(ValueError, match=r"teacher\.s0\.safetensors: its weights do not load into MLP"):
        load_weights(RECIPE.build(RECIPE.config("teacher", "smoke")), its.weights("teacher", 0))
