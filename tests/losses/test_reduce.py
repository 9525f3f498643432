"""From one value per position to one number."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro.losses import reduce
from kdrepro.losses.logits import soft_target_loss
from kdrepro.losses.reduce import masked_mean, mean

numbers = st.floats(-1e6, 1e6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=30).filter(
        lambda rows: any(b for _, b in rows)
    )
)
def test_both_are_numpys_mean(rows):
    values = torch.tensor([value for value, _ in rows], dtype=torch.float64)
    mask = torch.tensor([counts for _, counts in rows])
    counted = [value for value, counts in rows if counts]
    assert mean(values).item() == pytest.approx(np.mean(values.numpy()), rel=1e-12, abs=1e-6)
    assert masked_mean(values, mask).item() == pytest.approx(np.mean(counted), rel=1e-12, abs=1e-6)


def test_no_mask_counts_every_position():
    values = torch.arange(6.0).reshape(2, 3)
    assert masked_mean(values, None) == mean(values) == 2.5


def test_it_divides_by_the_positions_that_count_not_by_the_batch():
    values = torch.tensor([[2.0, 4.0, 100.0], [6.0, 100.0, 100.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask) == 4.0


def test_padding_gets_no_gradient_and_the_first_position_that_counts_does():
    logits = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.tensor([[False, True, True, False], [False, False, True, True]])
    masked_mean(soft_target_loss(logits, torch.zeros(2, 4, 5), temperature=2.0), mask).backward()
    reached = logits.grad.abs().sum(-1) > 0
    assert torch.equal(reached, mask)


@pytest.mark.parametrize("dropped", [math.nan, math.inf, -math.inf, 1e30])
def test_without_asking_how_many_count_it_is_the_same(dropped):
    """What other devices than the CPU get."""
    values = torch.tensor([1.0, dropped, 4.0], requires_grad=True)
    mask = torch.tensor([True, False, True])
    loss = reduce._mean_where(values, mask)
    loss.backward()
    assert loss.item() == masked_mean(values, mask).item() == 2.5
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
    assert reduce._mean_where(values, torch.zeros(3, dtype=torch.bool)).isnan()


@pytest.mark.parametrize("dropped", [math.nan, math.inf, -math.inf, 1e30])
def test_what_stands_at_a_position_that_does_not_count_does_not_matter(dropped):
    values = torch.tensor([1.0, dropped, 3.0], requires_grad=True)
    loss = masked_mean(values, torch.tensor([True, False, True]))
    loss.backward()
    assert loss.item() == 2.0
    assert values.grad.tolist() == [0.5, 0.0, 0.5]
