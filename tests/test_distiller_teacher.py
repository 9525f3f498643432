"""What a Distiller's teacher is given of its own, what it said before, and how the caller gets it."""

import pytest
import torch
from small_networks import WithFeatures, batch, network
from small_objectives import OBJECTIVE, Hints
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from kdrepro import Batches, Distilled, Distiller, HintonKD, Outputs, Supervised, cache_teacher
from kdrepro.teacher import FrozenTeacher

INPUTS, TARGETS = batch()


def test_the_caller_gets_what_the_teacher_said():
    teacher = network(0)
    out = Distiller(teacher, network(1), OBJECTIVE)(INPUTS, TARGETS)
    assert torch.equal(out.teacher.logits, FrozenTeacher(teacher)(INPUTS).logits)
    assert not out.teacher.logits.requires_grad
    assert Distiller(None, network(1), Supervised())(INPUTS, TARGETS).teacher is None


def test_a_walk_through_it_finds_the_teachers_outputs():
    out = Distiller(WithFeatures(width=12), WithFeatures(), Hints())(INPUTS)
    leaves, spec = tree_flatten(out)
    assert any(each is out.teacher.features["hidden"] for each in leaves)
    again = tree_unflatten(leaves, spec)
    assert isinstance(again, Distilled)
    assert again.teacher.logits is out.teacher.logits


def test_a_teacher_may_see_another_view():
    teacher, student = network(0, inputs=6), network(1).eval()
    view = torch.randn(16, 6)
    out = Distiller(teacher, student, OBJECTIVE)(INPUTS, TARGETS, teacher_inputs=view)
    assert torch.equal(out.teacher.logits, FrozenTeacher(teacher)(view).logits)
    assert torch.equal(out.logits, student(INPUTS))


def test_what_a_teacher_said_stands_for_it():
    class Silent(nn.Module):
        def forward(self, inputs):
            raise AssertionError("asked")

    teacher, student = network(0), network(1).eval()
    said = teacher.eval()(INPUTS)
    assert said.requires_grad
    expected = Distiller(teacher, student, OBJECTIVE)(INPUTS, TARGETS)
    for other, given in ((None, said), (Silent(), said), (None, Outputs(said))):
        out = Distiller(other, student, OBJECTIVE)(INPUTS, TARGETS, teacher_outputs=given)
        assert torch.equal(out.loss, expected.loss)
        out.loss.backward()
        assert not out.teacher.logits.requires_grad
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_cached_outputs_with_features_are_looked_up_by_an_index():
    teacher, student, objective = WithFeatures(width=12), WithFeatures(), Hints()
    data = Batches(INPUTS, TARGETS, batch_size=4, seed=0)
    cached = cache_teacher(teacher, data, device="cpu", precision="fp32")
    index = torch.tensor([3, 0, 15])
    expected = Distiller(teacher, student, objective)(INPUTS[index], TARGETS[index])
    out = Distiller(None, student, objective)(
        INPUTS[index], TARGETS[index], teacher_outputs=cached.look_up(index)
    )
    torch.testing.assert_close(out.loss, expected.loss)
    with pytest.raises(TypeError, match=r"teacher: got CachedTeacher, .* teacher_outputs=cached.look_up\(in"):
        Distiller(cached, student, objective)


@pytest.mark.parametrize(
    ("index", "kind", "says"),
    [
        (torch.ones(16, dtype=torch.bool), TypeError, "index: got torch.bool, expected the examples' pos"),
        (torch.zeros(3), TypeError, "index: got torch.float32, expected the examples' positions"),
        (torch.tensor([[1]]), ValueError, r"index: got shape \(1, 1\), expected \(B,\)"),
        ([0, 1], TypeError, "index: got list, expected a tensor of the examples' positions, or a Batch"),
    ],
)
def test_an_index_that_is_none_is_refused(index, kind, says):
    data = Batches(INPUTS, TARGETS, batch_size=4, seed=0)
    cached = cache_teacher(network(0), data, device="cpu", precision="fp32")
    with pytest.raises(kind, match=says):
        cached.look_up(index)


@pytest.mark.parametrize(
    ("teacher", "given", "says"),
    [
        (
            network(0),
            {"teacher_inputs": INPUTS, "teacher_outputs": torch.zeros(16, 5)},
            "teacher_inputs: got them with teacher_outputs, expected one of the two",
        ),
        (None, {"teacher_inputs": INPUTS}, "teacher_inputs: got them without a teacher, expected a teacher"),
        (
            None,
            {"teacher_outputs": torch.zeros(3, 5)},
            r"teacher_logits: got shape \(3, 5\), expected the st",
        ),
    ],
)
def test_contradictions_are_refused(teacher, given, says):
    with pytest.raises(ValueError, match=says):
        Distiller(teacher, network(1), OBJECTIVE)(INPUTS, TARGETS, **given)


def test_an_ensembles_outputs_say_at_which_temperature_they_are():
    members = [network(0), network(1)]
    data = Batches(INPUTS, TARGETS, batch_size=4, seed=0)
    soft = HintonKD(temperature=4.0, soft_weight=1.0)
    student = network(2).eval()
    asked = Distiller(members, student, soft).eval()(INPUTS, TARGETS)
    assert asked.teacher.temperature == 4.0
    distiller = Distiller(None, student, soft)
    index = torch.arange(len(TARGETS))
    for temperature in (4.0, 1.0):
        cached = cache_teacher(members, data, temperature=temperature, device="cpu", precision="fp32")
        known = cached.look_up(index)
        if temperature == 4.0:
            out = distiller(INPUTS, TARGETS, teacher_outputs=known)
            torch.testing.assert_close(out.loss, asked.loss)
            assert out.teacher.temperature == 4.0
            continue
        with pytest.raises(
            ValueError, match="teacher_outputs: got an ensemble's at temperature 1, expected 4"
        ):
            distiller(INPUTS, TARGETS, teacher_outputs=known)
    one = cache_teacher(members[0], data, device="cpu", precision="fp32").look_up(index)
    assert one.temperature is None
    distiller(INPUTS, TARGETS, teacher_outputs=one)


def test_another_teacher_takes_another_distiller():
    distiller = Distiller(network(0), network(1), OBJECTIVE)
    with pytest.raises(TypeError, match="teacher: got Sequential, expected a new Distiller"):
        distiller.teacher = network(2)
    assert not any("teacher" in name for name in distiller.state_dict())
    distiller.teacher = None
    assert Distiller(None, distiller.student, Supervised())(INPUTS, TARGETS).teacher is None


def test_outputs_that_are_none_are_refused():
    with pytest.raises(TypeError, match="teacher_outputs: got list, expected a tensor of logits or kdrepro"):
        Distiller(None, network(1), OBJECTIVE)(INPUTS, TARGETS, teacher_outputs=[1.0])
