"""Born-again objectives against their formulas, written as loops over examples."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import log_softmax
from terms_and_gradients import total

from kdrepro.losses.logits import hard_target_loss
from kdrepro.methods.born_again import (
    BornAgain,
    ConfidenceWeighted,
    LabelSmoothing,
    PermutedDarkKnowledge,
    permuted_others,
)
from kdrepro.types import Batch, Outputs

CLASSES = 5


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(6, CLASSES, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, CLASSES, generator=generator, dtype=torch.float64) * 3
    targets = torch.randint(CLASSES, (6,), generator=generator)
    return student, teacher, Batch(torch.zeros(6), targets)


def call(objective, student, teacher, batch):
    return objective(Outputs(student), None if teacher is None else Outputs(teacher), batch)


def test_ban_is_the_divergence_from_the_teacher_and_ban_l_adds_the_labels(case):
    student, teacher, batch = case
    soft = hard = 0.0
    for row, wanted, target in zip(student.tolist(), teacher.tolist(), batch.targets.tolist(), strict=True):
        q, p = log_softmax(row), log_softmax(wanted)
        soft += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)) / 6
        hard -= q[target] / 6
    ban = call(BornAgain(), student, teacher, batch)
    assert set(ban) == {"soft"}
    assert ban["soft"].item() == pytest.approx(soft)
    both = call(BornAgain(label_weight=1.0), student, teacher, batch)
    assert {name: value.item() for name, value in both.items()} == pytest.approx({"soft": soft, "hard": hard})


def test_ban_with_a_certain_teacher_is_plain_cross_entropy(case):
    student, _, batch = case
    certain = torch.full((6, CLASSES), -1e9, dtype=torch.float64).scatter(1, batch.targets[:, None], 0.0)
    loss = call(BornAgain(), student, certain, batch)["soft"]
    plain = hard_target_loss(student, batch.targets).mean()
    assert loss.item() == pytest.approx(plain.item())
    (ours,), (theirs,) = (torch.autograd.grad(each, student) for each in (loss, plain))
    assert torch.allclose(ours, theirs)


def test_cwtm_weighs_the_labels_by_the_teachers_largest_probability(case):
    student, teacher, batch = case
    weights = [max(math.exp(value) for value in log_softmax(row)) for row in teacher.tolist()]
    losses = [
        -log_softmax(row)[target]
        for row, target in zip(student.tolist(), batch.targets.tolist(), strict=True)
    ]
    wanted = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert call(ConfidenceWeighted(), student, teacher, batch)["hard"].item() == pytest.approx(wanted)
    # Equally sure of everything, whatever of: the mean.
    same = torch.eye(CLASSES, dtype=torch.float64)[torch.tensor([0, 3, 1, 4, 2, 0])] * 4
    assert call(ConfidenceWeighted(), student, same, batch)["hard"].item() == pytest.approx(sum(losses) / 6)


def test_cwtm_counts_only_what_the_mask_counts(case):
    student, teacher, batch = case
    mask = torch.tensor([True, True, False, True, False, True])
    masked = call(ConfidenceWeighted(), student, teacher, Batch(batch.inputs, batch.targets, mask))
    kept = Batch(batch.inputs[mask], batch.targets[mask])
    alone = call(ConfidenceWeighted(), student[mask], teacher[mask], kept)
    assert masked["hard"].item() == pytest.approx(alone["hard"].item())


def test_dkpp_keeps_the_largest_and_shuffles_the_others():
    torch.manual_seed(0)
    logits = torch.randn(2000, CLASSES, dtype=torch.float64)
    shuffled = permuted_others(logits)
    largest = logits.argmax(dim=1)
    assert torch.equal(shuffled.argmax(dim=1), largest)
    assert torch.equal(shuffled.sort(dim=1).values, logits.sort(dim=1).values)
    # Each of the 4! orders of the others, which are given in the order of their classes, comes about as often.
    rows = torch.arange(float(CLASSES)).repeat(24_000, 1)
    rows[:, 2] = 9.0
    others = permuted_others(rows)[:, [0, 1, 3, 4]]
    _, counts = torch.unique(others, dim=0, return_counts=True)
    assert len(counts) == 24
    assert (counts - 1000).abs().max() < 160  # five standard deviations


def test_dkpp_differs_from_example_to_example_and_from_call_to_call(case):
    student, _, batch = case
    teacher = torch.arange(float(CLASSES), dtype=torch.float64).repeat(6, 1)
    torch.manual_seed(0)
    first, second = (call(PermutedDarkKnowledge(), student, teacher, batch)["soft"].item() for _ in range(2))
    assert first != second
    assert len({tuple(row) for row in permuted_others(teacher).tolist()}) > 1


def test_dkpp_does_not_depend_on_which_class_is_which_among_the_others(case):
    _, teacher, batch = case
    # A student that gives all other classes the same probability cannot tell the orders apart.
    student = torch.zeros(6, CLASSES, dtype=torch.float64).scatter(1, teacher.argmax(1, keepdim=True), 2.0)
    torch.manual_seed(3)
    permuted = call(PermutedDarkKnowledge(), student, teacher, batch)["soft"].item()
    assert permuted == pytest.approx(call(BornAgain(), student, teacher, batch)["soft"].item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_is_torchs_less_the_labels_entropy(case, smoothing):
    student, _, batch = case
    ours = call(LabelSmoothing(smoothing=smoothing), student, None, batch)["hard"]
    theirs = torch.nn.functional.cross_entropy(student, batch.targets, label_smoothing=smoothing)
    label = [smoothing / CLASSES] * (CLASSES - 1) + [1 - smoothing + smoothing / CLASSES]
    entropy = -sum(value * math.log(value) for value in label if value > 0)
    assert ours.item() == pytest.approx(theirs.item() - entropy)
    (own,), (other,) = (torch.autograd.grad(each, student) for each in (ours, theirs))
    assert torch.allclose(own, other)


@pytest.mark.parametrize(
    "objective", [BornAgain(), BornAgain(label_weight=1.0), ConfidenceWeighted(), PermutedDarkKnowledge()]
)
def test_the_teacher_gets_no_gradient_and_has_to_be_there(objective, case):
    student, teacher, batch = case
    teacher.requires_grad_()
    total(call(objective, student, teacher, batch)).backward()
    assert teacher.grad is None or not teacher.grad.any()
    with pytest.raises(ValueError, match="teacher: got None, expected the teacher's outputs"):
        call(objective, student, None, batch)


@pytest.mark.parametrize(("ours", "theirs"), [((4, 4, 3), (4, 3)), ((4, 3), (1, 3))])
def test_confidences_of_other_positions_are_not_broadcast(ours, theirs):
    targets = torch.zeros(ours[:-1], dtype=torch.int64)
    with pytest.raises(ValueError, match=r"teacher_logits: got shape .*, expected .* like student_logits"):
        call(ConfidenceWeighted(), torch.zeros(ours), torch.zeros(theirs), Batch(targets, targets))


def test_weights_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"label_weight: got -1.0, expected a finite number of at least 0"):
        BornAgain(label_weight=-1.0)
    with pytest.raises(ValueError, match=r"smoothing: got 1.5"):
        LabelSmoothing(smoothing=1.5)


def test_without_smoothing_a_class_that_is_left_out_costs_nothing():
    logits = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, 0.0, -torch.inf]], requires_grad=True)
    batch = Batch(torch.zeros(2, 1), torch.tensor([0, 1]), None)
    (hard,) = LabelSmoothing(smoothing=0.0)(Outputs(logits), None, batch).values()
    expected = torch.nn.functional.cross_entropy(logits[:, :2], batch.targets)
    torch.testing.assert_close(hard, expected)
    (gradient,) = torch.autograd.grad(hard, logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32])
def test_smoothed_labels_take_any_whole_numbers(kind):
    logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    objective = LabelSmoothing(smoothing=0.1)
    (one,), (other,) = (
        objective(Outputs(logits), None, Batch(torch.zeros(4, 1), each)).values()
        for each in (targets, targets.to(kind))
    )
    assert one == other
