"""Taps in a Distiller: the features reach the objective and the caller, from whichever student it has."""

import copy

import pytest
import torch
from small_networks import LanguageModel, batch, network, snapshot
from small_objectives import OBJECTIVE, Hints
from torch import nn

from kdrepro import Distiller

INPUTS, TARGETS = batch()


def tapped(teacher, student, objective=None) -> Distiller:
    taps = {"teacher_taps": {"hidden": "2"}, "student_taps": {"hidden": "2"}}
    return Distiller(teacher, student, objective or Hints(), **taps)


def test_taps_give_features_to_the_objective_and_the_caller():
    teacher, student, objective = network(0, width=12), network(1).eval(), Hints()
    out = tapped(teacher, student, objective)(INPUTS)
    hint, guided = teacher[:3](INPUTS).detach(), student[:3](INPUTS)
    torch.testing.assert_close(out.loss, (objective.regressor(guided) - hint).square().mean())
    torch.testing.assert_close(out.features, {"hidden": guided})
    assert torch.equal(out.logits, student(INPUTS))
    out.loss.backward()
    assert student[0].weight.grad is not None
    assert student[4].weight.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(part._forward_hooks for net in (teacher, student) for part in net.modules())


def test_with_taps_the_names_in_its_state_are_those_without():
    student, objective = network(1), Hints()
    distiller = tapped(network(0, width=12), student, objective)
    names = set(Distiller(network(0), student, objective).state_dict())
    assert set(distiller.state_dict()) == names
    assert {name.partition(".")[0] for name in names} == {"student", "objective"}
    assert distiller.student is student
    assert set(distiller.parameters()) == {*student.parameters(), *objective.parameters()}


def test_with_taps_training_changes_the_student_and_leaves_the_teacher_bitwise_the_same():
    teacher, student = network(0, width=12), network(1)
    distiller = tapped(teacher, student)
    optimizer, before = torch.optim.SGD(distiller.parameters(), lr=0.1), snapshot(teacher)
    losses = []
    for _ in range(20):
        loss = distiller(INPUTS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert snapshot(teacher) == before
    assert losses[-1] < 0.9 * losses[0]


def test_a_copy_taps_the_student_of_its_own():
    distiller = tapped(network(0, width=12), network(1)).eval()
    twin = copy.deepcopy(distiller)
    nn.init.zeros_(distiller.student[0].weight)
    assert torch.equal(twin(INPUTS).features["hidden"], twin.student[:3](INPUTS))
    assert not torch.equal(twin(INPUTS).features["hidden"], distiller(INPUTS).features["hidden"])


def test_taps_follow_a_student_that_is_replaced_or_wrapped():
    distiller = tapped(network(0, width=12), network(1)).eval()
    bare = network(2).eval()
    for other in (bare, nn.DataParallel(bare)):
        distiller.student = other
        assert torch.equal(distiller(INPUTS).features["hidden"], bare[:3](INPUTS))


def test_a_compiled_student_is_tapped_and_so_is_one_in_a_compiled_distiller():
    torch.compiler.reset()
    student = network(1).eval()
    for distiller in (
        tapped(network(0, width=12), torch.compile(student, backend="eager")),
        torch.compile(tapped(network(0, width=12), student), backend="eager"),
    ):
        for _ in range(2):
            torch.testing.assert_close(distiller(INPUTS).features, {"hidden": student[:3](INPUTS)})


def test_taps_and_inputs_by_name():
    class Mean(nn.Module):
        def forward(self, student, teacher, batch):
            return {"mean": (student.features["hidden"] - teacher.features["hidden"]).square().mean()}

    teacher, student = LanguageModel(), LanguageModel()
    taps = {"teacher_taps": {"hidden": "embedding"}, "student_taps": {"hidden": "head:input"}}
    ids = torch.tensor([[1, 2, 3]])
    out = Distiller(teacher, student, Mean(), **taps)({"input_ids": ids})
    expected = (student.embedding(ids) - teacher.embedding(ids)).square().mean()
    torch.testing.assert_close(out.loss, expected)


def test_only_one_teacher_can_be_tapped():
    with pytest.raises(
        ValueError, match=r"^teacher_taps: got taps on an ensemble of 2, expected one teacher"
    ):
        Distiller([network(0), network(2)], network(1), OBJECTIVE, teacher_taps={"hidden": "2"})
    teachers = [network(0, width=12)]
    assert torch.isfinite(tapped(teachers, network(1))(INPUTS).loss)
