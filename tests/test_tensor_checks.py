"""The checks let good tensors through; what they refuse is in the folder of malformed calls."""

import pytest
import torch

from kdrepro import tensor_checks


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
