"""The sizes and the work of the maxout nets as the paper counts them, and the sizes of their maps."""

import pytest
import torch
from torch import nn

from kdrepro.models import maxout
from kdrepro.models.maxout import Stage, maxout_net, thin_stages

DIGIT, PICTURE = (1, 28, 28), (3, 32, 32)


@pytest.mark.parametrize(
    ("stages", "weights", "multiplications"),
    [
        # Table 4: about 361,000 and 30,000 parameters; the authors' configuration file has the third.
        (maxout.MNIST_TEACHER, 360_816, 28_673_136),
        (maxout.MNIST_STUDENT, 29_944, 5_310_648),
        (maxout.MNIST_STUDENT_CODE, 35_992, 5_625_144),
    ],
)
def test_the_nets_for_digits_have_the_papers_sizes(stages, weights, multiplications):
    net = maxout_net(stages, image=DIGIT)
    assert maxout.counted_weights(net) == weights
    assert maxout.counted_multiplications(net, DIGIT) == multiplications
    assert len(net) == len(stages) + 1


@pytest.mark.parametrize(
    ("stages", "depth", "weights", "multiplications"),
    [
        # Table 5: 9M and 725M, 250K and 30M, 862K and 108M, 2.5M and 382M. Of FitNet 3 it says 1.6M and 392M, which
        # the channels in Table 7 do not give.
        (maxout.CIFAR_TEACHER, 5, 9_044_360, 725_090_696),
        (maxout.FITNET1, 11, 249_576, 30_150_024),
        (maxout.FITNET2, 11, 861_928, 107_775_880),
        (maxout.FITNET3, 13, 1_503_304, 323_946_376),
        (maxout.FITNET4, 19, 2_544_712, 381_749_128),
        (maxout.THIN_30M[5], 5, 219_912, 27_200_904),
        (maxout.THIN_30M[7], 7, 208_104, 29_265_288),
        (maxout.THIN_30M[9], 9, 217_320, 29_855_112),
    ],
)
def test_the_nets_for_pictures_have_the_papers_sizes(stages, depth, weights, multiplications):
    net = maxout_net(stages, image=PICTURE, hidden=500)
    assert len(net) == depth
    assert maxout.counted_weights(net) == weights
    assert maxout.counted_multiplications(net, PICTURE) == multiplications


def test_the_nets_of_30_million_multiplications_are_within_a_tenth_of_that():
    assert sorted(maxout.THIN_30M) == [5, 7, 9, 11]
    assert maxout.THIN_30M[11] == maxout.FITNET1
    for stages in maxout.THIN_30M.values():
        net = maxout_net(stages, image=PICTURE, hidden=500)
        assert maxout.counted_multiplications(net, PICTURE) == pytest.approx(30e6, rel=0.1)


def test_five_pieces_in_the_fully_connected_layer_would_not_give_the_papers_size():
    net = maxout_net(maxout.FITNET4, image=PICTURE, hidden=500)
    five = net.layer18[1].weight.numel() // 2 * 5
    assert maxout.counted_weights(net) + five - net.layer18[1].weight.numel() == 2_736_712


def test_counting_by_hand_agrees():
    net = maxout_net([Stage(3, 5, 1, (2, 2), pieces=4)], image=(2, 9, 8), hidden=7, classes=6)
    # A map of 9 + 2 − 5 + 1 = 7 by 6, pooled to 4 by 3.
    convolution, matrix, last = 2 * 25 * 12, 3 * 4 * 3 * 14, 7 * 6
    assert maxout.counted_weights(net) == convolution + matrix + last
    assert maxout.counted_multiplications(net, (2, 9, 8)) == convolution * 7 * 6 + matrix + last


def test_counting_leaves_no_hooks_behind_and_asks_for_no_gradient():
    net = maxout_net([Stage(3, 3)], image=DIGIT)
    maxout.counted_multiplications(net, DIGIT)
    with pytest.raises(RuntimeError):
        maxout.counted_multiplications(net, (2, 28, 28))
    assert not any(layer._forward_hooks for layer in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def maps(net: nn.Sequential, image: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    values, found = torch.zeros(2, *image), {}
    for name, layer in net.named_children():
        values = layer(values)
        found[name] = tuple(values.shape[1:])
    return found


def test_the_maps_are_those_of_the_authors_configuration():
    assert list(maps(maxout_net(maxout.MNIST_STUDENT, image=DIGIT), DIGIT).values()) == [
        (16, 24, 24),
        (16, 10, 10),
        (16, 12, 12),
        (16, 4, 4),
        (12, 8, 8),
        (12, 3, 3),
        (10,),
    ]
    teacher = maps(maxout_net(maxout.MNIST_TEACHER, image=DIGIT), DIGIT)
    assert teacher == {
        "layer1": (48, 10, 10),
        "layer2": (48, 4, 4),
        "layer3": (24, 3, 3),
        "classifier": (10,),
    }


def test_the_hint_and_the_guided_layer_of_the_digits_have_maps_of_one_size():
    student = maps(maxout_net(maxout.MNIST_STUDENT, image=DIGIT), DIGIT)
    teacher = maps(maxout_net(maxout.MNIST_TEACHER, image=DIGIT), DIGIT)
    assert student["layer4"][1:] == teacher["layer2"][1:] == (4, 4)


@pytest.mark.parametrize("side", range(3, 16))
@pytest.mark.parametrize("pool", [(4, 2), (2, 2), (8, 8), (3, 1), (1, 3)])
def test_pooling_rounds_up(side, pool):
    size, stride = pool
    if side + stride <= size:
        with pytest.raises(ValueError, match="stages: layer1's kernel or pool"):
            maxout_net([Stage(3, 1, 0, pool)], image=(1, side, side))
        return
    net = maxout_net([Stage(3, 1, 0, pool)], image=(1, side, side))
    # Windows start every `stride` inside the map, and the last one reaches its end or goes beyond it.
    starts = [0]
    while starts[-1] + size < side and starts[-1] + stride < side:
        starts.append(starts[-1] + stride)
    images = torch.randn(2, 1, side, side)
    values = torch.maximum(*net.layer1[0](images).chunk(2, dim=1))
    expected = [[values[:, :, y : y + size, x : x + size].amax((2, 3)) for x in starts] for y in starts]
    assert torch.equal(net.layer1(images), torch.stack([torch.stack(row, -1) for row in expected], -2))
    assert net.classifier[1].in_features == 3 * len(starts) ** 2


def test_a_group_ends_with_a_pool_and_the_last_with_a_large_one():
    assert thin_stages((4,), (5, 6), (7,)) == (
        Stage(4, 3, 1, (2, 2)),
        Stage(5, 3, 1),
        Stage(6, 3, 1, (2, 2)),
        Stage(7, 3, 1, (8, 8)),
    )
    for stages in (maxout.FITNET1, maxout.FITNET2, maxout.FITNET3, maxout.FITNET4):
        shapes = list(maps(maxout_net(stages, image=PICTURE, hidden=500), PICTURE).values())
        assert shapes[-3][1:] == (1, 1)


@pytest.mark.parametrize(
    ("stages", "layer"),
    [
        ((Stage(2, 29),), 1),
        ((Stage(2, 5), Stage(2, 25)), 2),
        ((Stage(2, 20, 0, (8, 8)), Stage(2, 3)), 2),
        ((Stage(2, 5), Stage(2, 23, 0, (4, 2))), 2),
    ],
)
def test_a_kernel_or_pool_that_is_too_large_is_named(stages, layer):
    with pytest.raises(ValueError, match=rf"stages: layer{layer}'s kernel or pool is larger than"):
        maxout_net(stages, image=DIGIT)
