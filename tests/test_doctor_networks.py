"""The doctor finds what is wrong with the networks, and with what they give."""

import math

import pytest
import torch
from doctor_findings import INPUTS, TARGETS, codes, only, right_teacher
from small_networks import Fixed, LanguageModel, WithFeatures, network
from torch import nn

from kdrepro import Batch, HintonKD, check
from kdrepro.teacher import FrozenTeacher

# The networks themselves.


def test_a_teacher_in_train_mode():
    teacher = right_teacher().train()
    assert (
        "train mode"
        in only(check(teacher, network(1), (INPUTS, TARGETS)), "teacher_in_train_mode", "warning").message
    )


@pytest.mark.parametrize(("index", "kind"), [(1, "BatchNorm"), (3, "Dropout")])
def test_a_teacher_with_one_layer_awake(index, kind):
    teacher = network(0).eval().requires_grad_(False)
    teacher[index].train()
    findings = check(teacher, network(1), (INPUTS[:2], TARGETS[:2]))
    assert kind in type(teacher[index]).__name__
    assert f" {index}" in only(findings, "teacher_partly_in_train_mode", "warning").message


def test_a_teacher_with_dropout_of_its_own_awake():
    class DropPath(nn.Module):
        def forward(self, inputs):
            return inputs

    teacher = nn.Sequential(network(0), DropPath()).eval().requires_grad_(False)
    teacher[1].train()
    only(check(teacher, network(1), (INPUTS[:2], TARGETS[:2])), "teacher_partly_in_train_mode", "warning")


def test_each_member_of_an_ensemble_is_looked_at():
    asleep, awake = (network(seed).eval().requires_grad_(False) for seed in (0, 2))
    awake[3].train()
    findings = check([asleep, awake], network(1), (INPUTS[:2], TARGETS[:2]))
    only(findings, "teacher_partly_in_train_mode", "warning")
    awake[3].eval()
    awake.requires_grad_(True)
    only(check([asleep, awake], network(1), (INPUTS[:2], TARGETS[:2])), "teacher_trains", "warning")


def test_an_ensembles_classes_are_averaged_at_the_temperature_of_the_objective():
    members = [network(seed).eval().requires_grad_(False) for seed in (0, 2)]
    told = []

    class Objective(nn.Module):
        temperature = 20.0

        def forward(self, student, teacher, batch):
            told.append(teacher.logits.detach())
            return {"soft": (student.logits - teacher.logits.detach()).square().mean()}

    check(members, network(1), (INPUTS, TARGETS), objective=Objective())
    wanted = FrozenTeacher(members)(INPUTS, temperature=20.0).logits
    torch.testing.assert_close(told[0], wanted)
    assert not torch.allclose(told[0], FrozenTeacher(members)(INPUTS).logits)


def test_a_teacher_that_still_trains():
    teacher = right_teacher().requires_grad_()
    finding = only(check(teacher, network(1), (INPUTS, TARGETS)), "teacher_trains", "warning")
    assert finding.message.startswith("1 of the teacher's parameter tensors")


def test_a_student_that_does_not_train():
    student = network(1).requires_grad_(False)
    only(check(right_teacher(), student, (INPUTS, TARGETS)), "student_frozen")


def test_a_student_in_eval_mode():
    only(check(right_teacher(), network(1).eval(), (INPUTS, TARGETS)), "student_in_eval_mode", "warning")


def test_a_teacher_whose_dropout_ignores_the_mode():
    class AlwaysDrops(nn.Module):
        def forward(self, inputs):
            return nn.functional.dropout(inputs @ torch.eye(4, 5) * 5 + 1)

    findings = check(AlwaysDrops().eval(), network(1), (INPUTS, (INPUTS @ torch.eye(4, 5)).argmax(-1)))
    assert "teacher_random" in codes(findings)


def test_one_object_as_teacher_and_student():
    net = network(0)
    findings = check(net, net, (INPUTS[:2], TARGETS[:2]))
    assert "same_object" in codes(findings)
    assert "same_object" in codes(check([right_teacher(), net], net, (INPUTS, TARGETS)))


def test_shared_weights():
    teacher = network(0).eval()
    student = nn.Sequential(teacher[0], nn.Linear(8, 5))
    finding = next(
        each for each in check(teacher, student, (INPUTS, TARGETS)) if each.code == "shared_weights"
    )
    assert finding.message.startswith("student: got a submodule '0'")


def test_batch_norm_with_a_batch_of_one():
    findings = check(right_teacher(), network(1), (INPUTS[:1], TARGETS[:1]))
    assert "batch_of_one" in codes(findings)
    # The networks run in eval mode here, where one example is enough.
    assert "student_fails" not in codes(findings)
    no_norm = check(
        Fixed(torch.tensor([[3.0, 1, 2, 0, 0]])).eval(), WithFeatures(), (INPUTS[:1], TARGETS[:1])
    )
    assert "batch_of_one" not in codes(no_norm)


def test_an_input_that_holds_for_all_examples_does_not_say_how_many_there_are():
    class Placed(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, inputs, places):
            return self.net(inputs + 0 * places)

    inputs = {"inputs": INPUTS, "places": torch.zeros(1, INPUTS.shape[1])}
    nets = [Placed(network(seed)) for seed in (0, 1)]
    nets[0].eval().requires_grad_(False)
    for targets in (TARGETS, None):
        assert not {"batch_of_one", "empty_batch"} & set(codes(check(*nets, Batch(inputs, targets))))


# What they give.


def test_class_counts_and_vocabularies_that_differ():
    finding = only(check(right_teacher(), network(1, classes=8), (INPUTS, TARGETS)), "classes_differ")
    assert finding.message == "the teacher gives 5 classes, the student 8"
    ids = torch.tensor([[1, 2, 3]])
    teacher = LanguageModel(vocabulary=9).eval().requires_grad_(False)
    finding = only(check(teacher, LanguageModel(), ({"input_ids": ids}, ids + 1)), "classes_differ")
    assert "tokenizer" in finding.advice


def test_shapes_that_do_not_match():
    findings = check(Fixed(torch.randn(64, 2, 5)).eval().requires_grad_(False), network(1), (INPUTS, TARGETS))
    assert "(64, 2, 5)" in only(findings, "shapes_differ").message


def test_members_of_an_ensemble_that_differ():
    members = [right_teacher(), network(0, classes=6).eval().requires_grad_(False)]
    assert "teacher[1]" in only(check(members, network(1), (INPUTS, TARGETS)), "members_differ").message


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["teacher", "student"])
def test_logits_that_are_not_finite_and_which_side(side, wrong):
    logits = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    logits[3, 2] = wrong
    broken = Fixed(logits)
    pair = (
        (broken.eval().requires_grad_(False), network(1)) if side == "teacher" else (right_teacher(), broken)
    )
    finding = only(check(*pair, (INPUTS, TARGETS)), f"{side}_not_finite")
    assert finding.message == f"{side}: 1 of 320 logits are NaN or infinite, the first at (3, 2) is {wrong}"


def test_which_member_is_not_finite():
    broken = Fixed(torch.full((64, 5), math.nan)).eval().requires_grad_(False)
    finding = only(check([right_teacher(), broken], network(1), (INPUTS, TARGETS)), "teacher_not_finite")
    assert finding.message.startswith("teacher[1]: 320 of 320")


def test_a_class_left_out_with_minus_infinity_is_no_mistake():
    lowest = torch.full((64, 1), -math.inf)
    teacher = Fixed(torch.cat([right_teacher().logits, lowest], -1)).eval().requires_grad_(False)
    student = Fixed(torch.cat([torch.randn(64, 5), lowest], -1))
    objective = HintonKD(temperature=4.0, soft_weight=0.9)
    assert check(teacher, student, (INPUTS, TARGETS), objective=objective) == []


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_probabilities_in_place_of_logits(side):
    teacher = Fixed(right_teacher().logits.softmax(-1)) if side == "teacher" else right_teacher()
    student = nn.Sequential(network(1), nn.Softmax(-1)) if side == "student" else network(1)
    findings = check(teacher.eval().requires_grad_(False), student, (INPUTS, TARGETS))
    assert only(findings, f"{side}_gives_probabilities", "warning").message.startswith(f"{side}: every row")


def test_a_student_that_says_what_the_teacher_says():
    teacher = right_teacher()
    only(check(teacher, Fixed(teacher.logits), (INPUTS, TARGETS)), "same_outputs", "warning")


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_network_that_does_not_take_the_batch(side):
    narrow = network(0, inputs=3)
    pair = (
        (narrow.eval().requires_grad_(False), network(1)) if side == "teacher" else (right_teacher(), narrow)
    )
    finding = only(check(*pair, (INPUTS, TARGETS)), f"{side}_fails")
    assert "RuntimeError: mat1 and mat2" in finding.message


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (torch.zeros(64), "expected (B, K) or (B, L, K) with two classes at least"),
        (torch.zeros(64, 1), "expected (B, K) or (B, L, K) with two classes at least"),
        (torch.zeros(64, 5, dtype=torch.int64), "expected floating-point (B, K)"),
    ],
    ids=["flat", "one class", "integers"],
)
def test_a_network_whose_outputs_are_no_logits(logits, says):
    teacher = Fixed(logits).eval().requires_grad_(False)
    assert says in only(check(teacher, network(1), (INPUTS, TARGETS)), "teacher_fails").message
