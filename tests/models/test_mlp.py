"""The nets of Hinton's paper: sizes, dropout, and the constraint on weights."""

import math

import pytest
import torch
from torch import nn

from kdrepro.models.mlp import MLP, Dropout, max_norm_


@pytest.mark.parametrize(
    ("hidden", "parameters"), [([1200, 1200], 2_395_210), ([800, 800], 1_276_810), ([30, 30], 24_790)]
)
def test_the_papers_nets_have_their_numbers_of_parameters(hidden, parameters):
    net = MLP([784, *hidden, 10], input_dropout=0.2, hidden_dropout=0.5)
    assert sum(each.numel() for each in net.parameters()) == parameters


def test_it_is_matrices_and_relus():
    torch.manual_seed(0)
    net, images = MLP([12, 7, 5, 3]), torch.randn(4, 1, 3, 4)
    (w1, b1), (w2, b2), (w3, b3) = [
        (each.weight, each.bias) for each in net.modules() if isinstance(each, nn.Linear)
    ]
    hidden = (images.reshape(4, 12) @ w1.T + b1).clamp(min=0)
    expected = (hidden @ w2.T + b2).clamp(min=0) @ w3.T + b3
    torch.testing.assert_close(net(images), expected)
    assert net.layers[-1].bias is b3


def test_dropout_is_where_it_is_asked_for():
    def kinds(net: MLP) -> list[str]:
        return [
            f"{type(each).__name__} {each.probability}" if isinstance(each, Dropout) else type(each).__name__
            for each in net.layers
        ]

    assert kinds(MLP([4, 3, 2])) == ["Linear", "ReLU", "Linear"]
    both = kinds(MLP([4, 3, 2], input_dropout=0.2, hidden_dropout=0.5))
    assert both == ["Dropout 0.2", "Linear", "ReLU", "Dropout 0.5", "Linear"]


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    dropped = Dropout(probability)(torch.ones(1000, 999))
    kept = dropped != 0
    count = dropped.numel()
    # Five standard deviations of a binomial.
    spread = 5 * math.sqrt(count * probability * (1 - probability)) + 1e-9
    assert abs(int((~kept).sum()) - count * probability) <= spread
    torch.testing.assert_close(
        dropped[kept], torch.full_like(dropped[kept], 1 / (1 - probability)), rtol=1e-6, atol=0
    )


def test_next_to_everything_is_dropped_where_next_to_everything_is_asked_for():
    torch.manual_seed(0)
    assert (Dropout(1 - 2**-18)(torch.ones(1000, 999)) != 0).float().mean() < 1e-4


def test_dropout_is_independent_from_place_to_place_and_call_to_call():
    torch.manual_seed(0)
    layer = Dropout(0.5)
    first, second = ((layer(torch.ones(400, 500)) != 0).float() for _ in range(2))
    pairs = {
        "calls": (first, second),
        "neighbours": (first[:, :-1], first[:, 1:]),
        "four apart": (first[:, :-4], first[:, 4:]),
        "rows": (first[:-1], first[1:]),
    }
    for name, (one, other) in pairs.items():
        together = (one * other).mean().item()
        assert together == pytest.approx(0.25, abs=0.006), name


def test_dropout_follows_the_seed():
    layer, values = Dropout(0.3), torch.randn(7, 5)
    torch.manual_seed(4)
    first = layer(values)
    torch.manual_seed(4)
    assert torch.equal(layer(values), first)
    assert not torch.equal(layer(values), first)


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 5), (0, 4)])
def test_dropout_takes_any_shape_and_dtype(shape):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        values = Dropout(0.5)(torch.ones(shape, dtype=dtype))
        assert (values.shape, values.dtype) == (torch.Size(shape), dtype)
        assert set(values.flatten().tolist()) <= {0.0, 2.0}


def test_dropout_in_eval_mode_is_nothing():
    values = torch.randn(5, 5)
    assert Dropout(0.5).eval()(values) is values


def test_the_gradient_passes_where_the_values_did():
    torch.manual_seed(0)
    values = torch.randn(30, 30, requires_grad=True)
    dropped = Dropout(0.25)(values)
    dropped.sum().backward()
    torch.testing.assert_close(values.grad, (dropped != 0) / 0.75)


@pytest.mark.parametrize("probability", [1, 1.5, -0.1, float("nan")])
def test_a_probability_out_of_range_is_refused(probability):
    with pytest.raises(ValueError, match=rf"probability: got {probability}"):
        Dropout(probability)


def test_max_norm_scales_each_units_weights_and_nothing_else():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    with torch.no_grad():
        net[0].weight.mul_(torch.linspace(0, 5, 5)[:, None])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    limit = 0.9
    max_norm_(net, limit=limit)
    for name, value in net.state_dict().items():
        if name not in ("0.weight", "2.weight"):
            assert torch.equal(value, before[name])
            continue
        for unit, (now, then) in enumerate(zip(value, before[name], strict=True)):
            norm = math.sqrt(sum(float(weight) ** 2 for weight in then))
            expected = then * (limit / norm) if norm > limit else then
            torch.testing.assert_close(now, expected, msg=f"{name}[{unit}]")
    norms = [net[0].weight.norm(dim=1), before["0.weight"].norm(dim=1)]
    assert norms[0].max() <= limit * (1 + 1e-6)
    assert (norms[1] > limit).any()
    assert (norms[1] < limit).any()


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(limit):
    for layer in (nn.Linear(2, 2), nn.Conv2d(2, 2, 3)):
        before = layer.weight.clone()
        with pytest.raises(ValueError, match=f"limit: got {limit}, expected a finite number above 0"):
            max_norm_(layer, limit=limit)
        assert torch.equal(layer.weight, before)


def test_max_norm_leaves_weights_that_train():
    net = MLP([4, 3, 2])
    max_norm_(net, limit=0.1)
    net(torch.ones(1, 4)).sum().backward()
    assert all(each.grad is not None for each in net.parameters())
