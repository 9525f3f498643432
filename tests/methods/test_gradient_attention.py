"""Attention as the gradient by the input: the paper's sums, differentiated twice."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from small_networks import snapshot
from terms_and_gradients import total
from torch import Tensor, nn

from kdrepro.methods.gradient_attention import (
    gradient_attention_transfer,
    gradient_symmetry,
    loss_and_input_gradient,
)
from kdrepro.types import Batch


def convnet(seed: int, *activations: nn.Module) -> nn.Module:
    torch.manual_seed(seed)
    first, second = activations
    layers = nn.Conv2d(2, 3, 3), first, nn.Conv2d(3, 4, 2, stride=2), second, nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).double().eval()


def images(samples: int = 4) -> Batch:
    random = torch.Generator().manual_seed(3)
    inputs = torch.randn(samples, 2, 6, 6, generator=random, dtype=torch.float64)
    return Batch(inputs, torch.randint(3, (samples,), generator=random))


def test_the_gradient_of_a_linear_net_is_its_closed_form_and_no_weight_gets_one():
    # ∂CE/∂x = Wᵀ (softmax(Wx) − onehot).
    net = nn.Linear(5, 3).double()
    inputs, targets = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    losses, slopes = loss_and_input_gradient(net, inputs, targets)
    scores = net(inputs)
    expected = (scores.softmax(1) - nn.functional.one_hot(targets, 3)) @ net.weight
    torch.testing.assert_close(slopes, expected.detach())
    torch.testing.assert_close(
        losses, nn.functional.cross_entropy(scores, targets, reduction="none").detach()
    )
    assert not slopes.requires_grad
    assert not losses.requires_grad
    assert net.weight.grad is None
    assert not inputs.requires_grad


def test_the_gradient_of_each_sample_is_its_own_and_no_grad_around_it_does_not_matter():
    net, batch = convnet(0, nn.Tanh(), nn.Tanh()), images()
    with torch.no_grad():
        _, together = loss_and_input_gradient(net, batch.inputs, batch.targets)
    for row in range(4):
        alone = loss_and_input_gradient(net, batch.inputs[[row]], batch.targets[[row]])[1]
        torch.testing.assert_close(alone, together[[row]])


def test_both_gradient_losses_are_the_papers_sums():
    student, teacher, batch = convnet(0, nn.ReLU(), nn.ReLU()), convnet(1, nn.ReLU(), nn.ReLU()), images()

    def slope(net: nn.Module, image: Tensor, target: Tensor) -> Tensor:
        image = image.clone().requires_grad_()
        loss = nn.functional.cross_entropy(net(image[None]), target[None])
        return torch.autograd.grad(loss, image)[0]

    beta, taught, mirrored, hard = 3.0, [], [], []
    for image, target in zip(batch.inputs, batch.targets, strict=True):
        own = slope(student, image, target)
        taught.append(np.linalg.norm((own - slope(teacher, image, target)).numpy()))
        mirrored.append(np.linalg.norm((own - slope(student, image.flip(2), target).flip(2)).numpy()))
        hard.append(nn.functional.cross_entropy(student(image[None]), target[None]).item())
    terms = gradient_attention_transfer(student, teacher, batch, gradient_weight=beta / 2)
    assert terms["gradient"].item() == pytest.approx(beta / 2 * np.mean(taught))
    assert terms["hard"].item() == pytest.approx(np.mean(hard))
    terms = gradient_symmetry(student, batch, gradient_weight=beta / 2)
    assert terms["gradient"].item() == pytest.approx(beta / 2 * np.mean(mirrored))
    assert terms["hard"].item() == pytest.approx(np.mean(hard))


def losses_by_gradient(teacher: nn.Module, batch: Batch) -> dict[str, Callable[[nn.Module], Tensor]]:
    return {
        "teacher": lambda student: total(
            gradient_attention_transfer(student, teacher, batch, gradient_weight=5.0)
        ),
        "symmetry": lambda student: total(gradient_symmetry(student, batch, gradient_weight=5.0)),
    }


@pytest.mark.parametrize("kind", ["teacher", "symmetry"])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_double_backpropagation_gives_the_gradient_of_finite_differences_for_every_weight(kind, activation):
    student = convnet(0, activation(), activation())
    loss = losses_by_gradient(convnet(1, nn.Tanh(), nn.Tanh()), images())[kind]
    loss(student).backward()
    step = 1e-6
    for name, parameter in student.named_parameters():
        expected = torch.zeros_like(parameter)
        for place in range(parameter.numel()):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[place] += sign * step
                sides.append(loss(student).item())
                with torch.no_grad():
                    parameter.view(-1)[place] -= sign * step
            expected.view(-1)[place] = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_student_that_is_the_teacher_is_pushed_by_the_labels_alone():
    teacher, batch = convnet(0, nn.Tanh(), nn.Tanh()), images()
    student = copy.deepcopy(teacher)
    terms = gradient_attention_transfer(student, teacher, batch, gradient_weight=5.0)
    assert terms["gradient"].item() == 0
    parameters = list(student.parameters())
    slopes = torch.autograd.grad(terms["gradient"], parameters, retain_graph=True, allow_unused=True)
    assert all(slope is None or slope.abs().max() == 0 for slope in slopes)


def test_training_on_gradients_brings_them_nearer_and_leaves_the_teacher():
    student, teacher, batch = convnet(0, nn.Tanh(), nn.Tanh()), convnet(1, nn.Tanh(), nn.Tanh()), images(16)
    before = snapshot(teacher)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    distances = []
    for _ in range(60):
        terms = gradient_attention_transfer(student, teacher, batch, gradient_weight=5.0)
        optimizer.zero_grad()
        total(terms).backward()
        optimizer.step()
        distances.append(terms["gradient"].item())
    assert distances[-1] < 0.6 * distances[0]
    after = snapshot(teacher)
    assert after["bytes"] == before["bytes"]
    assert after["gradients"] == before["gradients"]


def test_gradients_leave_out_samples_that_do_not_count():
    student, teacher, batch = convnet(0, nn.Tanh(), nn.Tanh()), convnet(1, nn.Tanh(), nn.Tanh()), images(6)
    mask = torch.tensor([True, False, True, True, False, True])
    masked = Batch(batch.inputs, batch.targets.masked_fill(~mask, -100), mask)
    counted = Batch(batch.inputs[mask], batch.targets[mask])
    for few, all_of_them in (
        (
            gradient_attention_transfer(student, teacher, counted, gradient_weight=1.0),
            gradient_attention_transfer(student, teacher, masked, gradient_weight=1.0),
        ),
        (
            gradient_symmetry(student, counted, gradient_weight=1.0),
            gradient_symmetry(student, masked, gradient_weight=1.0),
        ),
    ):
        for name, value in few.items():
            torch.testing.assert_close(all_of_them[name], value)


def test_malformed_calls_for_gradients_are_refused():
    student, teacher, batch = convnet(0, nn.Tanh(), nn.Tanh()), convnet(1, nn.Tanh(), nn.Tanh()), images()
    with pytest.raises(ValueError, match="gradient_weight: got 0, expected a finite number above 0"):
        gradient_attention_transfer(student, teacher, batch, gradient_weight=0)
    with pytest.raises(ValueError, match="gradient_weight: got -1, expected a finite number above 0"):
        gradient_symmetry(student, batch, gradient_weight=-1)
    with pytest.raises(TypeError, match=r"^inputs: got torch\.uint8, expected a floating-point tensor"):
        loss_and_input_gradient(student, batch.inputs.byte(), batch.targets)
    teacher[3].train()
    with pytest.raises(ValueError, match=r"^teacher: got a net in train mode, expected eval mode"):
        gradient_attention_transfer(student, teacher, batch, gradient_weight=1.0)


@pytest.mark.parametrize(
    ("mask", "error"), [([True] * 4, TypeError), (torch.ones(4), TypeError), (torch.ones(3) > 0, ValueError)]
)
def test_a_mask_that_does_not_fit_is_named(mask, error):
    batch = images()
    with pytest.raises(error, match="mask: got"):
        gradient_symmetry(
            convnet(0, nn.Tanh(), nn.Tanh()), Batch(batch.inputs, batch.targets, mask), gradient_weight=1.0
        )


def test_a_sample_that_does_not_count_may_be_no_number():
    student, teacher, batch = convnet(0, nn.Tanh(), nn.Tanh()), convnet(1, nn.Tanh(), nn.Tanh()), images(4)
    inputs = batch.inputs.clone()
    inputs[1] = torch.nan
    masked = Batch(inputs, batch.targets, torch.tensor([True, False, True, True]))
    for terms in (
        gradient_attention_transfer(student, teacher, masked, gradient_weight=1.0),
        gradient_symmetry(student, masked, gradient_weight=1.0),
    ):
        student.zero_grad()
        total(terms).backward()
        assert all(parameter.grad.isfinite().all() for parameter in student.parameters())
