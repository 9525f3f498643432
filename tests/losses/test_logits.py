"""The losses between logits, against independent oracles and the properties that kill the known mistakes."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from drawn_logits import bounded, logit_pairs, random_pair
from hypothesis import given
from hypothesis import strategies as st
from terms_and_gradients import gradient
from torch import Tensor

from kdrepro.losses.logits import forward_kl, hard_target_loss, jensen_shannon, reverse_kl, soft_target_loss

BETWEEN = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "jensen_shannon_0.1": partial(jensen_shannon, teacher_weight=0.1),
    "soft_target_loss": partial(soft_target_loss, temperature=1.0),
}
every_loss = pytest.mark.parametrize("loss", BETWEEN.values(), ids=BETWEEN.keys())
temperatures = st.floats(0.25, 20)


# Oracles: scipy on one row at a time, written from the definitions.


def naive(of_row, student: Tensor, teacher: Tensor, temperature: float) -> np.ndarray:
    rows = zip(
        student.reshape(-1, student.shape[-1]).numpy(),
        teacher.reshape(-1, teacher.shape[-1]).numpy(),
        strict=True,
    )
    values = [
        of_row(scipy.special.softmax(q / temperature), scipy.special.softmax(p / temperature))
        for q, p in rows
    ]
    return np.array(values).reshape(student.shape[:-1])


def generalised_jensen_shannon(q: np.ndarray, p: np.ndarray, weight: float) -> float:
    mixture = weight * p + (1 - weight) * q
    return weight * scipy.stats.entropy(p, mixture) + (1 - weight) * scipy.stats.entropy(q, mixture)


@bounded
@given(logit_pairs(), temperatures)
def test_each_loss_is_its_definition(pair, temperature):
    student, teacher = pair
    cases = {
        forward_kl: lambda q, p: scipy.special.rel_entr(p, q).sum(),
        reverse_kl: lambda q, p: scipy.special.rel_entr(q, p).sum(),
        jensen_shannon: lambda q, p: generalised_jensen_shannon(q, p, 0.5),
        soft_target_loss: lambda q, p: temperature**2 * scipy.stats.entropy(p, q),
        partial(jensen_shannon, teacher_weight=0.2): lambda q, p: generalised_jensen_shannon(q, p, 0.2),
    }
    for loss, definition in cases.items():
        ours = loss(student, teacher, temperature=temperature)
        assert ours.shape == student.shape[:-1]
        np.testing.assert_allclose(
            ours.numpy(), naive(definition, student, teacher, temperature), rtol=1e-7, atol=1e-9
        )


def test_forward_kl_is_torchs_kl_div_with_batchmean():
    student, teacher = random_pair(16, 7)
    theirs = torch.nn.functional.kl_div(
        torch.log_softmax(student / 3, -1),
        torch.log_softmax(teacher / 3, -1),
        reduction="batchmean",
        log_target=True,
    )
    torch.testing.assert_close(forward_kl(student, teacher, temperature=3.0).mean(), theirs)


def test_the_weight_of_jensen_shannon_is_the_teachers():
    # The teacher is certain, the student is not: swapped weights give another number.
    student, teacher = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[200.0, 0.0]]).double()
    expected = 0.9 * math.log(1 / 0.95) + 0.1 * (0.5 * math.log(0.5 / 0.95) + 0.5 * math.log(0.5 / 0.05))
    assert jensen_shannon(student, teacher, teacher_weight=0.9).item() == pytest.approx(expected)


# Properties.


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_loss_and_gradient_are_zero_at_the_teacher(loss, dtype):
    teacher, _ = random_pair(32, 10, dtype=dtype)
    student = teacher.clone().requires_grad_()
    values = loss(student, teacher)
    narrow = dtype != torch.float64
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-6 if narrow else 1e-14)
    assert gradient(values.sum(), student).abs().max() <= (2e-6 if narrow else 1e-14)


@every_loss
@bounded
@given(
    pair=logit_pairs(), shifts=st.tuples(st.floats(-100, 100), st.floats(-100, 100)), temperature=temperatures
)
def test_shifting_all_logits_changes_nothing(loss, pair, shifts, temperature):
    student, teacher = pair
    moved = loss(student + shifts[0], teacher + shifts[1], temperature=temperature)
    torch.testing.assert_close(moved, loss(student, teacher, temperature=temperature), rtol=1e-8, atol=1e-8)


@bounded
@given(logit_pairs(), temperatures)
def test_the_gradient_is_temperature_times_the_difference_of_the_softened_classes(pair, temperature):
    student, teacher = pair
    student.requires_grad_()
    softened = torch.softmax(student / temperature, -1) - torch.softmax(teacher / temperature, -1)
    values = soft_target_loss(student, teacher, temperature=temperature)
    torch.testing.assert_close(gradient(values.sum(), student), temperature * softened, rtol=1e-9, atol=1e-11)


def test_the_gradient_of_the_mean_carries_one_over_the_batch():
    student, teacher = random_pair(8, 5)
    student.requires_grad_()
    softened = torch.softmax(student / 4, -1) - torch.softmax(teacher / 4, -1)
    mean = soft_target_loss(student, teacher, temperature=4.0).mean()
    torch.testing.assert_close(gradient(mean, student), 4 * softened / 8)


def test_at_high_temperature_it_is_half_the_squared_distance_of_centred_logits_over_the_classes():
    student, teacher = random_pair(16, 10)
    student.requires_grad_()
    apart = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = 0.5 * apart.square().sum(-1) / 10
    values = soft_target_loss(student, teacher, temperature=1e4)
    torch.testing.assert_close(values, limit, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(gradient(values.sum(), student), apart / 10, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_certain_teacher_gives_the_gradient_of_cross_entropy(dtype):
    student, _ = random_pair(16, 10, dtype=dtype)
    student.requires_grad_()
    targets = torch.arange(16) % 10
    certain = torch.nn.functional.one_hot(targets, 10).to(dtype) * 1000
    values = soft_target_loss(student, certain, temperature=1.0)
    torch.testing.assert_close(values, hard_target_loss(student, targets))
    torch.testing.assert_close(
        gradient(values.mean(), student),
        gradient(torch.nn.functional.cross_entropy(student, targets), student),
    )


@every_loss
def test_a_value_depends_on_its_own_row_only(loss):
    student, teacher = random_pair(12, 6)
    together = loss(student, teacher)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(student[order], teacher[order]), together[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(student[:5], teacher[:5]), together[:5], rtol=1e-12, atol=1e-12)
    by_two = loss(student.reshape(3, 4, 6), teacher.reshape(3, 4, 6))
    torch.testing.assert_close(by_two, together.reshape(3, 4), rtol=1e-12, atol=1e-12)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_class_padded_with_minus_infinity_changes_nothing(loss, dtype):
    student, teacher = random_pair(12, 6, dtype=dtype)
    student.requires_grad_()
    values = loss(student, teacher)
    lowest = torch.full((12, 2), -math.inf, dtype=dtype)
    padded = torch.cat([student.detach(), lowest], -1).requires_grad_()
    with_padding = loss(padded, torch.cat([teacher, lowest], -1))
    torch.testing.assert_close(with_padding, values)
    expected = torch.cat([gradient(values.sum(), student), torch.zeros(12, 2, dtype=dtype)], -1)
    torch.testing.assert_close(gradient(with_padding.sum(), padded), expected)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [300.0, 1e4])
def test_huge_logits_give_finite_losses_and_gradients(loss, dtype, size):
    rows = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, -1], [-1, 1, 1], [0, 0, 0], [1, -1, 0.5]]) * size
    student = rows.repeat_interleave(len(rows), 0).to(dtype).requires_grad_()
    teacher = rows.repeat(len(rows), 1).to(dtype)
    for temperature in (1.0, 2.0):
        values = loss(student, teacher, temperature=temperature)
        assert values.isfinite().all()
        assert gradient(values.sum(), student).isfinite().all()


@every_loss
@bounded
@given(pair=logit_pairs(), temperature=temperatures)
def test_no_divergence_is_negative(loss, pair, temperature):
    assert loss(*pair, temperature=temperature).min() >= -1e-10


@bounded
@given(logit_pairs(), temperatures)
def test_jensen_shannon_is_symmetric_at_one_half_and_at_most_log_two(pair, temperature):
    student, teacher = pair
    values = jensen_shannon(student, teacher, temperature=temperature)
    torch.testing.assert_close(
        values, jensen_shannon(teacher, student, temperature=temperature), rtol=1e-8, atol=1e-12
    )
    assert values.max() <= math.log(2) + 1e-12


def test_jensen_shannon_reaches_log_two_where_nothing_overlaps():
    student, teacher = torch.tensor([[0.0, 1e4]]), torch.tensor([[1e4, 0.0]])
    torch.testing.assert_close(jensen_shannon(student, teacher), torch.tensor([math.log(2)]))


@pytest.mark.parametrize(("weight", "limit"), [(0, forward_kl), (1.0, reverse_kl)])
def test_at_either_end_of_its_weight_jensen_shannon_says_what_it_becomes(weight, limit):
    student, teacher = random_pair(4, 5)
    with pytest.raises(ValueError, match=rf"teacher_weight: got {weight}, .* is {limit.__name__}$"):
        jensen_shannon(student, teacher, teacher_weight=weight)
    near = jensen_shannon(student, teacher, teacher_weight=abs(weight - 1e-6))
    torch.testing.assert_close(near / 1e-6, limit(student, teacher), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("weight", "digits"), [(0.5, 1e-6), (1e-3, 1e-3), (1e-6, 0.5)])
def test_in_float32_jensen_shannon_loses_digits_with_its_weight_as_it_says(weight, digits):
    student, teacher = random_pair(50, 20)
    exact = jensen_shannon(student, teacher, teacher_weight=weight)
    single = jensen_shannon(student.float(), teacher.float(), teacher_weight=weight).double()
    assert (single - exact).abs().max() < 5e-7
    assert (single - exact).norm() < digits * exact.norm()


@pytest.mark.parametrize("weight", [0.001, 0.3, 0.999])
def test_jensen_shannon_of_padded_classes_is_finite_at_any_weight(weight):
    student = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    values = jensen_shannon(student, torch.tensor([[2.0, 0.0, -math.inf]]), teacher_weight=weight)
    assert values.isfinite().all()
    assert gradient(values.sum(), student).isfinite().all()


def test_the_two_directions_swap_with_their_arguments_and_differ():
    student, teacher = random_pair(4, 5)
    torch.testing.assert_close(forward_kl(student, teacher), reverse_kl(teacher, student))
    assert (forward_kl(student, teacher) - reverse_kl(student, teacher)).abs().min() > 1e-3


@every_loss
def test_the_teacher_gets_no_gradient_and_the_student_does(loss):
    student, teacher = random_pair(4, 5)
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().min() > 0


@every_loss
def test_the_gradient_is_that_of_finite_differences(loss):
    student, teacher = random_pair(3, 4)
    assert torch.autograd.gradcheck(
        lambda logits: loss(logits, teacher, temperature=2.0), student.requires_grad_()
    )


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(loss, dtype):
    student, teacher = random_pair(16, 10, dtype=dtype)
    values = loss(student, teacher)
    assert values.dtype == torch.float32
    torch.testing.assert_close(
        values.double(), loss(student.double(), teacher.double()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_the_squared_temperature_is_in_the_soft_target_loss_alone(factor):
    student, teacher = random_pair(4, 5)
    bare = forward_kl(student, teacher, temperature=factor)
    torch.testing.assert_close(soft_target_loss(student, teacher, temperature=factor), factor**2 * bare)
