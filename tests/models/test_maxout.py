"""The maxout nets: what a layer computes, their initial weights and constraints, and what is refused."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from kdrepro.models import maxout
from kdrepro.models.maxout import Maxout, Stage, maxout_net
from kdrepro.models.mlp import max_norm_

DIGIT = (1, 28, 28)


# What a layer computes.


def largest(values: Tensor, pieces: int) -> list[list[list[float]]]:
    """By a loop: of every channel c the largest of c, c + C, c + 2 C, ..."""
    channels = values.shape[1] // pieces
    flat = values.flatten(2)
    return [
        [
            [
                max(flat[b, c + piece * channels, at].item() for piece in range(pieces))
                for at in range(flat.shape[2])
            ]
            for c in range(channels)
        ]
        for b in range(len(flat))
    ]


@pytest.mark.parametrize("pieces", [2, 3, 4, 5])
@pytest.mark.parametrize("sides", [(), (3,), (3, 4)])
def test_maxout_is_the_largest_piece_by_a_loop(pieces, sides):
    torch.manual_seed(0)
    values = torch.randn(3, 2 * pieces, *sides)
    found = Maxout(pieces=pieces)(values)
    assert found.shape == (3, 2, *sides)
    assert found.reshape(3, 2, -1).tolist() == largest(values.reshape(3, 2 * pieces, -1), pieces)


@pytest.mark.parametrize("pieces", [2, 3, 4])
def test_the_gradient_goes_to_the_largest_piece_only(pieces):
    torch.manual_seed(0)
    values = torch.randn(3, 2 * pieces, 4, 4, requires_grad=True)
    weights = torch.randn(3, 2, 4, 4)
    (gradient,) = torch.autograd.grad((Maxout(pieces=pieces)(values) * weights).sum(), values)
    stacked, own = values.detach().reshape(3, pieces, 2, 4, 4), gradient.reshape(3, pieces, 2, 4, 4)
    for piece in range(pieces):
        wins = stacked.argmax(1) == piece
        assert torch.equal(own[:, piece], torch.where(wins, weights, torch.zeros(())))


@pytest.mark.parametrize("pieces", [2, 4])
def test_first_and_second_derivatives_are_right(pieces):
    torch.manual_seed(0)
    values = torch.randn(2, 2 * pieces, 3, 3, dtype=torch.float64, requires_grad=True)

    # Something that bends after the maxout, so that the second derivative is not 0.
    def bent(values: Tensor) -> Tensor:
        return Maxout(pieces=pieces)(values).pow(3)

    assert torch.autograd.gradcheck(bent, values)
    assert torch.autograd.gradgradcheck(bent, values)


def test_a_tie_gives_its_gradient_to_the_second_of_two_pieces():
    values = torch.tensor([[1.0, -2.0, 1.0, -2.0]], requires_grad=True)
    found = Maxout(pieces=2)(values)
    assert found.tolist() == [[1.0, -2.0]]
    (gradient,) = torch.autograd.grad((found * torch.tensor([[3.0, 5.0]])).sum(), values)
    assert gradient.tolist() == [[0.0, 0.0, 3.0, 5.0]]


def test_a_tie_of_four_pieces_shares_its_gradient():
    values = torch.zeros(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(Maxout(pieces=4)(values).sum(), values)
    assert gradient.sum() == 1
    assert (gradient >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pieces", [2, 4])
def test_the_layout_in_memory_and_the_type_stay(pieces, dtype):
    torch.manual_seed(0)
    values = torch.randn(2, 8, 5, 5).to(dtype)
    last = values.to(memory_format=torch.channels_last).requires_grad_()
    found = Maxout(pieces=pieces)(last)
    assert found.dtype == dtype
    assert torch.equal(found, Maxout(pieces=pieces)(values))
    if pieces == 2:
        assert found.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(found.float().sum(), last)
    assert gradient.float().sum() == found.numel()


def test_a_net_is_its_layers_one_after_another():
    torch.manual_seed(0)
    net = maxout_net(
        [Stage(3, 3, 1, (2, 2)), Stage(4, 3, pieces=4)], image=(2, 7, 7), hidden=5, init_range=0.5
    )
    images = torch.randn(6, 2, 7, 7)
    values = torch.conv2d(images, net.layer1[0].weight, net.layer1[0].bias, padding=1)
    values = torch.maximum(values[:, :3], values[:, 3:])
    values = nn.functional.max_pool2d(nn.functional.pad(values, (0, 1, 0, 1), value=-math.inf), 2)
    values = torch.conv2d(values, net.layer2[0].weight, net.layer2[0].bias)
    values = values.reshape(6, 4, 4, 2, 2).max(dim=1).values.flatten(1)
    values = values @ net.layer3[1].weight.T + net.layer3[1].bias
    values = torch.maximum(values[:, :5], values[:, 5:])
    torch.testing.assert_close(net(images), values @ net.classifier[1].weight.T + net.classifier[1].bias)


def test_dropout_stands_before_each_layer_and_only_trains():
    torch.manual_seed(0)
    stages = [Stage(3, 3), Stage(3, 3)]
    net = maxout_net(stages, image=DIGIT, hidden=4, input_dropout=0.2, dropout=0.5)
    dropped = {name: part.probability for name, part in net.named_modules() if hasattr(part, "probability")}
    assert dropped == {"layer1.0": 0.2, "layer2.0": 0.5, "layer3.1": 0.5, "classifier.1": 0.5}
    images = torch.randn(4, *DIGIT)
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))
    assert not [part for part in maxout_net(stages, image=DIGIT).modules() if hasattr(part, "probability")]


# Initial weights and constraints.


def test_weights_are_drawn_uniformly_and_biases_are_0():
    torch.manual_seed(0)
    net = maxout_net(maxout.MNIST_STUDENT, image=DIGIT, init_range=0.02)
    for layer in (each for each in net.modules() if isinstance(each, nn.Conv2d | nn.Linear)):
        assert not layer.bias.any()
        assert layer.weight.abs().max() <= 0.02
        # A uniform distribution has a standard deviation of limit / √3; five standard errors of the estimate.
        spread = 5 / layer.weight.numel() ** 0.5
        assert layer.weight.std().item() == pytest.approx(0.02 / 3**0.5, rel=spread)


def test_the_papers_range_is_the_default_and_the_weights_follow_the_seed():
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.cat(
            [each.flatten() for each in maxout_net(maxout.MNIST_STUDENT, image=DIGIT).parameters()]
        )

    assert weights(1).abs().max() <= 0.005
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match=f"limit: got {limit}, expected a finite number above 0"):
        maxout.uniform_(nn.Linear(2, 2), limit=limit)


def test_the_constraint_scales_what_is_too_long_and_nothing_else():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 5), nn.Flatten(), nn.Linear(7, 4))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight[0] *= 0.01 / layer.weight[0].norm()
            layer.weight[1] *= 3 / layer.weight[1].norm()
            layer.bias.fill_(9.0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    max_norm_(net, limit=0.9)
    for place, layer in (("0", net[0]), ("2", net[2])):
        assert layer.bias.unique().tolist() == [9.0]
        for unit, then in zip(layer.weight, before[f"{place}.weight"], strict=True):
            # A unit's kernel over all input channels, a unit's column of the matrix.
            assert unit.norm() <= 0.9 * (1 + 1e-6)
            if then.norm() <= 0.9:
                assert torch.equal(unit, then)
            else:
                torch.testing.assert_close(unit, then * 0.9 / then.norm())


def test_the_constraint_is_idempotent_and_takes_weights_of_0():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 4, 3)
    with torch.no_grad():
        layer.weight.mul_(10)
        layer.weight[0].zero_()
    max_norm_(layer, limit=0.9)
    once = layer.weight.clone()
    max_norm_(layer, limit=0.9)
    torch.testing.assert_close(layer.weight, once)
    assert not layer.weight[0].any()


# What is refused.


@pytest.mark.parametrize(
    ("pieces", "error"), [(1, ValueError), (0, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_fewer_than_two_pieces_are_refused(pieces, error):
    with pytest.raises(error, match="pieces: got"):
        Maxout(pieces=pieces)


@pytest.mark.parametrize(("shape", "pieces"), list(itertools.product([(2, 5), (2, 5, 3, 3), (4,)], [2, 4])))
def test_channels_that_do_not_divide_are_refused(shape, pieces):
    with pytest.raises(ValueError, match=r"values: got shape .*, expected channels that \d pieces divide"):
        Maxout(pieces=pieces)(torch.zeros(shape))
