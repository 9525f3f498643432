"""The attention map, against loops and the authors' formula, and what it is blind to."""

import numpy as np
import pytest
import torch
from hypothesis import given
from naive_attention import bounded, every_map, features, naive_map, pools, powers, random_pair
from terms_and_gradients import gradient

from kdrepro.losses.attention import attention_map


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


def test_half_precision_may_be_too_narrow_for_the_square_of_an_activation():
    feature = torch.full((1, 2, 2, 2), 300.0, dtype=torch.float16)
    torch.testing.assert_close(attention_map(feature), torch.full((1, 4), 0.5))
