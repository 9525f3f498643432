"""Losses and objectives in one graph of torch.compile, and over many examples at once with torch.vmap."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from kdrepro import (
    AttentionTransfer,
    FitNetKD,
    HintonKD,
    HintStage,
    Supervised,
    WordLevelKD,
    forward_kl,
    hard_target_loss,
    jensen_shannon,
    masked_mean,
    reverse_kl,
    soft_target_loss,
)
from kdrepro.methods.born_again import BornAgain, ConfidenceWeighted, LabelSmoothing
from kdrepro.tracing import at_hand
from kdrepro.types import Batch, Outputs

RANDOM = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (torch.randn(6, 5, generator=RANDOM) for _ in range(2))
TARGETS = torch.randint(5, (6,), generator=RANDOM)
MASK = torch.tensor([True, False, True, True, False, True])
OBJECTIVES = [
    HintonKD(temperature=4.0, soft_weight=0.5),
    FitNetKD(temperature=3.0, soft_weight=4.0, final_soft_weight=1.0, decay_epochs=3),
    WordLevelKD(),
    BornAgain(label_weight=1.0),
    ConfidenceWeighted(),
    LabelSmoothing(smoothing=0.1),
    Supervised(),
    AttentionTransfer(["map"], attention_weight=10.0, soft_weight=0.5),
    HintStage(torch.nn.Conv2d(3, 3, 1), student_tap="map", teacher_tap="map"),
]


@pytest.fixture(autouse=True)
def _anew():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def whole(function):
    return torch.compile(function, fullgraph=True, backend="eager")


def losses(student: Tensor, teacher: Tensor, targets: Tensor, mask: Tensor | None) -> Tensor:
    each = [
        hard_target_loss(student, targets),
        forward_kl(student, teacher),
        reverse_kl(student, teacher, temperature=2.0),
        jensen_shannon(student, teacher, teacher_weight=0.3),
        soft_target_loss(student, teacher, temperature=4.0),
    ]
    return torch.stack([masked_mean(values, mask) for values in each])


@pytest.mark.parametrize("mask", [MASK, None])
def test_losses_and_means_compile_to_one_graph(mask):
    expected = losses(STUDENT, TEACHER, TARGETS, mask)
    torch.testing.assert_close(whole(losses)(STUDENT, TEACHER, TARGETS, mask), expected)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: type(each).__name__)
def test_objectives_compile_to_one_graph_with_a_mask(objective):
    features = [torch.rand(6, 3, 4, 4, generator=RANDOM) for _ in range(2)]
    targets = TARGETS.masked_fill(~MASK, -100)

    def terms(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        sides = (
            Outputs(each, {"map": feature})
            for each, feature in zip((student, teacher), features, strict=True)
        )
        return objective(*sides, Batch(student, targets, MASK))

    torch.testing.assert_close(whole(terms)(STUDENT, TEACHER), terms(STUDENT, TEACHER))


def test_losses_map_over_many_sequences_at_once():
    student, teacher = (torch.randn(4, 6, 5, generator=RANDOM) for _ in range(2))
    targets = torch.randint(5, (4, 6), generator=RANDOM)
    mask = torch.rand(4, 6, generator=RANDOM) < 0.7
    one_by_one = [losses(*each) for each in zip(student, teacher, targets, mask, strict=True)]
    torch.testing.assert_close(vmap(losses)(student, teacher, targets, mask), torch.stack(one_by_one))
    # Some of them for all.
    some = vmap(losses, in_dims=(0, None, None, None))(student, teacher[0], targets[0], mask[0])
    expected = [losses(each, teacher[0], targets[0], mask[0]) for each in student]
    torch.testing.assert_close(some, torch.stack(expected))


@pytest.mark.parametrize("objective", OBJECTIVES[:7], ids=lambda each: type(each).__name__)
def test_gradients_of_each_example_at_once(objective):
    student, teacher = (torch.randn(4, 6, 5, generator=RANDOM) for _ in range(2))
    targets = torch.randint(5, (4, 6), generator=RANDOM)
    mask = torch.rand(4, 6, generator=RANDOM) < 0.7

    def loss(student: Tensor, teacher: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        terms = objective(Outputs(student), Outputs(teacher), Batch(student, targets, mask))
        return torch.stack(list(terms.values())).sum()

    found = vmap(grad(loss))(student, teacher, targets, mask)
    for place, each in enumerate(found):
        logits = student[place].clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(logits, teacher[place], targets[place], mask[place]), logits)
        torch.testing.assert_close(each, expected)


def test_elsewhere_on_the_cpu_values_are_looked_at():
    assert at_hand(STUDENT, MASK)
    assert not at_hand(STUDENT.to("meta"))
    seen = []
    grad(lambda values: (seen.append(at_hand(values)), values.sum())[1])(STUDENT)
    vmap(lambda values: (seen.append(at_hand(values)), values)[1])(STUDENT)
    vmap(grad(lambda values: (seen.append(at_hand(values)), values.sum())[1]))(STUDENT)
    assert seen == [True, False, False]
    with pytest.raises(ValueError, match="mask: got False everywhere"):
        masked_mean(STUDENT[:, 0], torch.zeros(6, dtype=torch.bool))


def test_label_smoothing_waits_for_no_device_to_look_at_its_targets():
    outputs = Outputs(torch.zeros(2, 5, device="meta"))
    batch = Batch(outputs.logits, torch.zeros(2, dtype=torch.int64, device="meta"))
    assert LabelSmoothing(smoothing=0.1)(outputs, None, batch)["hard"].shape == ()
    with pytest.raises(ValueError, match="targets: got values from 5 to 5"):
        LabelSmoothing(smoothing=0.1)(
            Outputs(torch.zeros(2, 5)), None, Batch(torch.zeros(2, 1), torch.tensor([5, 5]))
        )
