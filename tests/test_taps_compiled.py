"""Taps under torch.compile, around a network and inside of one."""

import copy

import pytest
import torch
from tapped_networks import INPUTS, PATHS, Holder, Net, assert_right, by_hand, hooks
from torch import nn

from kdrepro import Taps


def compiled(**changes):
    return {"backend": "eager", **changes}


def around(net: nn.Module):
    return torch.compile(Taps(net, PATHS), **compiled())


def around_in_one_graph(net: nn.Module):
    return torch.compile(Taps(net, PATHS), **compiled(fullgraph=True))


def inside(net: nn.Module):
    return Taps(torch.compile(net, **compiled()), PATHS)


def inside_after_a_call_without(net: nn.Module):
    whole = torch.compile(net, **compiled())
    whole(INPUTS)
    return Taps(whole, PATHS)


def around_after_a_call_without(net: nn.Module):
    torch.compile(net, **compiled())(INPUTS)
    return around_in_one_graph(net)


def around_after_an_eager_call(net: nn.Module):
    taps = Taps(net, PATHS)
    taps(INPUTS)
    return torch.compile(taps, **compiled())


def in_place(net: nn.Module):
    taps = Taps(net, PATHS)
    taps.compile(**compiled())
    return taps


WAYS = [
    around,
    around_in_one_graph,
    inside,
    inside_after_a_call_without,
    around_after_a_call_without,
    around_after_an_eager_call,
    in_place,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_compiled_it_gives_the_same_features(way):
    torch.compiler.reset()
    net = Net()
    own = [part._forward_hooks for part in net.modules()]
    call = way(net)
    for shift in range(3):
        out = call(INPUTS + shift)
        assert_right(out, net, INPUTS + shift)
    assert all(part._forward_hooks is before for part, before in zip(net.modules(), own, strict=True))
    out.features["line"].square().sum().backward()
    expected = torch.autograd.grad(by_hand(net, INPUTS + 2)["line"].square().sum(), net.block1.line.weight)[0]
    torch.testing.assert_close(net.block1.line.weight.grad, expected)


@pytest.mark.parametrize("way", [around, inside], ids=lambda way: way.__name__)
def test_compiled_with_a_break_in_the_graph_it_gives_the_same_features(way):
    torch.compiler.reset()
    net = Net(breaks=True)
    call = way(net)
    for shift in range(3):
        assert_right(call(INPUTS + shift), net, INPUTS + shift)


def test_code_that_was_compiled_in_pieces_without_hooks_is_noticed():
    torch.compiler.reset()
    net = Net(breaks=True)
    torch.compile(net, **compiled())(INPUTS)
    with pytest.raises(
        ValueError, match=r"was not called in this forward.*torch.compiler.reset\(\) forgets it"
    ):
        around(net)(INPUTS)


@pytest.mark.parametrize("what", ["net.compile()", "a block", "a block in place"])
def test_a_part_that_is_compiled_by_itself_is_refused_unless_all_is_compiled_around_it(what):
    torch.compiler.reset()
    net = Net()
    taps = Taps(net, PATHS)
    if what == "net.compile()":
        net.compile(**compiled())
    elif what == "a block":
        net.block2 = torch.compile(net.block2, **compiled())
    else:
        net.block2.compile(**compiled())
    with pytest.raises(ValueError, match=r"lies in a part that is compiled by itself .* torch.compile\(Taps"):
        taps(INPUTS)
    assert hooks(net) == 0
    assert_right(torch.compile(taps, **compiled())(INPUTS), net, INPUTS)


def test_the_output_of_a_block_that_is_compiled_as_a_whole_is_fine():
    torch.compiler.reset()
    net = Net()
    net.block1 = torch.compile(net.block1, **compiled())
    taps = Taps(net, {"one": "block1", "line": "block2.line"})
    for _ in range(2):
        out = taps(INPUTS)
        torch.testing.assert_close(out.features["one"], by_hand(net, INPUTS)["one"])


def test_what_goes_wrong_goes_wrong_when_compiled_too():
    torch.compiler.reset()
    for times, message in ((2, "called twice"), (0, "was not called")):
        net = Holder(lambda inputs: inputs, times=times)
        with pytest.raises(ValueError, match=rf"taps\['x'\]: 'part' .*{message}|{message}"):
            torch.compile(Taps(net, {"x": "part"}), backend="eager")(INPUTS)
        assert hooks(net) == 0


def test_a_compiled_network_in_taps_can_be_copied():
    torch.compiler.reset()
    taps = inside(Net())
    taps(INPUTS)
    twin = copy.deepcopy(taps)
    nn.init.zeros_(taps.module._orig_mod.block1.line.weight)
    assert_right(twin(INPUTS), twin.module._orig_mod, INPUTS)
