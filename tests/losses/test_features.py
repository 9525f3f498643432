"""The loss of hints, against loops and the properties of half a squared distance."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from kdrepro.losses.features import hint_loss

bounded = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def feature_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5))
    values = arrays.arrays(np.float64, shape, elements=st.floats(-100, 100, width=32))
    return torch.from_numpy(draw(values)), torch.from_numpy(draw(values))


def random_pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    student = torch.randn(shape, generator=random, dtype=torch.float64)
    return student.to(dtype), torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)


@bounded
@given(feature_pairs())
def test_it_is_half_the_squared_distance_of_each_sample(pair):
    student, teacher = pair
    expected = []
    for ours, theirs in zip(student.numpy(), teacher.numpy(), strict=True):
        total = 0.0
        for r, u in zip(ours.ravel(), theirs.ravel(), strict=True):
            total += (u - r) ** 2
        expected.append(0.5 * total)
    values = hint_loss(student, teacher)
    assert values.shape == student.shape[:1]
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_the_difference_and_the_teacher_gets_none():
    student, teacher = random_pair(3, 4, 5, 5)
    student.requires_grad_()
    teacher.requires_grad_()
    hint_loss(student, teacher).sum().backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach())
    assert teacher.grad is None


def test_it_is_zero_with_zero_gradient_at_the_hint():
    student, _ = random_pair(3, 4, 5, 5)
    student.requires_grad_()
    values = hint_loss(student, student.detach().clone())
    values.sum().backward()
    assert values.tolist() == [0.0, 0.0, 0.0]
    assert student.grad.abs().max() == 0


def test_it_sums_so_that_a_feature_twice_as_large_weighs_twice():
    student, teacher = random_pair(3, 4, 5, 5)
    twice = hint_loss(torch.cat([student, student], 1), torch.cat([teacher, teacher], 1))
    torch.testing.assert_close(twice, 2 * hint_loss(student, teacher))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = random_pair(4, 32, 8, 8, dtype=dtype)
    values = hint_loss(student, teacher)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), hint_loss(student.double(), teacher.double()))


def test_the_layout_in_memory_does_not_matter():
    student, teacher = random_pair(3, 4, 5, 6)
    last = student.to(memory_format=torch.channels_last)
    torch.testing.assert_close(hint_loss(last, teacher), hint_loss(student, teacher))
