"""The losses of attention, against loops and the authors' formula, and the properties that kill the known mistakes."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from kdrepro.losses.attention import (
    attention_map,
    attention_transfer_loss,
    gradient_attention_loss,
    gradient_symmetry_loss,
)

bounded = settings(max_examples=30, deadline=None, derandomize=True)
MAPS = list(product((1, 2, 3, 4, 1.5), ("sum", "max")))
every_map = pytest.mark.parametrize(("power", "pool"), MAPS)
both_forms = pytest.mark.parametrize("form", ["paper", "code"])
powers = st.sampled_from([1, 1.5, 2, 3, 4])
pools = st.sampled_from(["sum", "max"])


def random_pair(
    student: tuple[int, ...] = (4, 3, 5, 6),
    teacher: tuple[int, ...] = (4, 7, 5, 6),
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    first = torch.randn(student, generator=random, dtype=torch.float64)
    return first.to(dtype), torch.randn(teacher, generator=random, dtype=torch.float64).to(dtype)


@st.composite
def features(
    draw: st.DrawFn, samples: int = 2, height: int | None = None, width: int | None = None
) -> Tensor:
    sides = st.integers(1, 4)
    shape = (samples, draw(sides), height or draw(sides), width or draw(sides))
    # Zeros are common, and what is not 0 is far enough from it that the naive float64 loop does not underflow.
    sizes = st.one_of(st.just(0.0), st.floats(0.01, 100), st.floats(-100, -0.01))
    return torch.from_numpy(draw(arrays.arrays(np.float64, shape, elements=sizes)))


@st.composite
def feature_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return draw(features(height=height, width=width)), draw(features(height=height, width=width))


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(loss, of)
    return result


# Oracles: one position at a time, in Python's own numbers.


def naive_energy(feature: np.ndarray, power: float, pool: str) -> list[list[float]]:
    channels, height, width = feature.shape
    reduce = sum if pool == "sum" else max
    return [
        [reduce([abs(float(feature[c, i, j])) ** power for c in range(channels)]) for j in range(width)]
        for i in range(height)
    ]


def naive_unit(energy: list[list[float]]) -> list[float]:
    flat = [value for row in energy for value in row]
    length = math.sqrt(sum(value**2 for value in flat))
    return [value / length for value in flat] if length else flat


def naive_map(feature: np.ndarray, power: float, pool: str) -> list[float]:
    return naive_unit(naive_energy(feature, power, pool))


def naive_loss(first: list[float], second: list[float], form: str) -> float:
    squares = [(a - b) ** 2 for a, b in zip(first, second, strict=True)]
    return math.sqrt(sum(squares)) if form == "paper" else sum(squares) / len(squares)


def naive_pooled(energy: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Adaptive average pooling by its definition: window i of n goes from floor(i·N/n) to ceil((i+1)·N/n)."""
    rows, columns = len(energy), len(energy[0])

    def window(place: int, count: int, whole: int) -> range:
        return range(place * whole // count, -((-(place + 1) * whole) // count))

    pooled = []
    for i in range(height):
        pooled.append([])
        for j in range(width):
            inside = [energy[a][b] for a in window(i, height, rows) for b in window(j, width, columns)]
            pooled[-1].append(sum(inside) / len(inside))
    return pooled


# The map.


@bounded
@given(features(), powers, pools)
def test_a_map_is_its_definition(feature, power, pool):
    ours = attention_map(feature, power=power, pool=pool)
    assert ours.shape == (len(feature), feature.shape[2] * feature.shape[3])
    for row, sample in zip(ours.numpy(), feature.numpy(), strict=True):
        np.testing.assert_allclose(row, naive_map(sample, power, pool), rtol=1e-9, atol=1e-12)


def test_the_default_is_the_authors_map():
    feature, _ = random_pair()
    theirs = torch.nn.functional.normalize(feature.pow(2).mean(1).flatten(1))
    torch.testing.assert_close(attention_map(feature), theirs)


@bounded
@given(features(), powers, pools)
def test_a_map_has_length_one_or_is_zero(feature, power, pool):
    lengths = attention_map(feature, power=power, pool=pool).norm(dim=1)
    expected = (feature != 0).flatten(1).any(dim=1).to(lengths.dtype)
    torch.testing.assert_close(lengths, expected)


@every_map
def test_a_map_is_blind_to_the_sign_of_every_activation(power, pool):
    feature, _ = random_pair()
    signs = torch.randint(2, feature.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    plain = attention_map(feature, power=power, pool=pool)
    assert torch.equal(attention_map(-feature, power=power, pool=pool), plain)
    torch.testing.assert_close(attention_map(signs * feature, power=power, pool=pool), plain)
    assert plain.min() >= 0


@every_map
@pytest.mark.parametrize("factor", [1e-15, 0.1, 3.0, 1e15])
def test_a_map_is_blind_to_scale_even_where_a_power_would_overflow(power, pool, factor):
    feature, _ = random_pair(dtype=torch.float32)
    plain = attention_map(feature, power=power, pool=pool)
    torch.testing.assert_close(attention_map(feature * factor, power=power, pool=pool), plain)
    by_sample = torch.tensor([factor, 1.0, -2.0, 0.5]).reshape(4, 1, 1, 1)
    torch.testing.assert_close(attention_map(feature * by_sample, power=power, pool=pool), plain)


@every_map
def test_a_map_is_blind_to_the_order_and_the_number_of_channels(power, pool):
    feature, _ = random_pair((4, 7, 5, 6))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    plain = attention_map(feature, power=power, pool=pool)
    torch.testing.assert_close(attention_map(feature[:, order], power=power, pool=pool), plain)
    torch.testing.assert_close(attention_map(feature.repeat(1, 3, 1, 1), power=power, pool=pool), plain)


@every_map
def test_a_map_follows_where_the_feature_goes(power, pool):
    feature, _ = random_pair()
    mirrored = attention_map(feature.flip(-1), power=power, pool=pool)
    plain = attention_map(feature, power=power, pool=pool).reshape(4, 5, 6)
    torch.testing.assert_close(mirrored.reshape(4, 5, 6), plain.flip(-1))


def test_a_higher_power_puts_more_of_the_map_where_the_activations_are_largest():
    feature, _ = random_pair()
    peaks = [attention_map(feature, power=power).amax(dim=1).min() for power in (1, 2, 4, 16)]
    assert peaks == sorted(peaks)
    assert peaks[0] < peaks[-1]


@every_map
def test_the_gradient_of_a_map_is_that_of_finite_differences(power, pool):
    feature, _ = random_pair((2, 3, 2, 2))
    assert torch.autograd.gradcheck(
        lambda given: attention_map(given, power=power, pool=pool), feature.requires_grad_()
    )


@every_map
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_feature_of_zeros_has_a_map_of_zeros_and_no_gradient(power, pool, dtype):
    feature = torch.zeros(2, 3, 4, 4, dtype=dtype)
    feature[1, 0, 2, 2] = 5.0
    feature.requires_grad_()
    ours = attention_map(feature, power=power, pool=pool)
    assert ours[0].abs().max() == 0
    assert ours[1].max() == 1
    slope = gradient((ours * torch.arange(16.0)).sum(), feature)
    assert slope.isfinite().all()
    assert slope[0].abs().max() == 0


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


def test_half_precision_may_be_too_narrow_for_the_square_of_an_activation():
    feature = torch.full((1, 2, 2, 2), 300.0, dtype=torch.float16)
    torch.testing.assert_close(attention_map(feature), torch.full((1, 4), 0.5))


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
        ((4, 4), (1, 1)),
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


# Gradients with respect to the input.


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
