"""Parts that teacher and student share: those that are frozen and have no buffers."""

import copy

import pytest
import torch
from small_networks import network, snapshot
from small_objectives import OBJECTIVE
from small_trainings import batches, train
from torch import nn

from kdrepro import Distiller, check
from kdrepro.teacher import FrozenTeacher

INPUTS, TARGETS = batches().inputs[:16], batches().targets[:16]


def body() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh()).requires_grad_(False)


def pair(shared: nn.Module, own: nn.Module) -> tuple[nn.Module, nn.Module]:
    return nn.Sequential(shared, network(0, inputs=6)), nn.Sequential(own, network(1, inputs=6))


@pytest.mark.parametrize("loop", ["fit", "distiller"])
def test_what_is_frozen_may_be_in_both_and_is_as_good_as_a_copy(loop):
    found = []
    for copied in (False, True):
        part = body()
        teacher, student = pair(part, copy.deepcopy(part) if copied else part)
        before = snapshot(teacher)["bytes"]
        if loop == "fit":
            curves = train(student, teacher=teacher, epochs=2).curves
        else:
            torch.manual_seed(0)
            distiller = Distiller(teacher, student, OBJECTIVE)
            optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1, weight_decay=0.1)
            curves = []
            for _ in range(5):
                distiller.train()
                optimizer.zero_grad()
                curves.append(distiller(INPUTS, TARGETS).loss)
                curves[-1].backward()
                optimizer.step()
        assert snapshot(teacher)["bytes"] == before
        found.append((curves, snapshot(student)["bytes"]))
    assert found[0] == found[1]


def test_check_warns_of_it_as_it_may_not_be_meant():
    part = body()
    teacher, student = pair(part, part)
    found = check(teacher, student, (INPUTS, TARGETS), objective=OBJECTIVE)
    (finding,) = [each for each in found if each.code.startswith("shared")]
    assert (finding.code, finding.severity) == ("shared_frozen", "warning")
    assert "holds 4 of the teacher's parameter tensors, the first as '0.0.weight'" in finding.message
    teacher, student = pair(part, body())
    assert not any(each.code.startswith("shared") for each in check(teacher, student, (INPUTS, TARGETS)))


def test_memory_that_the_student_does_not_train_may_be_the_teachers():
    teacher, student = network(0), network(1)
    student[4].weight = nn.Parameter(teacher[4].weight.data, requires_grad=False)
    FrozenTeacher(teacher).check_apart(student=student)
    student[4].weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"student: got a parameter '4.weight' that the teacher holds too"):
        FrozenTeacher(teacher).check_apart(student=student)


def trains(part: nn.Sequential) -> nn.Module:
    part[1].bias.requires_grad_(True)
    return part


def with_statistics(part: nn.Sequential) -> nn.Module:
    part[1] = nn.BatchNorm1d(6).requires_grad_(False)
    return part


def with_statistics_alone(part: nn.Sequential) -> nn.Module:
    part[1] = nn.BatchNorm1d(6, affine=False)
    return part


@pytest.mark.parametrize("make", [trains, with_statistics, with_statistics_alone])
def test_what_training_may_change_is_refused_as_before(make):
    part = make(body())
    teacher, student = pair(part, part)
    with pytest.raises(
        ValueError,
        match=r"student: got a submodule '0.1' that the teacher holds too, expected a network of its own .*, or "
        "to share what is frozen and has no buffers",
    ):
        Distiller(teacher, student, OBJECTIVE)


def test_a_whole_teacher_is_never_a_part_however_frozen_it_is():
    teacher = body()
    with pytest.raises(ValueError, match="student: got a submodule '0' that the teacher holds too"):
        FrozenTeacher(teacher).check_apart(student=nn.Sequential(teacher, nn.Linear(6, 5)))
    with pytest.raises(ValueError, match="student: got the same object as the teacher"):
        FrozenTeacher(teacher).check_apart(student=teacher)
