"""The arms of the attention-transfer paper, their settings, nets and data, and what the claims say of them."""

from __future__ import annotations

import re

import pytest
from attention_transfer_runs import ALONE, FOUND, TEACHERS, settings

from kdrepro.claims import Side, paper
from kdrepro.data import cifar
from kdrepro.recipes import attention_transfer
from kdrepro.recipes.attention_transfer import ARMS, RECIPE, SWEEP

# The arms, and what the claims say of them.


def test_the_arms_are_those_that_the_claims_name():
    named: set[str] = set()
    for claim in paper("zagoruyko2017").claims:
        named |= set(claim.needs)
        compared = [*claim.comparisons, *([claim.direction] if claim.direction else [])]
        assert all(isinstance(side, Side) for each in compared for side in (each.lower, each.higher))
    assert named == {name for name, arm in ARMS.items() if "paper" in arm.protocols}
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
        teacher = "teacher_wrn40_2" if name.startswith("wide") else teacher
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
        "teacher_wrn40_2": (40, 2),
        "wide_at_kd": (16, 2),
    }.items():
        found = settings(name, protocol)
        assert (expected | {"depth": depth, "width": width}).items() <= found.items(), name
        assert [round(share * epochs) for share in found["rate_steps"]] == steps


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
    [
        ("student_alone", 175_066),
        ("teacher_wrn16_2", 691_674),
        ("teacher_wrn40_1", 563_930),
        ("teacher_wrn40_2", 2_243_546),
    ],
)
def test_the_nets_are_the_papers(name, parameters):
    assert sum(each.numel() for each in RECIPE.build(settings(name)).parameters()) == parameters


def test_the_data_of_each_protocol(monkeypatch):
    asked = []
    monkeypatch.setattr(cifar, "load", lambda name: asked.append(name))
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
