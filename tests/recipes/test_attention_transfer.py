"""The program of the attention-transfer paper, whole, at its smallest: its objectives, rows, cohorts and maps."""

from __future__ import annotations

import pytest
import torch
from attention_transfer_runs import ALONE, FOUND, TEACHERS, settings
from smoke_runs import runner

from kdrepro import Taps, attention_map, metrics, predict
from kdrepro.attention_looks import GROUPS, attention_maps
from kdrepro.engine import outputs
from kdrepro.recipes import attention_transfer
from kdrepro.recipes.attention_transfer import ARMS, RECIPE
from kdrepro.run import Run
from kdrepro.runner import Runner

SOFT = {"kd", "at_kd", "kd_from40", "at_kd_from40"}
FULL = {"f_at", "f_at_from40"}
ATTENTION = {name for name in ARMS if name.startswith("at")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Every arm with seed 0, those of one teacher as a cohort."""
    its = runner(tmp_path_factory.mktemp("runs"), RECIPE)
    its.run(its.plan(seeds=[0]))
    return its


# The objectives.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("at", {"form": "code", "attention_weight": 1000.0, "power": 2, "pool": "sum"}),
        ("at_from40", {"form": "code", "attention_weight": 1000.0, "power": 2, "pool": "sum"}),
        ("at_sum1", {"form": "code", "attention_weight": 1000.0, "power": 1, "pool": "sum"}),
        ("at_sum4", {"form": "code", "attention_weight": 1000.0, "power": 4, "pool": "sum"}),
        ("at_max1", {"form": "code", "attention_weight": 1000.0, "power": 1, "pool": "max"}),
        ("at_norm_0.1", {"form": "paper", "attention_weight": 0.05, "power": 2, "pool": "sum"}),
        ("at_norm_1000", {"form": "paper", "attention_weight": 500.0, "power": 2, "pool": "sum"}),
        ("kd", {"temperature": 4.0, "soft_weight": 0.9}),
        ("at_kd", {"attention_weight": 1000.0, "temperature": 4.0, "soft_weight": 0.9}),
        ("f_at", {"activation_weight": 1.0}),
    ],
)
def test_the_students_differ_in_what_they_match(name, expected, done):
    assert expected.items() <= settings(name).items()
    run = Run(done, name, RECIPE.arm(name), 0)
    teacher = attention_transfer._teacher([run])
    objective = attention_transfer._objective(run, run.build(), teacher, torch.zeros(2, 1, 28, 28))
    for key, value in expected.items():
        assert getattr(objective, key) == value, key


@pytest.mark.parametrize("pictures", [(1, 28), (3, 32)])
def test_the_papers_beta_is_that_of_each_groups_map(pictures, done):
    """1,000 over positions and pictures, halved, in a sum over the pictures: 500 over the positions in a mean."""
    channels, side = pictures
    run = Run(done, "at_norm_by_group", RECIPE.arm("at_norm_by_group"), 0)
    net = RECIPE.build(run.config | {"in_channels": channels})
    objective = attention_transfer._objective(run, net, None, torch.zeros(2, channels, side, side))
    sides = [side, side // 2, side // 4]
    expected = {f"group{place}": 500 / each**2 for place, each in enumerate(sides)}
    assert (objective.form, objective.attention_weight) == ("paper", expected)


# The rows.


def test_every_arm_leaves_a_row_with_its_metrics_and_settings(rows):
    assert set(rows) == {name for name, arm in ARMS.items() if "smoke" in arm.protocols}
    measured = {"test_errors", "test_accuracy", "test_error_rate", "test_nll", "test_ece", "train_accuracy"}
    for name, row in rows.items():
        assert measured <= set(row.metrics), name
        assert ("teacher_agreement" in row.metrics) == (name not in ALONE), name
        assert settings(name, "smoke").items() <= row.config.items(), name
        assert set(row.config) - set(settings(name)) <= FOUND, name
        assert {"train_size", "epochs_run", "precision"} <= set(row.config), name
        assert ("temperature" in row.config, "soft_weight" in row.config) == (name in SOFT,) * 2, name
        assert row.metrics["test_errors"] == round(128 * row.metrics["test_error_rate"]), name
        (teacher,) = [f"attention_transfer.smoke.{arm}.s0" for arm, _ in ARMS[name].needs(0)] or [None]
        assert row.teacher == teacher, name
        assert (row.data["name"], row.config["train_size"]) == ("mnist5k", 256), name
        assert row.seconds > 0, name


def test_the_curves_are_those_of_the_terms(rows):
    for name, row in rows.items():
        expected = {"loss", "loss/hard", "learning_rate"}
        expected |= {"loss/soft"} if name in SOFT else set()
        expected |= {"loss/attention"} if name in ATTENTION else set()
        expected |= {"loss/activation"} if name in FULL else set()
        assert set(row.curves) == expected, name
        assert all(len(curve) == row.config["epochs_run"] == 1 for curve in row.curves.values()), name


def test_a_row_names_its_cohort(rows):
    cohorts = {}
    for name, row in rows.items():
        cohorts.setdefault(tuple(row.config.get("cohort", ())), set()).add(name)
    alone = cohorts.pop(())
    assert alone == TEACHERS - {"teacher_wrn40_2"} | {"at_norm_1000"}
    assert len(cohorts) == 2
    for members, names in cohorts.items():
        assert set(members) == names


def test_the_recorded_numbers_are_those_of_the_weights(done, rows):
    test = done.data(RECIPE.arm("at")).test
    for name in ("teacher_wrn16_2", "at", "kd_from40"):
        logits = predict(done.trained(name, 0), test.inputs, device="cpu")
        found = metrics.classification("test", logits, test.targets)
        recorded = {key: rows[name].metrics[key] for key in found}
        # The net that was measured had its channels last in memory, which rounds otherwise.
        assert recorded == pytest.approx(found, rel=1e-4), name
    student, teacher = (
        predict(done.trained(name, 0), test.inputs, device="cpu") for name in ("at", "teacher_wrn16_2")
    )
    assert rows["at"].metrics["teacher_agreement"] == pytest.approx(metrics.agreement(student, teacher))


def test_what_is_done_is_not_planned_again(done):
    assert done.plan(seeds=[0]) == []
    assert done.plan(["at"], [0, 1]) == [("teacher_wrn16_2", 1), ("at", 1)]


def test_students_that_are_compared_start_from_the_same_weights(done):
    # The wide student's undistilled self is the net that teaches the others.
    wide = {name for name in ARMS if name.startswith("wide")} | {"teacher_wrn16_2"}
    for names in (wide, set(ARMS) - wide - TEACHERS):
        states = [Run(done, name, RECIPE.arm(name), 1).build().state_dict() for name in sorted(names)]
        assert len(states) > 4
        for state in states[1:]:
            torch.testing.assert_close(state, states[0], rtol=0, atol=0)
    other = Run(done, "at", RECIPE.arm("at"), 2).build().state_dict()
    assert not torch.equal(states[0]["conv.weight"], other["conv.weight"])


def test_adapters_stand_where_channels_differ_and_start_alike_whatever_the_cohort(done):
    adapters = {}
    for name in sorted(FULL):
        run = Run(done, name, RECIPE.arm(name), 0)
        teacher = attention_transfer._teacher([run])
        for draws in (0, 3):
            torch.rand(draws)
            found = attention_transfer._objective(run, run.build(), teacher, torch.zeros(2, 1, 28, 28))
            weights = [each.detach().clone() for each in found.parameters()]
            torch.testing.assert_close(weights, adapters.setdefault(name, weights), rtol=0, atol=0)
    shapes = {name: [tuple(each.shape) for each in own if each.ndim == 4] for name, own in adapters.items()}
    widths = [(32, 16, 1, 1), (64, 32, 1, 1), (128, 64, 1, 1)]
    assert shapes == {"f_at": widths, "f_at_from40": []}


# A cohort.


@pytest.mark.parametrize("name", ["student_alone", "at", "at_norm_by_group", "f_at", "at_kd", "kd"])
def test_in_a_cohort_or_alone_the_numbers_are_the_same(name, done, rows, tmp_path):
    its = runner(tmp_path, RECIPE)
    its.trained = done.trained
    (row,) = its.run([(name, 0)])
    assert (row.metrics, row.curves) == (rows[name].metrics, rows[name].curves)
    cohort = {"cohort": rows[name].config["cohort"]}
    assert row.config | cohort == rows[name].config
    assert its.weights(name, 0).read_bytes() == done.weights(name, 0).read_bytes()


# The maps that the chapter draws.


def test_the_maps_of_a_net_are_those_of_its_groups(done):
    net = done.trained("at", 0)
    inputs = done.data(RECIPE.arm("at")).test.inputs[:70]
    maps = attention_maps(net, inputs, device="cpu")
    assert {name: tuple(each.shape) for name, each in maps.items()} == {
        "group0": (70, 28, 28),
        "group1": (70, 14, 14),
        "group2": (70, 7, 7),
    }
    features = outputs(Taps(net, {group: group for group in GROUPS}), inputs, device="cpu").features
    for group in GROUPS:
        torch.testing.assert_close(
            maps[group].flatten(1), attention_map(features[group]), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(maps[group].flatten(1).norm(dim=1), torch.ones(70))


def test_maps_in_parts_are_those_of_the_whole(done):
    net = done.trained("at", 0)
    inputs = done.data(RECIPE.arm("at")).test.inputs[:10]
    whole, parts = (attention_maps(net, inputs, device="cpu", batch_size=size) for size in (10, 3))
    for group in GROUPS:
        torch.testing.assert_close(whole[group], parts[group], atol=1e-5, rtol=1e-4)
