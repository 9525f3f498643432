"""The arms of the born-again paper, their settings, nets and data, and what the claims say of them."""

from __future__ import annotations

import re

import pytest
import torch
from born_again_runs import ENSEMBLES, FEW, FIRST, FOUND, settings

from kdrepro.claims import Side, paper
from kdrepro.data import cifar
from kdrepro.methods.born_again import BornAgain, ConfidenceWeighted, LabelSmoothing, PermutedDarkKnowledge
from kdrepro.methods.supervised import Supervised
from kdrepro.models.densenet import DenseNet
from kdrepro.models.mlp import MLP
from kdrepro.models.wide_resnet import WideResNet
from kdrepro.recipes import born_again
from kdrepro.recipes.born_again import ARMS, RECIPE

# Larger nets of the paper's Table 1, each with one generation, for a GPU.
WIDER = ("wrn28_2_", "densenet_")


def base(name: str) -> str:
    """The beginning of an arm's name that says what it is trained on; that of pictures is empty."""
    return next((prefix for prefix in (*WIDER, "mnist_", "few_") if name.startswith(prefix)), "")


# The arms, and what the claims say of them.


def test_the_arms_are_those_that_the_claims_name():
    named: set[str] = set()
    for claim in paper("furlanello2018").claims:
        compared = [*claim.comparisons, *([claim.direction] if claim.direction else [])]
        assert all(isinstance(side, Side) for each in compared for side in (each.lower, each.higher))
        named |= set(claim.needs)
    assert named <= set(ARMS)
    # These stand between the generations that the claims compare, or are asked about on pictures only.
    assert set(ARMS) - named <= {"few_teacher", "mnist_teacher", "few_ban4", "mnist_ban4"}


def test_the_settings_that_the_deviations_show_are_there():
    shown = re.findall(
        r"\{(\w+)\.(\w+)\}", " ".join(each.ours for each in paper("furlanello2018").deviations)
    )
    assert len(shown) > 10
    assert [f"{arm}.{key}" for arm, key in shown if key not in settings(arm).keys() | FOUND] == []


@pytest.mark.parametrize(("prefix", "generations", "seeds"), [("", 3, 3), ("mnist_", 5, 20), ("few_", 5, 20)])
def test_each_generation_learns_from_the_one_before_it(prefix, generations, seeds):
    before = f"{prefix}teacher"
    assert list(ARMS[before].needs(7)) == []
    for generation in range(1, generations + 1):
        name = f"{prefix}ban{generation}"
        assert list(ARMS[name].needs(7)) == [(before, 7)]
        before = name
    assert f"{prefix}ban{generations + 1}" not in ARMS
    for name in ("ban_l", "cwtm", "dkpp"):
        assert list(ARMS[f"{prefix}{name}"].needs(7)) == [(f"{prefix}teacher", 7)]
    for name in ("again", "smoothing"):
        assert list(ARMS[f"{prefix}{name}"].needs(7)) == []
    for count in (2, 3):
        members = [(f"{prefix}ban{generation}", 7) for generation in range(1, count + 1)]
        assert list(ARMS[f"{prefix}ens{count}"].needs(7)) == members
    assert {arm.seeds for name, arm in ARMS.items() if name.startswith(prefix) and base(name) == prefix} == {
        seeds
    }


@pytest.mark.parametrize("prefix", WIDER)
def test_larger_nets_are_born_again_once_as_in_the_paper(prefix):
    own = {name: arm for name, arm in ARMS.items() if name.startswith(prefix)}
    assert list(own) == [f"{prefix}teacher", f"{prefix}ban1"]
    assert [list(arm.needs(7)) for arm in own.values()] == [[], [(f"{prefix}teacher", 7)]]
    assert {(arm.seeds, tuple(arm.protocols)) for arm in own.values()} == {(3, ("paper",))}


def test_those_that_are_compared_within_a_generation_are_a_cohort():
    for name in FEW:
        generation = settings(name)["generation"]
        single = name == "few_teacher" or name in ENSEMBLES
        assert ARMS[name].cohort == ("" if single else f"few_generation{generation}"), name
    assert [name for name in FEW if ARMS[name].cohort == "few_generation1"] == FIRST


# The settings.


@pytest.mark.parametrize(
    ("protocol", "net", "epochs", "steps", "dropout"),
    [("paper", (28, 1), 200, [60, 120, 160], 0.3), ("reduced", (16, 1), 15, [4, 9, 12], 0.0)],
)
def test_the_settings_on_pictures_are_those_of_wide_residual_networks(protocol, net, epochs, steps, dropout):
    expected = {"learning_rate": 0.1, "rate_factor": 0.2, "weight_decay": 0.0005, "batch_size": 128}
    expected |= {"epochs": epochs, "dropout": dropout, "optimizer": "SGD, Nesterov momentum 0.9"}
    for name in ("teacher", "ban3", "again", "smoothing"):
        found = settings(name, protocol)
        assert (expected | {"depth": net[0], "width": net[1]}).items() <= found.items(), name
        assert [round(share * epochs) for share in found["rate_steps"]] == steps


@pytest.mark.parametrize("prefix", WIDER)
def test_the_settings_of_larger_nets_are_those_of_the_smallest_but_for_the_net(prefix):
    own, smallest = settings(f"{prefix}ban1"), settings("ban1")
    differing = {key for key in own.keys() | smallest if own.get(key) != smallest.get(key)}
    assert differing <= {"net", "depth", "width", "growth", "dropout"}
    assert own.get("dropout") == (None if prefix == "densenet_" else 0.3)


def test_teacher_and_students_have_the_same_net_and_schedule():
    for prefix in ("", *WIDER, "mnist_", "few_"):
        own = [name for name in ARMS if base(name) == prefix]
        differing = {"objective", "generation", "smoothing"}
        common = [
            {key: value for key, value in settings(each).items() if key not in differing} for each in own
        ]
        assert len(own) == 2 if prefix in WIDER else len(own) > 4
        assert all(each == common[0] for each in common), prefix


def test_the_nets_are_those_of_the_settings():
    net = RECIPE.build(settings("teacher"))
    assert isinstance(net, WideResNet)
    assert sum(each.numel() for each in net.parameters()) == 369_498
    drops = [part.probability for part in net.modules() if hasattr(part, "probability")]
    assert set(drops) == {0.3}
    assert sum(each.numel() for each in RECIPE.build(settings("teacher", "reduced")).parameters()) == 175_066
    net = RECIPE.build(settings("wrn28_2_ban1"))
    assert sum(each.numel() for each in net.parameters()) == 1_467_610
    assert {part.probability for part in net.modules() if hasattr(part, "probability")} == {0.3}
    with torch.device("meta"):
        net = RECIPE.build(settings("densenet_ban1"))
    assert isinstance(net, DenseNet)
    assert sum(each.numel() for each in net.parameters()) == 6_892_786
    for name in ("mnist_teacher", "few_ban5"):
        net = RECIPE.build(settings(name))
        assert isinstance(net, MLP)
        assert sum(each.numel() for each in net.parameters()) == 1_276_810


@pytest.mark.parametrize(
    ("name", "kind", "weights"),
    [
        ("few_teacher", Supervised, {}),
        ("few_again", Supervised, {}),
        ("few_ban1", BornAgain, {"label_weight": 0.0}),
        ("few_ban4", BornAgain, {"label_weight": 0.0}),
        ("few_ban_l", BornAgain, {"label_weight": 1.0}),
        ("few_cwtm", ConfidenceWeighted, {}),
        ("few_dkpp", PermutedDarkKnowledge, {}),
        ("few_smoothing", LabelSmoothing, {"smoothing": 0.1}),
    ],
)
def test_the_arms_differ_in_their_objectives(name, kind, weights):
    objective = born_again._OBJECTIVES[settings(name)["objective"]](settings(name))
    assert type(objective) is kind
    assert {key: getattr(objective, key) for key in weights} == weights
    assert settings(name).get("smoothing") == weights.get("smoothing")


def test_settings_laid_over_those_of_an_arm_are_what_it_is_trained_with():
    changed = settings("few_smoothing") | {"smoothing": 0.3}
    assert born_again._OBJECTIVES[changed["objective"]](changed).smoothing == 0.3
    made = [born_again._optimizer(settings(name))(MLP([4, 3]).parameters()) for name in ("few_ban1", "ban1")]
    assert [optimizer.defaults["nesterov"] for optimizer in made] == [False, True]
    with pytest.raises(
        ValueError, match=r"optimizer: got 'Adam', expected one of SGD, Nesterov momentum 0.9, SGD"
    ):
        born_again._optimizer(changed | {"optimizer": "Adam"})
    with pytest.raises(ValueError, match="schedule: got 'cosine', expected one of linear to 0"):
        born_again._schedule(changed | {"schedule": "cosine"}, 10)


def test_the_data_of_each_protocol(monkeypatch):
    asked = []
    monkeypatch.setattr(cifar, "load", lambda name: asked.append(name))
    for protocol in ("paper", "reduced"):
        ARMS["ban2"].load(protocol)
    assert asked == ["cifar10", "cifar10-jpeg"]
    sizes = {
        protocol: tuple(len(part) for part in (data.train, data.test))
        for protocol in ("smoke", "quick", "paper")
        for data in [ARMS["few_ban2"].load(protocol)]
    }
    assert sizes == {"smoke": (400, 200), "quick": (4000, 1000), "paper": (4000, 1000)}
