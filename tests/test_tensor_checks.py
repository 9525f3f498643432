"""The checks let good tensors through; what they refuse is in the folder of malformed calls."""

import pytest
import torch

from kdrepro import AttentionTransfer, HintonKD, WordLevelKD, tensor_checks
from kdrepro.methods.born_again import BornAgain, PermutedDarkKnowledge
from kdrepro.types import Batch, Outputs


def test_shapes_are_never_broadcast():
    for teacher in (torch.zeros(1, 5), torch.zeros(5), torch.zeros(4, 1, 5), torch.zeros(4, 1)):
        with pytest.raises(ValueError, match="teacher_logits: got"):
            tensor_checks.same_logits_shape(torch.zeros(4, 5), teacher)
    tensor_checks.same_logits_shape(torch.zeros(4, 5), torch.zeros(4, 5, dtype=torch.float64))


def test_class_targets_come_back_as_they_are():
    targets = torch.tensor([0, 4, 2])
    assert tensor_checks.class_targets(targets, classes=5, leading=(3,)) is targets
    empty = torch.tensor([], dtype=torch.int64)
    assert tensor_checks.class_targets(empty, classes=5) is empty


def test_the_kind_of_class_targets_is_looked_at_without_their_values():
    targets = torch.tensor([0, 9, -100])
    assert tensor_checks.integer_targets(targets, classes=5, leading=(3,)) is targets
    with pytest.raises(
        ValueError, match="targets: got values from -100 to 9, expected class numbers from 0 to 4"
    ):
        tensor_checks.class_targets(targets, classes=5, leading=(3,))


def soft_only():
    attention = AttentionTransfer(["map"], attention_weight=1.0, soft_weight=1.0)
    return [
        HintonKD(temperature=2.0, soft_weight=1.0),
        BornAgain(label_weight=0.0),
        PermutedDarkKnowledge(),
        WordLevelKD(soft_weight=1.0),
        attention,
    ]


def outputs(*shape: int) -> Outputs:
    return Outputs(torch.randn(shape), {"map": torch.rand(shape[0], 3, 4, 4)})


@pytest.mark.parametrize("objective", soft_only(), ids=lambda each: type(each).__name__)
def test_targets_that_no_term_reads_may_not_contradict_the_logits(objective):
    for logits, targets in (((2, 5, 8, 6), (2, 8, 6)), ((2, 5), (2, 3)), ((2, 4, 5), (2,)), ((2, 5), (4,))):
        for dtype in (torch.int64, torch.int32):
            batch = Batch(torch.zeros(2, 1), torch.zeros(targets, dtype=dtype))
            with pytest.raises(ValueError, match=r"targets: got shape .* one per logit vector") as caught:
                objective(outputs(*logits), outputs(*logits), batch)
            assert ("logits.movedim(1, -1)" in str(caught.value)) == (len(logits) == 4)


@pytest.mark.parametrize("objective", soft_only(), ids=lambda each: type(each).__name__)
@pytest.mark.parametrize(
    "targets",
    # Not read: out of range, mixed labels, what a regression would learn from, or nothing at all.
    [torch.full((2,), -100), torch.rand(2, 5), torch.rand(2), torch.rand(2, 4), None],
)
def test_targets_that_say_nothing_of_the_classes_are_taken(objective, targets):
    student, teacher = outputs(2, 5), outputs(2, 5)
    found = objective(student, teacher, Batch(torch.zeros(2, 1), targets))
    assert sum(found.values()).isfinite()


def test_numbers_for_each_point_of_a_picture_contradict_classes_in_the_middle_whatever_their_kind():
    with pytest.raises(ValueError, match="movedim"):
        tensor_checks.targets_agree(torch.zeros(2, 8, 8), torch.zeros(2, 5, 8, 8))


def test_targets_are_compared_without_looking_at_their_values():
    # A tensor on no device has none.
    targets = torch.zeros(2, 8, dtype=torch.int64, device="meta")
    tensor_checks.targets_agree(targets, torch.zeros(2, 8, 5, device="meta"))
