"""The program of the attention-transfer paper, whole, at its smallest."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

from kdrepro import Taps, attention_map, engine, metrics, predict
from kdrepro.claims import Side, paper
from kdrepro.engine import outputs
from kdrepro.ledger import Ledger, Row
from kdrepro.recipes import attention_transfer
from kdrepro.recipes.attention_transfer import ARMS, GROUPS, RECIPE, SWEEP, attention_maps, config
from kdrepro.runs import Run, Runner

TEACHERS = {"teacher_wrn16_2", "teacher_wrn40_1"}
ALONE = TEACHERS | {"student_alone"}
SOFT = {"kd", "at_kd", "kd_from40", "at_kd_from40"}
FULL = {"f_at", "f_at_from40"}
ATTENTION = {name for name in ARMS if name.startswith("at")}
# What a run finds out, beside its settings.
FOUND = {"train_size", "epochs_run", "precision", "cohort"}


def runner(folder: Path, recipe=RECIPE, **changes) -> Runner:
    arguments = {"protocol": "smoke", "ledger": Ledger(folder), "work": folder, "device": "cpu"}
    return Runner(recipe, **(arguments | {"progress": False, "precision": "fp32"} | changes))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Every arm with seed 0, those of one teacher as a cohort."""
    its = runner(tmp_path_factory.mktemp("runs"))
    its.run(its.plan(seeds=[0]))
    return its


@pytest.fixture(scope="module")
def rows(done: Runner) -> dict[str, Row]:
    return {row.arm: row for row in done.ledger.rows()}


def settings(name: str, protocol: str = "paper") -> dict[str, object]:
    return config(name, protocol) | RECIPE.arm(name).overrides


# The arms, and what the claims say of them.


def test_the_arms_are_those_that_the_claims_name():
    named: set[str] = set()
    for claim in paper("zagoruyko2017").claims:
        named |= set(claim.needs)
        compared = [*claim.comparisons, *([claim.direction] if claim.direction else [])]
        assert all(isinstance(side, Side) for each in compared for side in (each.lower, each.higher))
    assert named == {name for name, arm in ARMS.items() if "reduced" in arm.protocols}
    assert set(ARMS) - named == {name for name in SWEEP if ARMS[name].protocols == ("smoke", "quick")}
    assert all(arm.seeds == 5 for arm in ARMS.values())


def test_the_settings_that_the_deviations_show_are_there():
    shown = re.findall(
        r"\{([\w.]+)\.(\w+)\}", " ".join(each.ours for each in paper("zagoruyko2017").deviations)
    )
    assert len(shown) > 10
    assert [f"{arm}.{key}" for arm, key in shown if key not in settings(arm).keys() | FOUND] == []


def test_students_of_a_seed_learn_from_its_teacher_and_those_of_one_teacher_are_a_cohort():
    for name, arm in ARMS.items():
        teacher = "teacher_wrn40_1" if name.endswith("from40") else "teacher_wrn16_2"
        assert list(arm.needs(3)) == ([] if name in ALONE else [(teacher, 3)]), name
        # One that may diverge takes nobody with it.
        single = TEACHERS | {"at_norm_1000"}
        assert arm.cohort == ("" if name in single else teacher.removeprefix("teacher_")), name


# The settings.


@pytest.mark.parametrize(
    ("protocol", "epochs", "steps"), [("paper", 200, [60, 120, 160]), ("reduced", 30, [9, 18, 24])]
)
def test_the_settings_are_those_of_the_authors_program(protocol, epochs, steps):
    expected = {"learning_rate": 0.1, "rate_factor": 0.2, "weight_decay": 0.0005, "batch_size": 128}
    expected |= {"epochs": epochs, "crop": 4, "padding": "reflect", "flip": True, "in_channels": 3}
    for name, (depth, width) in {
        "teacher_wrn16_2": (16, 2),
        "teacher_wrn40_1": (40, 1),
        "student_alone": (16, 1),
        "at_from40": (16, 1),
    }.items():
        found = settings(name, protocol)
        assert (expected | {"depth": depth, "width": width}).items() <= found.items(), name
        assert [round(share * epochs) for share in found["rate_steps"]] == steps


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


def test_the_sweep_is_the_code_s_form_and_the_papers_at_several_weights():
    """On CIFAR-10 only those that the claims name are trained."""
    for protocol in ("quick", "reduced"):
        arms = [settings(name, protocol) for name in SWEEP if protocol in ARMS[name].protocols]
        forms = [each["form"] for each in arms]
        assert {"code", "paper"} == set(forms)
        found = {(each["form"], each["attention_weight"], each.get("by_group")) for each in arms}
        assert len(found) == len(arms)
        assert all(
            (each["power"], each["pool"], each.get("soft_weight")) == (2, "sum", None) for each in arms
        )
    assert {ARMS[name].cohort for name in SWEEP} <= {"wrn16_2", ""}
    for name in SWEEP:
        own = name.removeprefix("at").strip("_").removeprefix("norm_").replace("by_group", "1000")
        weight = ARMS[name].overrides["attention_weight"]
        beta = 2 * weight if "norm" in name else weight
        assert beta == float(own or 1000), name


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("student_alone", 175_066), ("teacher_wrn16_2", 691_674), ("teacher_wrn40_1", 563_930)],
)
def test_the_nets_are_the_papers(name, parameters):
    assert sum(each.numel() for each in RECIPE.build(settings(name)).parameters()) == parameters


# The rows.


def test_every_arm_leaves_a_row_with_its_metrics_and_settings(rows):
    assert set(rows) == set(ARMS)
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
    assert alone == TEACHERS | {"at_norm_1000"}
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
    states = [
        Run(done, name, RECIPE.arm(name), 1).build().state_dict() for name in ARMS if name not in TEACHERS
    ]
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


# A cohort, and kills.


@pytest.mark.parametrize("name", ["student_alone", "at", "at_norm_by_group", "f_at", "at_kd", "kd"])
def test_in_a_cohort_or_alone_the_numbers_are_the_same(name, done, rows, tmp_path):
    its = runner(tmp_path)
    its.trained = done.trained
    (row,) = its.run([(name, 0)])
    assert (row.metrics, row.curves) == (rows[name].metrics, rows[name].curves)
    cohort = {"cohort": rows[name].config["cohort"]}
    assert row.config | cohort == rows[name].config
    assert its.weights(name, 0).read_bytes() == done.weights(name, 0).read_bytes()


COHORT = ("student_alone", "at", "f_at", "kd")


@pytest.fixture(scope="module")
def longer():
    """The recipe with four epochs, whose rate falls after the first, second and third."""
    return dataclasses.replace(RECIPE, config=lambda base, protocol: config(base, protocol) | {"epochs": 4})


@pytest.fixture(scope="module")
def undisturbed(longer, tmp_path_factory) -> Runner:
    its = runner(tmp_path_factory.mktemp("undisturbed"), longer)
    its.run(its.plan(COHORT, [0]))
    return its


class Stopped(Exception):
    """Ends a run."""


def stop(patch: pytest.MonkeyPatch, who: str, step: int) -> None:
    """Stop the cohort when the member of that label has taken so many steps."""
    members = attention_transfer.Member
    steps = iter(range(10_000))

    def after_step(net: nn.Module) -> None:
        if next(steps) == step:
            raise Stopped

    def watched(*, label: str, **arguments):
        extra = {"after_step": after_step} if label == who else {}
        return members(label=label, **arguments, **extra)

    patch.setattr(attention_transfer, "Member", watched)


# In the first epoch, at its last step, in later ones before and after the rate falls, and by the first and last member.
@pytest.mark.parametrize(("who", "share"), [("student_alone", 0.1), ("kd", 0.25), ("at", 0.6), ("kd", 0.99)])
def test_a_cohort_that_was_killed_ends_with_the_same_rows(
    who, share, longer, undisturbed, monkeypatch, tmp_path
):
    monkeypatch.setitem(engine.fit_cohort.__kwdefaults__, "checkpoint_seconds", 0.0)
    its = runner(tmp_path, longer)
    its.trained = undisturbed.trained
    batches = -(-256 // int(config("at", "smoke")["batch_size"]))
    keys = [(name, 0) for name in COHORT]
    with monkeypatch.context() as patch:
        stop(patch, who, int(share * 4 * batches))
        with pytest.raises(Stopped):
            its.run(keys)
    assert its.ledger.rows() == []
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == (len(COHORT) if share >= 0.25 else 0)
    torch.rand(7)
    for row in its.run(keys):
        expected = undisturbed.ledger.get(row.run)
        assert (row.metrics, row.curves, row.config) == (expected.metrics, expected.curves, expected.config)
        files = [each.weights(row.arm, 0).read_bytes() for each in (its, undisturbed)]
        assert files[0] == files[1]
    assert not list((tmp_path / "checkpoints").iterdir())


# The schedule.


def test_the_rate_falls_at_its_steps_and_the_momentum_is_forgotten_there():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    schedule = attention_transfer._schedule({"epochs": 10, "rate_steps": [0.3, 0.6], "rate_factor": 0.2}, 2)
    scheduler = schedule(optimizer)
    rates, momenta = [], []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(1)
        optimizer.step()
        momenta.append(optimizer.state[weight]["momentum_buffer"].item())
        scheduler.step()
    assert rates == pytest.approx([0.1] * 6 + [0.02] * 6 + [0.004] * 8)
    # 1, 1.9, 2.71, ... and from 1 again at each step of the rate.
    grown = [sum(0.9**power for power in range(count + 1)) for count in range(8)]
    assert momenta == pytest.approx(grown[:6] + grown[:6] + grown)


def test_the_rates_of_a_run_are_those_of_the_schedule(undisturbed):
    for row in undisturbed.ledger.rows():
        assert row.curves["learning_rate"] == pytest.approx([0.02, 0.004, 0.0008, 0.0008])


def test_a_schedule_that_is_resumed_does_not_forget_the_momentum_again():
    weight = nn.Parameter(torch.zeros(1))
    settings = {"epochs": 4, "rate_steps": [0.5], "rate_factor": 0.2}
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    scheduler = attention_transfer._schedule(settings, 1)(optimizer)
    for _ in range(3):
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    states = optimizer.state_dict(), scheduler.state_dict()
    fresh = SGD([weight], lr=0.1, momentum=0.9)
    again = attention_transfer._schedule(settings, 1)(fresh)
    fresh.load_state_dict(states[0])
    again.load_state_dict(states[1])
    assert fresh.param_groups[0]["lr"] == pytest.approx(0.02)
    # One step since the rate fell.
    assert fresh.state[weight]["momentum_buffer"].item() == pytest.approx(1)


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


def test_the_data_of_each_protocol(monkeypatch):
    asked = []
    monkeypatch.setattr(attention_transfer.cifar, "load", lambda name: asked.append(name))
    attention_transfer.load("paper")
    attention_transfer.load("reduced")
    assert asked == ["cifar10", "cifar10-jpeg"]
    assert [
        len(each) for each in (attention_transfer.load("quick").train, attention_transfer.load("quick").test)
    ] == [
        4000,
        1000,
    ]
    smoke = attention_transfer.load("smoke")
    assert (len(smoke.train), len(smoke.test)) == (256, 128)
