"""Taps in replicas, threads and wrappers: each captures its own."""

import threading

import pytest
import torch
from tapped_networks import INPUTS, PATHS, Block, Net, assert_right, by_hand, hooks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdrepro import Taps
from kdrepro.taps import parts


class Replicated(nn.DataParallel):
    """DataParallel without its devices: replicas that share hooks, each in a thread of its own."""

    def __init__(self, module: nn.Module, count: int = 2) -> None:
        nn.Module.__init__(self)
        self.module, self.count = module, count

    def forward(self, inputs: Tensor):
        pieces, gathered = inputs.chunk(self.count), [None] * self.count
        replicas = [replica(self.module) for _ in pieces]

        def work(place: int) -> None:
            gathered[place] = replicas[place](pieces[place])

        in_threads(self.count, work)
        return gather(gathered)


def replica(module: nn.Module) -> nn.Module:
    """As torch.nn.parallel.replicate makes them."""
    twin = module._replicate_for_data_parallel()
    for name, value in module._parameters.items():
        setattr(twin, name, None if value is None else value.view_as(value))
    for name, child in module._modules.items():
        setattr(twin, name, replica(child))
    return twin


def gather(values):
    """As torch.nn.parallel.gather does, which knows tensors, mappings and sequences."""
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(values)
    if isinstance(first, dict):
        return type(first)((name, gather([value[name] for value in values])) for name in first)
    return type(first)(map(gather, zip(*values, strict=True)))


def in_threads(count: int, work) -> None:
    errors = []

    def guarded(place: int) -> None:
        try:
            work(place)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if errors:
        raise errors[0]


class Meets(nn.Module):
    """Waits until all threads are here, so that their forwards overlap."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(count, timeout=20)

    def forward(self, inputs: Tensor) -> Tensor:
        self.barrier.wait()
        return inputs


def meeting_net(count: int = 2) -> Net:
    net = Net()
    net.block1, net.block1.relu = Block(4), nn.Sequential(Meets(count), nn.ReLU(inplace=True))
    return net


def test_replicas_capture_each_their_own_and_the_wrapper_gathers_them_in_order():
    net = meeting_net()
    parallel = Replicated(net)
    taps = Taps(parallel, PATHS)
    for _ in range(3):
        out = taps(INPUTS)
        assert list(out.features) == list(PATHS)
        expected = by_hand(net, INPUTS)
        torch.testing.assert_close({**out.features, "logits": out.logits}, expected)
    assert parallel.module is net
    out.features["one"].sum().backward()
    expected = torch.autograd.grad(expected["one"].sum(), net.block1.line.weight)[0]
    torch.testing.assert_close(net.block1.line.weight.grad, expected)
    assert hooks(parallel) == 0


def test_taps_inside_what_is_replicated_keep_the_threads_apart():
    class Step(nn.Module):
        def __init__(self, taps: Taps) -> None:
            super().__init__()
            self.taps = taps

        def forward(self, inputs):
            out = self.taps(inputs)
            return out.logits, out.features

    net = meeting_net()
    logits, features = Replicated(Step(Taps(net, PATHS)))(INPUTS)
    torch.testing.assert_close({**features, "logits": logits}, by_hand(net, INPUTS))
    assert hooks(net) == 0


def test_two_threads_may_ask_one_network():
    net = meeting_net(count=4)
    taps, found = [Taps(net, PATHS), Taps(net, PATHS)], [None] * 4

    def work(place: int) -> None:
        found[place] = taps[place % 2](INPUTS + place)

    in_threads(4, work)
    for place, out in enumerate(found):
        torch.testing.assert_close(out.features["line"], by_hand(net, INPUTS + place)["line"])
    assert hooks(net) == 0


def test_data_parallel_without_devices():
    net = Net()
    assert_right(Taps(nn.DataParallel(net), PATHS)(INPUTS), net, INPUTS)
    assert_right(nn.DataParallel(Taps(net, PATHS))(INPUTS), net, INPUTS)
    out = Taps(nn.DataParallel(net), {"line": "module.block2.line"})(INPUTS)
    assert torch.equal(out.features["line"], by_hand(net, INPUTS)["line"])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_data_parallel_on_two_devices():
    net = Net().cuda()
    out = Taps(nn.DataParallel(net), PATHS)(INPUTS.cuda())
    torch.testing.assert_close({**out.features, "logits": out.logits}, by_hand(net, INPUTS.cuda()))


@pytest.fixture
def one_process():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel_inside_and_outside(one_process):
    for wrap in (
        lambda net: Taps(DistributedDataParallel(net), PATHS),
        lambda net: DistributedDataParallel(Taps(net, PATHS)),
    ):
        net = Net()
        wrapped = wrap(net)
        for _ in range(2):
            out = wrapped(INPUTS)
            assert_right(out, net, INPUTS)
            (out.logits.sum() + sum(value.sum() for value in out.features.values())).backward()
        assert net.block1.line.weight.grad is not None


def test_paths_are_listed_without_those_of_wrappers():
    net = Net()
    plain = [path for path, _ in net.named_modules()]
    wrapped = nn.DataParallel(net)
    net.block2.line = torch.compile(net.block2.line, backend="eager")
    assert [path for path, _ in parts(wrapped)] == plain
