"""The loss of attention transfer, against loops, and the properties that kill the known mistakes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from naive_attention import (
    bounded,
    every_map,
    feature_pairs,
    naive_energy,
    naive_loss,
    naive_map,
    naive_pooled,
    naive_unit,
    pools,
    powers,
    random_pair,
)
from terms_and_gradients import gradient
from torch import Tensor

from kdrepro.losses.attention import attention_transfer_loss

both_forms = pytest.mark.parametrize("form", ["paper", "code"])


# The loss.


@bounded
@given(feature_pairs(), powers, pools, st.sampled_from(["paper", "code"]))
def test_the_loss_is_its_definition(pair, power, pool, form):
    student, teacher = pair
    ours = attention_transfer_loss(student, teacher, form=form, power=power, pool=pool)
    assert ours.shape == (len(student),)
    expected = [
        naive_loss(naive_map(s, power, pool), naive_map(t, power, pool), form)
        for s, t in zip(student.numpy(), teacher.numpy(), strict=True)
    ]
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-7, atol=1e-9)


def test_the_mean_of_the_code_form_is_the_authors_program():
    student, teacher = random_pair()

    def at(feature: Tensor) -> Tensor:
        return torch.nn.functional.normalize(feature.pow(2).mean(1).view(feature.size(0), -1))

    theirs = (at(student) - at(teacher)).pow(2).mean()
    torch.testing.assert_close(attention_transfer_loss(student, teacher).mean(), theirs)


@bounded
@given(feature_pairs(), powers, pools)
def test_the_code_form_is_the_square_of_the_papers_over_the_positions(pair, power, pool):
    student, teacher = pair
    paper = attention_transfer_loss(student, teacher, form="paper", power=power, pool=pool)
    code = attention_transfer_loss(student, teacher, form="code", power=power, pool=pool)
    torch.testing.assert_close(code, paper.square() / student[0, 0].numel(), rtol=1e-9, atol=1e-15)


def test_on_maps_of_8_by_8_at_a_distance_of_0_4_the_forms_are_160_times_apart_and_their_gradients_80():
    # Two unit vectors at the distance d enclose the angle 2 arcsin(d/2); power 1 makes the feature the map.
    angle = 2 * math.asin(0.2)
    teacher = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    teacher[0, 0, 0, 0] = 1
    student = torch.zeros_like(teacher)
    student[0, 0, 0, 0], student[0, 0, 3, 4] = math.cos(angle), math.sin(angle)
    student.requires_grad_()
    paper, code = (
        attention_transfer_loss(student, teacher, form=form, power=1) for form in ("paper", "code")
    )
    assert paper.item() == pytest.approx(0.4)
    assert (paper / code).item() == pytest.approx(160)
    slopes = [gradient(loss.sum(), student) for loss in (paper, code)]
    torch.testing.assert_close(slopes[0], 80 * slopes[1])


@both_forms
@every_map
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_loss_and_gradient_are_zero_at_the_teacher(form, power, pool, dtype):
    _, teacher = random_pair(dtype=dtype)
    student = teacher.clone().requires_grad_()
    values = attention_transfer_loss(student, teacher, form=form, power=power, pool=pool)
    assert values.tolist() == [0.0] * 4
    assert gradient(values.sum(), student).abs().max() == 0


@both_forms
def test_other_channels_and_another_scale_at_the_same_places_are_no_distance(form):
    teacher, _ = random_pair()
    student = torch.cat([teacher.flip(1), -teacher], dim=1) * 7
    values = attention_transfer_loss(student, teacher, form=form)
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-14)


@both_forms
@pytest.mark.parametrize("power", [1, 3])
def test_odd_powers_see_no_sign(form, power):
    _, teacher = random_pair()
    assert attention_transfer_loss(-teacher, teacher, form=form, power=power).abs().max() == 0


@both_forms
def test_near_the_teacher_the_gradient_stays_finite(form):
    _, teacher = random_pair(dtype=torch.float32)
    for nudge in (1e-3, 1e-6, 1e-8, 1e-20):
        student = (teacher + nudge * torch.ones_like(teacher)).requires_grad_()
        slope = gradient(attention_transfer_loss(student, teacher, form=form).sum(), student)
        assert slope.isfinite().all()
        assert slope.abs().max() < 10


@both_forms
@pytest.mark.parametrize("dead", ["student", "teacher", "both"])
def test_a_dead_layer_gives_no_nan(form, dead):
    student, teacher = random_pair(dtype=torch.float32)
    if dead != "teacher":
        student = torch.zeros_like(student)
    if dead != "student":
        teacher = torch.zeros_like(teacher)
    student.requires_grad_()
    values = attention_transfer_loss(student, teacher, form=form)
    # A map of zeros is at the distance 1 from any map, and at 0 from another one of zeros.
    distance = 0.0 if dead == "both" else 1.0
    expected = distance if form == "paper" else distance / 30
    torch.testing.assert_close(values, torch.full((4,), expected))
    assert gradient(values.sum(), student).isfinite().all()


@both_forms
def test_the_teacher_gets_no_gradient_and_the_student_does(form):
    student, teacher = random_pair()
    student.requires_grad_()
    teacher.requires_grad_()
    attention_transfer_loss(student, teacher, form=form).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().min() > 0


@both_forms
@every_map
def test_the_gradient_of_the_loss_is_that_of_finite_differences(form, power, pool):
    student, teacher = random_pair((2, 3, 3, 2), (2, 4, 2, 2))
    assert torch.autograd.gradcheck(
        lambda given: attention_transfer_loss(given, teacher, form=form, power=power, pool=pool),
        student.requires_grad_(),
    )


@both_forms
def test_a_value_depends_on_its_own_sample_only(form):
    student, teacher = random_pair()
    together = attention_transfer_loss(student, teacher, form=form)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = attention_transfer_loss(student[order], teacher[order], form=form)
    torch.testing.assert_close(shuffled, together[order])
    torch.testing.assert_close(attention_transfer_loss(student[:1], teacher[:1], form=form), together[:1])


@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(form, dtype):
    student, teacher = random_pair((8, 64, 8, 8), (8, 32, 8, 8), dtype=dtype)
    values = attention_transfer_loss(student, teacher, form=form)
    assert values.dtype == torch.float32
    wide = attention_transfer_loss(student.double(), teacher.double(), form=form)
    torch.testing.assert_close(values.double(), wide, rtol=1e-4, atol=1e-7)
    assert attention_transfer_loss(student, teacher.double(), form=form).dtype == torch.float64


def test_autocast_changes_nothing():
    student, teacher = random_pair(dtype=torch.bfloat16)
    plain = attention_transfer_loss(student, teacher, form="paper")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention_transfer_loss(student, teacher, form="paper"), plain)


@both_forms
def test_the_layout_in_memory_does_not_matter(form):
    student, teacher = random_pair()
    last = student.to(memory_format=torch.channels_last), teacher.to(memory_format=torch.channels_last)
    plain = attention_transfer_loss(student, teacher, form=form)
    torch.testing.assert_close(attention_transfer_loss(*last, form=form), plain)
    torch.testing.assert_close(attention_transfer_loss(last[0], teacher, form=form), plain)
    strided = student.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(attention_transfer_loss(strided, teacher, form=form), plain)


# Maps of different size.


@both_forms
@pytest.mark.parametrize(
    ("student_size", "teacher_size"),
    [
        ((8, 8), (4, 4)),
        ((4, 4), (8, 8)),
        ((5, 7), (3, 4)),
        ((6, 2), (3, 5)),
        ((4, 4), (1, 2)),
        ((3, 4), (3, 2)),
    ],
)
def test_the_map_of_the_larger_is_averaged_down_to_the_smaller_in_each_direction(
    form, student_size, teacher_size
):
    student, teacher = random_pair((3, 2, *student_size), (3, 5, *teacher_size))
    size = [min(sides) for sides in zip(student_size, teacher_size, strict=True)]
    for power, pool in ((2, "sum"), (1, "max")):
        expected = [
            naive_loss(
                naive_unit(naive_pooled(naive_energy(s, power, pool), *size)),
                naive_unit(naive_pooled(naive_energy(t, power, pool), *size)),
                form,
            )
            for s, t in zip(student.numpy(), teacher.numpy(), strict=True)
        ]
        ours = attention_transfer_loss(student, teacher, form=form, power=power, pool=pool)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9, atol=1e-12)


@both_forms
def test_a_map_written_twice_as_large_is_no_distance_from_itself(form):
    small, _ = random_pair()
    large = small.repeat_interleave(2, dim=2).repeat_interleave(3, dim=3)
    for pair in ((small, large), (large, small)):
        values = attention_transfer_loss(*pair, form=form)
        torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-14)


def test_it_is_the_map_that_is_averaged_so_activations_of_either_sign_do_not_cancel():
    # Averaging the feature would leave nothing of the left half.
    student = torch.tensor([[[[1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, 1.0]]]])
    teacher = torch.ones(1, 1, 1, 2)
    assert attention_transfer_loss(student, teacher, form="paper").item() == pytest.approx(0, abs=1e-7)
