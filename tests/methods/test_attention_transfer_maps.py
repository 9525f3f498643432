"""Attention transfer against its formula and the authors' program, and the weights and pairs it takes."""

import math
import re

import numpy as np
import pytest
import torch
from attention_objectives import case, every_tensor, renamed
from terms_and_gradients import total
from torch import Tensor, nn

from kdrepro.losses.attention import attention_transfer_loss
from kdrepro.methods.attention_transfer import AttentionTransfer
from kdrepro.methods.hinton_kd import HintonKD
from kdrepro.types import Outputs


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize(("power", "pool"), [(2, "sum"), (1, "max")])
@pytest.mark.parametrize("soft_weight", [0.0, 0.9, 1.0])
def test_it_is_the_weighted_sum_over_the_pairs_beside_soft_and_hard_targets(form, power, pool, soft_weight):
    student, teacher, batch = case()
    objective = AttentionTransfer(
        ["wide", "deep"],
        attention_weight=50.0,
        form=form,
        power=power,
        pool=pool,
        temperature=3.0,
        soft_weight=soft_weight,
    )
    terms = objective(student, teacher, batch)

    def unit_map(feature: Tensor) -> Tensor:
        energies = feature.detach().abs() ** power
        energy = energies.sum(0) if pool == "sum" else energies.max(0).values
        return energy / energy.norm()

    expected = 0.0
    for name in ("wide", "deep"):
        for ours, theirs in zip(student.features[name], teacher.features[name], strict=True):
            difference = unit_map(ours) - unit_map(theirs)
            distance = difference.norm() if form == "paper" else difference.square().mean()
            expected += 50.0 * distance.item() / len(batch.targets)
    assert terms["attention"].item() == pytest.approx(expected)
    others = HintonKD(temperature=3.0, soft_weight=soft_weight)(student, teacher, batch)
    assert {name: value for name, value in terms.items() if name != "attention"} == others


def test_the_defaults_are_the_authors_program():
    # cifar.py of the authors: beta · Σ_j mean over batch and positions, with alpha = 0 cross-entropy alone.
    student, teacher, batch = case()

    def at(feature: Tensor) -> Tensor:
        return nn.functional.normalize(feature.pow(2).mean(1).view(feature.size(0), -1))

    groups = [(at(student.features[j]) - at(teacher.features[j])).pow(2).mean() for j in ("wide", "deep")]
    theirs = nn.functional.cross_entropy(student.logits, batch.targets) + 1e3 * sum(groups)
    ours = AttentionTransfer(["wide", "deep"], attention_weight=1e3)(student, teacher, batch)
    assert set(ours) == {"attention", "hard"}
    torch.testing.assert_close(total(ours), theirs)


def test_with_soft_targets_it_is_the_authors_program_too():
    student, teacher, batch = case()
    soft = nn.functional.kl_div(
        (student.logits / 4).log_softmax(1), (teacher.logits / 4).softmax(1), reduction="sum"
    ) * (16 * 0.9 / len(batch.targets))
    hard = nn.functional.cross_entropy(student.logits, batch.targets) * 0.1
    ours = AttentionTransfer(["deep"], attention_weight=1e3, soft_weight=0.9)(student, teacher, batch)
    torch.testing.assert_close(ours["soft"] + ours["hard"], soft + hard)


def test_in_the_papers_form_the_weight_is_half_of_beta():
    student, teacher, batch = case()
    beta = 0.1
    distances = [
        np.linalg.norm(
            [
                a / math.sqrt(sum(x * x for x in first)) - b / math.sqrt(sum(x * x for x in second))
                for a, b in zip(first, second, strict=True)
            ]
        )
        for ours, theirs in zip(student.features["deep"], teacher.features["deep"], strict=True)
        for first, second in [
            (ours.square().sum(0).flatten().tolist(), theirs.square().sum(0).flatten().tolist())
        ]
    ]
    terms = AttentionTransfer(["deep"], attention_weight=beta / 2, form="paper")(student, teacher, batch)
    assert terms["attention"].item() == pytest.approx(beta / 2 * np.mean(distances))


def test_each_feature_may_have_a_weight_of_its_own():
    student, teacher, batch = case()
    weights = {"deep": 3.0, "wide": 0.5}
    terms = AttentionTransfer(["wide", "deep"], attention_weight=weights)(student, teacher, batch)
    alone = {
        name: AttentionTransfer([name], attention_weight=weight)(student, teacher, batch)["attention"]
        for name, weight in weights.items()
    }
    torch.testing.assert_close(terms["attention"], alone["wide"] + alone["deep"])


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            {"wide": 1.0},
            "attention_weight: got weights for ['wide'], expected one for each of ['deep', 'wide']",
        ),
        (
            {"wide": 1.0, "deep": 1.0, "top": 1.0},
            "attention_weight: got weights for ['deep', 'top', 'wide'], expected one for each",
        ),
        ({"wide": 1.0, "deep": 0.0}, "attention_weight['deep']: got 0.0, expected a finite number above 0"),
    ],
)
def test_weights_that_do_not_go_with_the_features_are_refused(weights, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        AttentionTransfer(["wide", "deep"], attention_weight=weights)


def test_a_mapping_pairs_features_of_other_names_student_first():
    student, teacher, batch = case()
    objective = AttentionTransfer({"wide": "layer1", "deep": "layer2"}, attention_weight=10.0)
    named_otherwise = renamed(teacher, wide="layer1", deep="layer2")
    same_names = AttentionTransfer(["wide", "deep"], attention_weight=10.0)
    torch.testing.assert_close(
        total(objective(student, named_otherwise, batch)), total(same_names(student, teacher, batch))
    )


def test_one_layer_of_the_teacher_may_teach_two_of_the_student():
    student, teacher, batch = case()
    both = AttentionTransfer({"wide": "deep", "deep": "deep"}, attention_weight=1.0)(student, teacher, batch)
    expected = [
        attention_transfer_loss(student.features[name], teacher.features["deep"]).mean()
        for name in ("wide", "deep")
    ]
    torch.testing.assert_close(both["attention"], sum(expected))


def test_the_terms_are_zero_where_the_student_looks_and_answers_like_the_teacher():
    _, teacher, batch = case()
    twin = Outputs(
        teacher.logits.detach().clone(), {k: v.detach().clone() for k, v in teacher.features.items()}
    )
    for value in every_tensor(twin):
        value.requires_grad_()
    for form in ("paper", "code"):
        objective = AttentionTransfer(["wide", "deep"], attention_weight=1e3, form=form, soft_weight=1.0)
        terms = objective(twin, teacher, batch)
        assert terms["attention"].item() == 0
        assert terms["soft"].item() == pytest.approx(0, abs=1e-12)
        slopes = torch.autograd.grad(total(terms), every_tensor(twin))
        assert max(slope.abs().max() for slope in slopes) < 1e-12


def test_attention_says_what_it_is_and_learns_nothing_itself():
    objective = AttentionTransfer({"deep": "layer3"}, attention_weight=1000, soft_weight=0.9)
    assert list(objective.parameters()) == []
    assert repr(objective) == (
        "AttentionTransfer({'deep': 'layer3'}, attention_weight=1000.0, form='code', power=2.0, pool='sum', "
        "temperature=4.0, soft_weight=0.9)"
    )
