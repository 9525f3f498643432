"""Networks to tap: one that changes its features in place, one that passes anything, and what is right of them."""

import torch
from small_networks import batch
from torch import Tensor, nn

from kdrepro import Outputs

INPUTS, TARGETS = batch()
PATHS = {"one": "block1", "sum": "block2:input", "line": "block2.line"}


class Block(nn.Module):
    """A layer whose output is changed in place afterwards, twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.line, self.relu = nn.Linear(width, width), nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.line(inputs)
        hidden += inputs
        return self.relu(hidden)


class Net(nn.Module):
    def __init__(self, seed: int = 0, *, breaks: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.block1, self.block2, self.head = Block(4), Block(4), nn.Linear(4, 5)
        self.breaks = breaks

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.block1(inputs)
        if self.breaks:
            torch._dynamo.graph_break()
        return self.head(self.block2(2 * hidden))


def by_hand(net: Net, inputs: Tensor) -> dict[str, Tensor]:
    """The features of PATHS and the logits, written out."""
    one = (net.block1.line(inputs) + inputs).relu()
    line = net.block2.line(2 * one)
    return {"one": one, "sum": 2 * one, "line": line, "logits": net.head((line + 2 * one).relu())}


def hooks(module: nn.Module) -> int:
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
    )
    return sum(len(getattr(part, kind)) for part in module.modules() for kind in kinds)


def assert_right(out: Outputs, net: Net, inputs: Tensor) -> None:
    expected = by_hand(net, inputs)
    torch.testing.assert_close({**out.features, "logits": out.logits}, expected)
    assert list(out.features) == list(PATHS)
    assert hooks(net) == 0


class Holder(nn.Module):
    """Passes what `make` makes of its input through a submodule, and gives the input as logits."""

    def __init__(self, make, *, times: int = 1, by_name: bool = False) -> None:
        super().__init__()
        self.part, self.make, self.times, self.by_name = Passes(), make, times, by_name

    def forward(self, inputs: Tensor) -> Tensor:
        for _ in range(self.times):
            value = self.make(inputs)
            self.part(value=value) if self.by_name else self.part(value)
        return inputs


class Passes(nn.Module):
    def forward(self, value):
        return value
