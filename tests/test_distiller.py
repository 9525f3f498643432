"""Teacher, student and objective as one module for anybody's loop."""

import copy

import pytest
import torch
from small_networks import LanguageModel, WithFeatures, batch, network, snapshot
from small_objectives import OBJECTIVE, Hints
from torch import nn

from kdrepro import Distilled, Distiller, HintonKD, Supervised, soft_target_loss
from kdrepro.losses.reduce import masked_mean, mean

INPUTS, TARGETS = batch()


def test_it_gives_the_objectives_terms_their_sum_and_the_students_logits():
    teacher, student = network(0), network(1).eval()
    out = Distiller(teacher, student, OBJECTIVE)(INPUTS, TARGETS)
    logits, soft_targets = student(INPUTS), copy.deepcopy(teacher).eval()(INPUTS)
    assert isinstance(out, Distilled)
    assert torch.equal(out.logits, logits)
    soft = 0.9 * soft_target_loss(logits, soft_targets, temperature=4.0).mean()
    hard = 0.1 * nn.functional.cross_entropy(logits, TARGETS)
    torch.testing.assert_close(out.terms, {"soft": soft, "hard": hard})
    torch.testing.assert_close(out.loss, soft + hard)


def test_what_trains_is_the_students_and_the_objectives_never_the_teachers():
    teacher, student, objective = WithFeatures(width=12), WithFeatures(), Hints()
    distiller = Distiller(teacher, student, objective)
    expected = {*student.parameters(), *objective.parameters()}
    assert set(distiller.parameters()) == expected
    assert {name.partition(".")[0] for name, _ in distiller.named_parameters()} == {"student", "objective"}
    assert teacher not in set(distiller.modules())
    distiller(INPUTS).loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_training_changes_the_student_and_leaves_the_teacher_bitwise_the_same():
    teacher, student = network(0), network(1)
    distiller = Distiller(teacher, student, OBJECTIVE)
    before, student_before = snapshot(teacher), snapshot(student)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    losses = []
    for _ in range(20):
        distiller.train()
        teacher.train()
        assert student.training
        loss = distiller(INPUTS, TARGETS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert snapshot(teacher) == before
    assert snapshot(student)["bytes"] != student_before["bytes"]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_train_never_wakes_the_teacher_and_eval_reaches_the_student():
    teacher, student = network(0).train(), network(1)
    distiller = Distiller(teacher, student, OBJECTIVE)
    assert not any(part.training for part in teacher.modules())
    distiller.train()
    assert not any(part.training for part in teacher.modules())
    assert all(part.training for part in student.modules())
    teacher.train()
    expected = copy.deepcopy(teacher).eval()(INPUTS)
    alone = Distiller(teacher, student.eval(), HintonKD(temperature=1.0, soft_weight=1.0))
    torch.testing.assert_close(
        alone(INPUTS).loss, mean(soft_target_loss(student(INPUTS), expected, temperature=1.0)), rtol=0, atol=0
    )
    distiller.eval()
    assert not any(part.training for part in student.modules())


def test_the_state_dict_holds_no_teacher_and_loads_strictly_beside_another():
    student = network(1)
    state = Distiller(network(0), student, OBJECTIVE).state_dict()
    assert set(state) == {f"student.{name}" for name in student.state_dict()}
    teacher = network(3)
    before = snapshot(teacher.eval())
    other = Distiller(teacher, network(2), OBJECTIVE)
    other.load_state_dict(state, strict=True)
    torch.testing.assert_close(dict(other.student.state_dict()), dict(student.state_dict()))
    assert snapshot(teacher) == before


def test_it_moves_and_converts_the_teacher_along():
    teachers = [network(0), network(2)]
    distiller = Distiller(teachers, network(1), OBJECTIVE)
    assert distiller.double() is distiller
    assert {value.dtype for teacher in teachers for value in teacher.parameters()} == {torch.float64}
    assert distiller(INPUTS.double(), TARGETS).loss.dtype == torch.float64
    distiller.to(torch.bfloat16)
    assert {value.dtype for teacher in teachers for value in teacher.parameters()} == {torch.bfloat16}
    distiller.to("meta")
    assert {value.device.type for teacher in teachers for value in teacher.state_dict().values()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_moves_the_teacher_to_a_gpu():
    distiller = Distiller(network(0), network(1), OBJECTIVE).cuda()
    distiller(INPUTS.cuda(), TARGETS.cuda()).loss.backward()
    assert {parameter.grad.device.type for parameter in distiller.parameters()} == {"cuda"}


def test_zero_grad_and_requires_grad_pass_the_teacher_by():
    teacher = network(0)
    teacher[0].weight.grad = torch.ones_like(teacher[0].weight)
    distiller = Distiller(teacher, network(1), OBJECTIVE)
    distiller.zero_grad()
    distiller.requires_grad_(False)
    assert teacher[0].weight.grad is not None
    assert teacher[0].weight.requires_grad


def test_a_copy_has_teacher_and_student_of_its_own():
    distiller = Distiller(network(0), network(1), OBJECTIVE).eval()
    twin = copy.deepcopy(distiller)
    before = snapshot(distiller), snapshot(distiller.teacher.modules[0])
    assert torch.equal(twin(INPUTS, TARGETS).loss, distiller(INPUTS, TARGETS).loss)
    twin.double()
    assert (snapshot(distiller), snapshot(distiller.teacher.modules[0])) == before
    assert twin.teacher.modules[0][0].weight.dtype == torch.float64


def test_an_ensemble_is_averaged_at_the_objectives_temperature():
    members, student = [network(seed).eval() for seed in (2, 3, 4)], network(1).eval()
    out = Distiller(members, student, HintonKD(temperature=5.0, soft_weight=1.0))(INPUTS)
    softened = sum(torch.softmax(member(INPUTS) / 5, -1) for member in members) / 3
    divergence = nn.functional.kl_div(
        torch.log_softmax(student(INPUTS) / 5, -1), softened, reduction="batchmean"
    )
    torch.testing.assert_close(out.loss, 25 * divergence)


def test_an_objective_without_a_temperature_takes_an_ensemble_at_1():
    class Logits(nn.Module):
        def forward(self, student, teacher, batch):
            return {"seen": teacher.logits.softmax(-1).sum() * 0 + teacher.logits.softmax(-1)[0, 0]}

    members = [network(seed).eval() for seed in (2, 3)]
    expected = sum(member(INPUTS).softmax(-1)[0, 0] for member in members) / 2
    torch.testing.assert_close(Distiller(members, network(1), Logits())(INPUTS).loss, expected.detach())


def test_no_teacher_is_needed_where_the_objective_needs_none():
    student = network(1).eval()
    out = Distiller(None, student, Supervised())(INPUTS, TARGETS)
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(student(INPUTS), TARGETS))
    assert Distiller(None, student, Supervised()).double().student is student


def test_features_reach_the_objective_and_the_caller():
    out = Distiller(WithFeatures(width=12), WithFeatures(), Hints())(INPUTS)
    assert set(out.terms) == {"hint"}
    assert out.features["hidden"].shape == (16, 8)


def test_inputs_by_name_masks_and_outputs_with_logits_work_as_hugging_faces_do():
    teacher, student = LanguageModel(), LanguageModel()
    inputs = {
        "input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    }
    targets = torch.tensor([[2, 3, -100], [5, -100, -100]])
    out = Distiller(teacher, student, OBJECTIVE)(inputs, targets, targets != -100)
    assert out.logits.shape == (2, 3, 7)
    values = soft_target_loss(student(**inputs).logits, teacher(**inputs).logits, temperature=4.0)
    torch.testing.assert_close(out.terms["soft"], 0.9 * masked_mean(values, targets != -100))


@pytest.mark.parametrize(
    "make", [lambda teacher: teacher, lambda teacher: nn.Sequential(teacher)], ids=["same", "inside"]
)
def test_a_network_is_never_its_own_teacher(make):
    teacher = network(0)
    with pytest.raises(ValueError, match=r"^student: got .*teacher"):
        Distiller(teacher, make(teacher), OBJECTIVE)
    with pytest.raises(ValueError, match=r"^student: got .*teacher"):
        Distiller([network(1), teacher], make(teacher), OBJECTIVE)


def test_an_objective_may_not_hold_the_teacher():
    class Holder(nn.Module):
        def __init__(self, teacher: nn.Module) -> None:
            super().__init__()
            self.teacher = teacher

    teacher = network(0)
    with pytest.raises(ValueError, match=r"^objective: got a submodule 'teacher' that the teacher holds too"):
        Distiller(teacher, network(1), Holder(teacher))


def test_at_a_student_that_equals_the_teacher_nothing_pulls():
    teacher = network(0).eval()
    distiller = Distiller(teacher, copy.deepcopy(teacher), HintonKD(temperature=4.0, soft_weight=1.0)).eval()
    out = distiller(INPUTS)
    out.loss.backward()
    assert out.loss.abs() < 1e-5
    assert max(parameter.grad.abs().max() for parameter in distiller.parameters()) < 1e-5
