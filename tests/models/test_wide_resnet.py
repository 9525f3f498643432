"""The wide residual networks: sizes, maps, initial weights, and what a block computes."""

import pytest
import torch
from naive_batch_norm import normed
from torch import nn

from kdrepro.models.wide_resnet import WideResNet


@pytest.mark.parametrize(
    ("depth", "width", "parameters"),
    [(16, 1, 175_066), (16, 2, 691_674), (40, 1, 563_930), (40, 2, 2_243_546)],
)
def test_the_papers_nets_have_their_numbers_of_parameters(depth, width, parameters):
    assert sum(each.numel() for each in WideResNet(depth, width).parameters()) == parameters


def maps_of(net: WideResNet, images: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {}
    for name, module in net.named_children():
        module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
    net(images)
    return found


@pytest.mark.parametrize(("side", "sides"), [(32, (32, 16, 8)), (28, (28, 14, 7)), (9, (9, 5, 3))])
def test_the_groups_halve_the_resolution_and_double_the_channels(side, sides):
    found = maps_of(WideResNet(10, 2, in_channels=1), torch.randn(2, 1, side, side))
    assert list(found) == ["conv", "group0", "group1", "group2", "norm", "classifier"]
    for number, each in enumerate(sides):
        assert found[f"group{number}"].shape == (2, 32 * 2**number, each, each)
    assert found["classifier"].shape == (2, 10)


def test_it_computes_what_the_papers_code_computes():
    torch.manual_seed(0)
    net, images = WideResNet(16, 2, classes=7), torch.randn(4, 3, 12, 12)
    values = torch.conv2d(images, net.conv.weight, padding=1)
    for number, group in enumerate([net.group0, net.group1, net.group2]):
        for place, block in enumerate(group):
            stride = 2 if number > 0 and place == 0 else 1
            first = normed(block.norm0, values)
            inner = torch.conv2d(first, block.conv0.weight, stride=stride, padding=1)
            inner = torch.conv2d(normed(block.norm1, inner), block.conv1.weight, padding=1)
            if place == 0:
                values = torch.conv2d(first, block.shortcut.weight, stride=stride)
            values = inner + values
    pooled = normed(net.norm, values).mean(dim=(2, 3))
    torch.testing.assert_close(
        net(images), pooled @ net.classifier.weight.T + net.classifier.bias, rtol=1e-4, atol=1e-4
    )


def test_a_group_that_keeps_its_channels_has_no_convolution_beside_the_block():
    thin, wide = WideResNet(10, 1), WideResNet(10, 2)
    assert thin.group0[0].shortcut is None
    assert wide.group0[0].shortcut.weight.shape == (32, 16, 1, 1)


def test_initial_weights_are_drawn_as_in_the_papers_code():
    torch.manual_seed(0)
    net = WideResNet(16, 4)
    kinds = {nn.Conv2d: 0, nn.Linear: 0, nn.BatchNorm2d: 0}
    for layer in net.modules():
        if type(layer) not in kinds:
            continue
        kinds[type(layer)] += 1
        assert layer.bias is None or not layer.bias.any()
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.min() >= 0
            assert layer.weight.max() <= 1
            assert layer.weight.std() > 0.15
        else:
            # Five standard errors of the estimate from that many weights.
            spread = 5 / (2 * layer.weight.numel()) ** 0.5
            expected = (2 / layer.weight[0].numel()) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=spread)
    assert list(kinds.values()) == [13 + 3, 1, 13]


def test_the_weights_follow_the_seed():
    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return list(WideResNet(10, 1).parameters())

    assert all(torch.equal(one, other) for one, other in zip(weights(1), weights(1), strict=True))
    assert not torch.equal(weights(1)[0], weights(2)[0])


def test_channels_last_in_memory_and_bfloat16_give_the_same_up_to_rounding():
    torch.manual_seed(0)
    net, images = WideResNet(10, 1).eval(), torch.randn(8, 3, 16, 16)
    expected = net(images)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(images), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = maps_of(net, images)
    assert found["group2"].is_contiguous(memory_format=torch.channels_last)
    assert (found["classifier"] - expected).abs().max() < 0.05 * expected.abs().max()


def test_every_parameter_learns():
    net = WideResNet(10, 2)
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert [name for name, each in net.named_parameters() if each.grad is None or not each.grad.any()] == []


@pytest.mark.parametrize("depth", [9, 12, 17, 4, -2])
def test_a_depth_that_gives_no_whole_blocks_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth: got {depth}, expected"):
        WideResNet(depth, 1)


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 8, 8), (2, 192)])
def test_inputs_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"inputs: got shape .*, expected \(B, 3, H, W\)"):
        WideResNet(10, 1)(torch.zeros(shape))
