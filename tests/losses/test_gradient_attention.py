"""The losses between gradients with respect to the input, against loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from naive_attention import bounded, feature_pairs, random_pair
from terms_and_gradients import gradient

from kdrepro.losses.attention import gradient_attention_loss, gradient_symmetry_loss


@bounded
@given(feature_pairs())
def test_the_gradient_loss_is_the_norm_of_the_difference(pair):
    student, teacher = pair
    first, second = student[:, :1], teacher[:, :1]
    expected = [
        math.sqrt(sum((a - b) ** 2 for a, b in zip(s.ravel(), t.ravel(), strict=True)))
        for s, t in zip(first.numpy(), second.numpy(), strict=True)
    ]
    np.testing.assert_allclose(
        gradient_attention_loss(first, second).numpy(), expected, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(
        gradient_symmetry_loss(first, second.flip(-1)).numpy(), expected, rtol=1e-9, atol=1e-12
    )


def test_only_the_student_learns_from_the_teachers_gradient_and_both_sides_from_the_mirrored_one():
    student, teacher = random_pair(teacher=(4, 3, 5, 6))
    student.requires_grad_()
    teacher.requires_grad_()
    gradient_attention_loss(student, teacher).sum().backward()
    assert teacher.grad is None
    torch.testing.assert_close(
        student.grad,
        ((student - teacher) / (student - teacher).flatten(1).norm(dim=1).reshape(4, 1, 1, 1)).detach(),
    )
    gradient_symmetry_loss(student, teacher).sum().backward()
    assert teacher.grad.abs().min() > 0


def test_equal_gradients_are_no_distance_and_push_nowhere():
    student, _ = random_pair()
    student.requires_grad_()
    for values in (
        gradient_attention_loss(student, student.detach().clone()),
        gradient_symmetry_loss(student, student.detach().flip(-1)),
    ):
        assert values.tolist() == [0.0] * 4
        assert gradient(values.sum(), student).abs().max() == 0


@pytest.mark.parametrize("loss", [gradient_attention_loss, gradient_symmetry_loss])
def test_gradients_in_half_precision_are_compared_in_float32(loss):
    student, teacher = random_pair(teacher=(4, 3, 5, 6), dtype=torch.bfloat16)
    values = loss(student, teacher)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), loss(student.double(), teacher.double()), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (gradient_attention_loss, ("student_input_gradient", "teacher_input_gradient")),
        (gradient_symmetry_loss, ("input_gradient", "mirrored_input_gradient")),
    ],
)
def test_gradients_that_do_not_belong_together_are_refused_by_name(loss, names):
    image = torch.zeros(2, 3, 4, 4)
    with pytest.raises(
        ValueError, match=rf"^{names[1]}: got shape \(2, 3, 4, 5\), expected \(2, 3, 4, 4\) like {names[0]}"
    ):
        loss(image, torch.zeros(2, 3, 4, 5))
    with pytest.raises(TypeError, match=rf"^{names[1]}: got NoneType, expected a tensor"):
        loss(image, None)
    with pytest.raises(TypeError, match=rf"^{names[0]}: got torch.int64, expected a floating-point tensor"):
        loss(image.long(), image)
