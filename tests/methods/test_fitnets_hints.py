"""FitNets' hints, which are stage 1, and the regressor that brings one map to the size of the other."""

import numpy as np
import pytest
import torch
from fitnet_objectives import case, gradients, hints
from terms_and_gradients import total
from torch import nn

from kdrepro.methods.fitnets import HintStage, JointFitNet, regressor
from kdrepro.methods.supervised import Supervised
from kdrepro.models.maxout import Maxout
from kdrepro.types import Batch, Outputs

# The regressor.


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize(
    ("student_shape", "teacher_shape", "kernel"),
    [
        ((16, 4, 4), (48, 4, 4), (1, 1)),
        ((16, 8, 8), (48, 7, 7), (2, 2)),
        ((3, 16, 12), (5, 6, 12), (11, 1)),
        (torch.Size((3, 5, 5)), torch.Size((1, 1, 1)), (5, 5)),
    ],
)
def test_the_regressor_brings_one_map_to_the_size_of_the_other(student_shape, teacher_shape, kernel, pieces):
    activation = Maxout(pieces=pieces) if pieces > 1 else nn.ReLU()
    fitted = regressor(student_shape, teacher_shape, activation=activation, pieces=pieces)
    convolution = fitted[0]
    assert convolution.kernel_size == kernel
    assert convolution.padding == (0, 0)
    assert convolution.out_channels == pieces * teacher_shape[0]
    assert fitted(torch.zeros(2, *student_shape)).shape == (2, *teacher_shape)
    assert fitted[1] is activation


def test_without_a_non_linearity_it_is_the_convolution_alone():
    assert [type(layer) for layer in regressor((2, 3, 3), (4, 3, 3))] == [nn.Conv2d]


@pytest.mark.parametrize(
    ("student_shape", "teacher_shape", "says"),
    [
        ((16, 3, 4), (48, 4, 4), r"student_shape: got a map of \(3, 4\), expected none smaller .* \(4, 4\)"),
        ((16, 4), (48, 4, 4), r"got \(16, 4\) and \(48, 4, 4\), expected \(C, H, W\) each"),
        ((16, 4, 4), (2, 48, 4, 4), r"got .*, expected \(C, H, W\) each"),
    ],
)
def test_maps_that_no_regressor_fits_are_named(student_shape, teacher_shape, says):
    with pytest.raises(ValueError, match=says):
        regressor(student_shape, teacher_shape)


# Stage 1.


def test_stage_1_is_half_the_squared_distance_by_a_loop():
    student, teacher, batch = case()
    objective = hints()
    weight, bias = (
        objective.regressor[0].weight.detach().numpy(),
        objective.regressor[0].bias.detach().numpy(),
    )
    distances = []
    for guided, hint in zip(student.features["guided"], teacher.features["hint"], strict=True):
        values, sum_of_squares = guided.detach().numpy(), 0.0
        for channel in range(4):
            for y in range(4):
                for x in range(4):
                    window = values[:, y : y + 3, x : x + 2]
                    pieces = [(window * weight[c]).sum() + bias[c] for c in (channel, channel + 4)]
                    sum_of_squares += (hint[channel, y, x].item() - max(pieces)) ** 2
        distances.append(sum_of_squares / 2)
    terms = objective(student, teacher, batch)
    assert set(terms) == {"hint"}
    assert terms["hint"].item() == pytest.approx(np.mean(distances))


def test_the_gradient_of_stage_1_reaches_the_guided_feature_and_the_regressor_only():
    student, teacher, batch = case()
    objective = hints()
    loss = total(objective(student, teacher, batch))
    reached = gradients(loss, student.features["guided"], *objective.parameters())
    assert all(each is not None and each.any() for each in reached)
    assert gradients(loss, student.logits, teacher.logits, teacher.features["hint"]) == (None, None, None)


def test_stage_1_looks_at_no_labels():
    student, teacher, batch = case()
    assert hints()(student, teacher, Batch(batch.inputs, None)) == hints()(student, teacher, batch)


def test_stage_1_is_0_where_the_regressor_reaches_the_hint():
    student, _, batch = case()
    objective = hints()
    reached = Outputs(student.logits, {"hint": objective.guided(student).detach()})
    loss = total(objective(student, reached, batch))
    assert loss == 0
    assert not gradients(loss, student.features["guided"])[0].any()


def test_half_precision_features_are_compared_in_float32():
    student, teacher, batch = case()
    objective = hints().float()
    halved = Outputs(student.logits, {"guided": student.features["guided"].bfloat16()})
    term = objective(halved, teacher, batch)["hint"]
    assert term.dtype == torch.float64  # the teacher's
    wide = Outputs(student.logits, {"guided": student.features["guided"].bfloat16().float()})
    torch.testing.assert_close(term, objective(wide, teacher, batch)["hint"])


@pytest.mark.parametrize("ignored", [100.0, float("nan")])
def test_samples_that_do_not_count_leave_no_trace_in_a_hint(ignored):
    chance = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 3, 2, 2, generator=chance) for _ in range(2))
    student[3], teacher[3] = ignored, -ignored
    logits, targets = torch.randn(4, 5, generator=chance), torch.tensor([0, 1, 2, -100])
    mask = torch.tensor([True, True, True, False])
    regressor = nn.Conv2d(3, 3, 1)
    hints = HintStage(regressor, student_tap="s", teacher_tap="t")
    joint = JointFitNet(hints, Supervised(), hint_weight=2.0)
    for objective in (hints, joint):
        results = []
        for count, counted in ((4, mask), (3, None)):
            feature = student[:count].clone().requires_grad_()
            terms = objective(
                Outputs(logits[:count], {"s": feature}),
                Outputs(logits[:count], {"t": teacher[:count]}),
                Batch(logits[:count], targets[:count], counted),
            )
            found = torch.autograd.grad(sum(terms.values()), [feature, *regressor.parameters()])
            results.append((terms, found[0][:3], found[1:]))
            assert found[0][3:].count_nonzero() == 0
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_regressor_in_another_precision_takes_the_feature_in_its_own(dtype):
    hints = HintStage(regressor((3, 4, 4), (5, 2, 2)).to(dtype), student_tap="s", teacher_tap="t")
    student = Outputs(torch.zeros(2, 5), {"s": torch.randn(2, 3, 4, 4, dtype=torch.float64)})
    teacher = Outputs(torch.zeros(2, 5), {"t": torch.randn(2, 5, 2, 2)})
    (term,) = hints(student, teacher, Batch(torch.zeros(2), torch.tensor([0, 1]))).values()
    assert term.isfinite()
