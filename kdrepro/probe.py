"""What the layers of a network give for one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdrepro.diagnoses import tensors
from kdrepro.taps import parts, tensor_in, wrapped_in
from kdrepro.teacher import run_module, untouched

# A module with more than this share of the layers inside is the network, not a part of it.
_WHOLE = 0.8


@dataclass(frozen=True)
class Layer:
    """A module that was called once, and its output for each example."""

    path: str
    shape: tuple[int, ...]
    signed: bool
    first: int  # how many modules without an inside had been called when it began
    last: int  # and when it ended
    holds: bool  # has modules inside
    weighs: bool  # multiplies by weights itself
    kind: type[nn.Module]
    depth: float = 0.0
    sequence: bool = False  # (C, L), as a one-dimensional convolution gives it, not (L, C)

    @property
    def size(self) -> tuple[int, ...]:
        """The positions: (H, W) of a map, (L,) of tokens and sequences, () of a vector."""
        if len(self.shape) == 3:
            return self.shape[:2] if channels_last(self.shape) else self.shape[1:]
        return self.shape[1:] if self.sequence else self.shape[:-1]

    def around(self, other: Layer) -> bool:
        """Whether the other lies inside, and is of another size."""
        return other.path.startswith(f"{self.path}.") and other.size != self.size


def channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a map is (H, W, C): its height and width are equal, and come first.

    So is one of (C, H, W) with as many channels as rows and not as many columns, which is taken for the other.
    """
    return len(shape) == 3 and shape[0] == shape[1] != shape[2]


class _Listener:
    """Notes what each module that is called gives for each example."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.leaves = 0
        self.calls: Counter[str] = Counter()
        self.started: dict[str, int] = {}
        self.found: dict[str, Layer] = {}

    def start(self, path: str) -> None:
        self.calls[path] += 1
        self.started[path] = self.leaves

    def end(self, path: str, module: nn.Module, output: object) -> None:
        holds = bool(module._modules)
        self.leaves += not holds
        value = tensor_in(output)
        if value is None or value.is_nested or not value.is_floating_point() or not 2 <= value.ndim <= 4:
            return
        if len(value) != self.count or not value.numel():
            return
        # What is below 0 by a rounding of the largest value is not below 0.
        signed = bool((value < -1e-6 * value.abs().amax()).any())
        self.found[path] = Layer(
            path=path,
            shape=tuple(value.shape[1:]),
            signed=signed,
            first=self.started[path],
            last=self.leaves,
            holds=holds,
            weighs=any(weight.ndim > 1 for weight in module._parameters.values() if weight is not None),
            kind=type(module),
        )


def layers_of(side: str, network: nn.Module, inputs: Tensor | Mapping[str, Any]) -> list[Layer]:
    """The modules that are called once and give a feature, in the order in which they end."""
    # Code that was compiled passes hooks by, and replicas would be several.
    while (inside := wrapped_in(network)) is not None:
        network = inside
    # The most of any input: some hold for all examples.
    count = max((len(value) for value in tensors(inputs).values() if value.ndim), default=0)
    if not count:
        raise ValueError("inputs: got no examples, expected at least one")
    listener, handles = _Listener(count), []
    with untouched(network), torch.no_grad():
        try:
            for path, module in parts(network):
                if path:
                    handles += [
                        module.register_forward_pre_hook(
                            lambda module, given, path=path: listener.start(path)
                        ),
                        module.register_forward_hook(
                            lambda module, given, output, path=path: listener.end(path, module, output)
                        ),
                    ]
            logits = run_module(network.eval(), inputs, side=side).logits
        finally:
            for handle in handles:
                handle.remove()
    # What has the shape of a convolution's output is one, or comes from one.
    sequences = {layer.shape for layer in listener.found.values() if issubclass(layer.kind, nn.Conv1d)}
    return [
        replace(layer, depth=layer.last / listener.leaves, sequence=layer.shape in sequences)
        for layer in listener.found.values()
        if listener.calls[layer.path] == 1
        and layer.last - layer.first <= max(1, _WHOLE * listener.leaves)
        and not (layer.last == listener.leaves and layer.shape == logits.shape[1:])
    ]
