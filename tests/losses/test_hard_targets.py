"""The loss on the true classes, against scipy, and what it does at the edge of its numbers."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from drawn_logits import bounded, logit_pairs, random_pair
from hypothesis import given
from hypothesis import strategies as st
from terms_and_gradients import gradient

from kdrepro import tensor_checks
from kdrepro.losses.logits import hard_target_loss


@bounded
@given(logit_pairs(), st.integers(0, 10**6))
def test_hard_target_loss_is_minus_the_log_of_the_targets_probability(pair, seed):
    student, _ = pair
    classes = student.shape[-1]
    targets = torch.randint(classes, student.shape[:-1], generator=torch.Generator().manual_seed(seed))
    ours = hard_target_loss(student, targets)
    rows = zip(student.reshape(-1, classes).numpy(), targets.reshape(-1).tolist(), strict=True)
    expected = [-scipy.special.log_softmax(row)[target] for row, target in rows]
    np.testing.assert_allclose(ours.reshape(-1).numpy(), expected, rtol=1e-10, atol=1e-12)
    assert ours.shape == targets.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_hard_target_loss_of_huge_logits_is_finite(dtype):
    student = torch.tensor([[1e4, -1e4, 0.0]] * 3, dtype=dtype, requires_grad=True)
    values = hard_target_loss(student, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(values, torch.tensor([0.0, 2e4, 1e4]), rtol=1e-2, atol=0)
    assert gradient(values.sum(), student).isfinite().all()


@pytest.mark.parametrize("integers", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_any_integers_are_class_numbers(integers):
    student, _ = random_pair(3, 4)
    expected = hard_target_loss(student, torch.tensor([0, 1, 3]))
    torch.testing.assert_close(hard_target_loss(student, torch.tensor([0, 1, 3], dtype=integers)), expected)


def test_padding_is_no_class_even_where_values_are_not_looked_at(monkeypatch):
    """Off the CPU nobody looks: torch itself has to stop, and not count a loss of 0."""
    monkeypatch.setattr(tensor_checks, "class_targets", lambda *arguments, **options: None)
    with pytest.raises(IndexError, match="-100"):
        hard_target_loss(torch.randn(2, 5), torch.tensor([1, -100]))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(2, dtype=torch.bool, device="meta"), "targets: got torch.bool, expected integer class"),
        (
            torch.zeros(2, dtype=torch.complex64, device="meta"),
            "targets: got torch.complex64, expected integer",
        ),
        (torch.zeros(2, device="meta"), "targets: got torch.float32, expected integer class numbers"),
        (
            torch.zeros(3, dtype=torch.int64, device="meta"),
            r"targets: got shape \(3,\), expected \(2,\), one per",
        ),
    ],
    ids=["bool", "complex", "float", "shape"],
)
def test_kind_and_shape_are_looked_at_on_every_device(targets, message):
    """A tensor on `meta` has no values: what it is refused for is not among them."""
    with pytest.raises((TypeError, ValueError), match=message):
        hard_target_loss(torch.zeros(2, 5, device="meta"), targets)
    right = torch.zeros(2, dtype=torch.int64, device="meta")
    assert hard_target_loss(torch.zeros(2, 5, device="meta"), right).shape == (2,)
