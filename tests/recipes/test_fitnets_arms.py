"""The arms of the FitNets paper, their settings and nets, and what the claims say of them."""

from __future__ import annotations

import re

import pytest
from fitnet_runs import DIGITS, FOUND, FOUND_OF_HINTS, FOUND_OF_SOFT_TARGETS, SOFT, settings
from smoke_runs import runner

from kdrepro.claims import Comparison, Side, paper
from kdrepro.fitnet_training import FitNetTraining
from kdrepro.models import maxout
from kdrepro.recipes import fitnets
from kdrepro.recipes.fitnets import RECIPE, config
from kdrepro.run import Run

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
    found = FOUND | FOUND_OF_HINTS | FOUND_OF_SOFT_TARGETS
    assert [f"{arm}.{key}" for arm, key in shown if key not in settings(arm).keys() | found] == []


def test_each_seed_has_a_teacher_of_its_own_and_the_authors_variant_one_seed():
    for name in DIGITS:
        arm = RECIPE.arm(name)
        needs = [] if name in ("teacher", "student_alone") else [("teacher", 3)]
        assert list(arm.needs(3)) == needs, name
        assert arm.seeds == (1 if name == "fitnet_code" else 3), name


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
    net = Run(runner(tmp_path, RECIPE), name, RECIPE.arm(name), 0).build()
    assert maxout.counted_weights(net) == weights
    drops = [part.probability for part in net.modules() if hasattr(part, "probability")]
    assert drops == ([0.2, 0.5, 0.5, 0.5] if name == "teacher" else [])
    largest = max(part.weight.abs().max().item() for part in net.modules() if hasattr(part, "weight"))
    assert 0.0049 < largest <= 0.005


# The depth study on CIFAR-10: a shorter schedule is the same one in less time.


@pytest.mark.parametrize("kind", ["alone", "kd", "hint", "joint", "joint_labels"])
def test_no_net_of_the_depth_study_has_more_epochs_than_another(kind):
    arm = RECIPE.arm(f"depth11_{kind}")
    its = settings(f"depth11_{kind}", "reduced")
    assert len(its["max_norm"]) == len(list(RECIPE.build(its).children()))
    stages = 2 if arm.train is fitnets.fitnet else 1
    training = object.__new__(FitNetTraining)
    training.settings, training.shorter = its, its["shorter"] * stages
    assert stages * (its["epochs"] // training.shorter) == 20
    assert its["patience"] // training.shorter >= its["epochs"] // training.shorter
    if kind not in ("alone", "joint_labels"):
        objective = training.soft_targets()
        last = its["epochs"] // training.shorter
        objective.start_epoch(last)
        assert objective.weight_now == pytest.approx(1.0)
        objective.start_epoch(last // 2)
        assert objective.weight_now == pytest.approx(2.5)


def test_one_stage_of_a_deep_net_differs_in_the_soft_targets_alone():
    both, labels = settings("depth11_joint", "reduced"), settings("depth11_joint_labels", "reduced")
    assert labels.items() <= both.items()
    assert set(both) - set(labels) == {"temperature", "soft_weight", "final_soft_weight", "decay_epochs"}
    assert RECIPE.arm("depth11_joint_labels").needs(2) == [("cifar_teacher", 0)]
    assert labels["hint_weight"] == 100.0
