"""The densely connected networks: sizes, what a layer computes, and that computing it twice changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from naive_batch_norm import normed
from torch import nn
from torch.nn.functional import avg_pool2d

from kdrepro.models import densenet
from kdrepro.models.densenet import DenseBlock, DenseNet


def parameters(depth: int, growth: int, **options) -> int:
    with torch.device("meta"):
        return sum(each.numel() for each in DenseNet(depth, growth, **options).parameters())


@pytest.mark.parametrize(
    ("depth", "growth", "count", "printed"),
    [
        # Huang et al. (2017), Table 2, and the wide ones in the README of their code, in millions.
        (100, 12, 769_162, 0.8),
        (250, 24, 15_324_406, 15.3),
        (190, 40, 25_624_430, 25.6),
        (40, 36, 1_542_682, 1.5),
        (40, 48, 2_733_130, 2.7),
        (40, 60, 4_261_690, 4.3),
    ],
)
def test_the_papers_nets_have_their_numbers_of_parameters(depth, growth, count, printed):
    assert parameters(depth, growth) == count
    assert round(count / 1e6, 1) == printed


def test_the_born_again_papers_net_is_not_of_the_size_that_it_prints():
    assert parameters(112, 33) == 6_892_786
    assert parameters(112, 33, classes=100) == 6_987_916
    for depth in (80, 90):
        with pytest.raises(ValueError, match=f"depth: got {depth}, expected 6n \\+ 4"):
            parameters(depth, 60)


def test_resolutions_and_channels():
    found = {}
    net = DenseNet(22, 6, in_channels=1)
    for name, module in net.named_children():
        module.register_forward_hook(
            lambda _, __, output, name=name: found.update({name: tuple(output.shape)})
        )
    net(torch.randn(2, 1, 32, 32))
    assert found == {
        "conv": (2, 12, 32, 32),
        "block0": (2, 30, 32, 32),
        "transition0": (2, 15, 16, 16),
        "block1": (2, 33, 16, 16),
        "transition1": (2, 16, 8, 8),
        "block2": (2, 34, 8, 8),
        "norm": (2, 34, 8, 8),
        "classifier": (2, 10),
    }


def test_it_computes_what_the_paper_defines():
    torch.manual_seed(0)
    net, images = DenseNet(16, 4, classes=7), torch.randn(4, 3, 12, 12)
    values = torch.conv2d(images, net.conv.weight, padding=1)
    for block, transition in (
        (net.block0, net.transition0),
        (net.block1, net.transition1),
        (net.block2, None),
    ):
        for layer in block.layers:
            inner = torch.conv2d(normed(layer.norm0, values), layer.conv0.weight)
            new = torch.conv2d(normed(layer.norm1, inner), layer.conv1.weight, padding=1)
            values = torch.cat([values, new], dim=1)
        if transition is not None:
            values = avg_pool2d(torch.conv2d(normed(transition.norm, values), transition.conv.weight), 2)
    pooled = normed(net.norm, values).mean(dim=(2, 3))
    expected = pooled @ net.classifier.weight.T + net.classifier.bias
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)


# What is computed a second time for the gradient.


def kept_whole(net: nn.Module) -> nn.Module:
    """The net with everything that its layers compute kept in memory."""
    whole = copy.deepcopy(net)
    for layer in whole.modules():
        if isinstance(layer, densenet.Layer):
            layer.forward = lambda *maps, own=layer: own.conv1(torch.relu(own.norm1(own._narrow(*maps))))
    return whole


@pytest.mark.parametrize("training", [True, False])
def test_gradients_and_running_statistics_are_those_of_a_net_that_keeps_everything(training):
    torch.manual_seed(0)
    light = DenseNet(16, 4).train(training)
    whole = kept_whole(light)
    for _ in range(2):
        images = torch.randn(4, 3, 8, 8)
        losses = [net(images).square().sum() for net in (light, whole)]
        for loss in losses:
            loss.backward()
        assert torch.equal(*losses)
    for (name, own), other in zip(light.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad), name
    for (name, own), other in zip(light.named_buffers(), whole.named_buffers(), strict=True):
        assert torch.equal(own, other[1]), name
    assert light.block0.layers[0].norm0.num_batches_tracked == 2 * training


def kept_bytes(block: DenseBlock, images: torch.Tensor) -> int:
    """How much a forward pass keeps for the gradient, beside the weights."""
    weights = {each.untyped_storage().data_ptr() for each in block.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        block(images)
    return sum(kept.values())


def test_what_is_kept_grows_with_the_layers_and_not_with_their_square():
    images = torch.randn(2, 8, 8, 8)
    counts = (6, 12, 24)
    light, whole = [], []
    for count in counts:
        block = DenseBlock(8, 4, count)
        light.append(kept_bytes(block, images))
        whole.append(kept_bytes(kept_whole(block), images))
    assert light[2] - light[1] == pytest.approx(2 * (light[1] - light[0]), rel=0.15)
    assert whole[2] - whole[1] > 2.6 * (whole[1] - whole[0])
    assert light[2] < 0.6 * whole[2]


def test_without_a_gradient_it_computes_the_same():
    torch.manual_seed(0)
    net, images = DenseNet(16, 4).eval(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(images), net(images).detach())
    torch.testing.assert_close(net(images).detach(), net(images.clone().requires_grad_()).detach())


def test_initial_weights_are_drawn_as_in_the_authors_code():
    torch.manual_seed(0)
    net = DenseNet(40, 24)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            out, _, high, wide = layer.weight.shape
            spread = 5 / (2 * layer.weight.numel()) ** 0.5
            expected = (2 / (out * high * wide)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=spread)
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()
    assert not net.classifier.bias.any()
    assert net.classifier.weight.abs().max() <= net.classifier.in_features**-0.5


def test_channels_last_in_memory_and_bfloat16_give_the_same_up_to_rounding():
    torch.manual_seed(0)
    net, images = DenseNet(16, 6).eval(), torch.randn(8, 3, 16, 16)
    expected = net(images)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(images)
        logits.float().sum().backward()
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


def test_every_parameter_learns():
    net = DenseNet(16, 4)
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert [name for name, each in net.named_parameters() if each.grad is None or not each.grad.any()] == []


@pytest.mark.parametrize("depth", [9, 12, 17, 4, -2])
def test_a_depth_that_gives_no_whole_layers_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth: got {depth}, expected"):
        DenseNet(depth, 12)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 192)])
def test_inputs_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"inputs: got shape .*, expected \(B, 3, H, W\)"):
        DenseNet(10, 4)(torch.zeros(shape))


def test_it_can_be_compiled():
    torch.compiler.reset()
    net, inputs = DenseNet(10, 4), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(torch.compile(copy.deepcopy(net), backend="eager")(inputs), net(inputs))
