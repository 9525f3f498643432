"""What passes between the parts: a batch of data, and what a network makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from kdrepro.tracing import at_hand

# The first words of every vocabulary, by number: padding, the start and the end of a sentence, and any word not in it.
PAD, START, END, UNKNOWN = 0, 1, 2, 3


def precise(dtype: torch.dtype) -> torch.dtype:
    """Return the type that sums, softmaxes and losses are computed in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def at_least_float32(values: Tensor) -> Tensor:
    """Widen half precision to float32; float64 stays as it is."""
    return values.to(precise(values.dtype))


Inputs = Tensor | Mapping[str, Tensor]


def taken(inputs: Inputs, rows: slice | Tensor) -> Inputs:
    """Some of the examples of inputs."""
    if isinstance(inputs, Tensor):
        return inputs[rows]
    return {name: each[rows] for name, each in inputs.items()}


def in_parts(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """The examples of inputs in order, `size` at a time, and the rest."""
    whole = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    for first in range(0, len(whole), size):
        yield taken(inputs, slice(first, first + size))


def moved(inputs: Inputs, device: torch.device | str) -> Inputs:
    """The same inputs on `device`."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    return {name: each.to(device) for name, each in inputs.items()}


@dataclass(frozen=True)
class Batch:
    """One batch of training data.

    Shapes: `inputs` (B, ...), or a mapping of such tensors, which a network takes as keyword arguments; `targets` (B,)
    or (B, L) class numbers, `None` where nothing is labelled; `mask` one for each logit vector, as the targets,
    boolean, True where a position counts (`None`: all do); `index` (B,) positions of the examples in their data set.
    """

    inputs: Inputs
    targets: Tensor | None
    mask: Tensor | None = None
    index: Tensor | None = None

    @property
    def size(self) -> int:
        """How many examples there are: as many as targets, or the most of any input, as some hold for all."""
        if isinstance(self.targets, Tensor) and self.targets.ndim:
            return len(self.targets)
        given = self.inputs.values() if isinstance(self.inputs, Mapping) else [self.inputs]
        return max((len(each) for each in given if isinstance(each, Tensor) and each.ndim), default=0)

    @property
    def counted_targets(self) -> Tensor:
        """The targets, with class 0 where `mask` leaves a position out: padding is often -100, which is no class.

        Raises `TypeError` where there are none. A mask that does not fit is left for `masked_mean` to refuse.
        """
        mask = self.mask
        if self.targets is None:
            raise TypeError(
                "targets: got None, expected class numbers, which this objective reads; without labels train under one "
                "that reads none, such as HintonKD(..., soft_weight=1), BornAgain() or HintStage"
            )
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            return self.targets
        if mask.shape != getattr(self.targets, "shape", None):
            return self.targets
        return self.targets.masked_fill(~mask, 0)

    def mask_of_samples(self, feature: Tensor) -> Tensor | None:
        """Return the mask (B,) for one value of each sample of a feature: a sample counts if any position of it does.

        Of a feature that is a row of positions itself, (B, L, C), padding would count along: there the mask stays as it
        is, for `masked_mean` to refuse where it is no (B,).
        """
        mask = self.mask
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim < 2 or feature.ndim == 3:
            return mask
        return _any_counts(mask)

    def every(self, step: int, *, first: int) -> Batch:
        """Every `step`-th example, from the one at `first` on."""
        rows = slice(first, None, step)
        return Batch(
            taken(self.inputs, rows),
            None if self.targets is None else self.targets[rows],
            None if self.mask is None else self.mask[rows],
            None if self.index is None else self.index[rows],
        )

    def counted(self, outputs: Outputs) -> Outputs:
        """The outputs, with logits of 0 where `mask` leaves a position out, and features of 0 where it does a sample.

        What stands there, NaN from attention over padding alone for instance, would reach the gradient of the others.
        """
        mask, logits, features = self.mask, outputs.logits, outputs.features
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            return outputs
        if mask.ndim and features:
            left_out = ~_any_counts(mask)
            features = {
                name: without(value, left_out) if value.shape[:1] == mask.shape[:1] else value
                for name, value in features.items()
            }
        if mask.shape == logits.shape[:-1]:
            logits = without(logits, ~mask)
        return replace(outputs, logits=logits, features=features)

    def counted_teacher(self, teacher: Outputs | None) -> Outputs:
        """The teacher's outputs as `counted` has them; `ValueError` where there are none."""
        if teacher is None:
            raise ValueError("teacher: got None, expected the teacher's outputs")
        return self.counted(teacher)


@dataclass(frozen=True)
class Outputs:
    """What a network gives for a batch: `logits` (B, K) or (B, L, K), and named intermediate `features` (B, …).

    Of several networks `temperature` is that at which their classes were averaged, of one it is `None`.
    """

    logits: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    temperature: float | None = None


# DistributedDataParallel with a static graph, and others that walk through what a module returns, look inside.
register_pytree_node(
    Outputs,
    lambda outputs: ([outputs.logits, outputs.features], outputs.temperature),
    lambda parts, temperature: replace(Outputs(*parts), temperature=temperature),
    serialized_type_name="kdrepro.Outputs",
)


class TrainingData(Protocol):
    """What `fit` asks of a data set in batches: `Batches` for whole tensors, `SentenceBatches` for text."""

    seed: int
    batch_size: int

    @property
    def examples(self) -> int:
        """How many examples there are."""

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""

    def to(self, device: torch.device | str) -> TrainingData:
        """Return the same batches with the data on `device`."""

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 0: the same ones for the same seed and epoch."""

    def first(self, count: int) -> Batch:
        """Return the first examples, as they are."""

    def check_classes(self, classes: int) -> None:
        """Raise `ValueError` unless every target that counts is a class number below `classes`."""


def as_outputs(value: Any, *, side: str = "model") -> Outputs:
    """Take what a module returned as `Outputs`: a tensor of logits, `Outputs`, or what has `.logits` or `["logits"]`.

    Raises `TypeError` naming the `side` (student or teacher) for anything else, with the three lines that pick the
    logits out, `ValueError` for logits without a batch or of one class.
    """
    logits = value if isinstance(value, Tensor) else getattr(value, "logits", None)
    if logits is None and isinstance(value, Mapping):
        logits = value.get("logits")
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"{side}: its forward returned {type(value).__name__}, expected a tensor of logits, kdrepro.Outputs, or "
            f"something with a tensor as `.logits` or `['logits']`; Logits({side}) picks them out:\n\n"
            "    class Logits(torch.nn.Sequential):\n"
            "        def forward(self, *args, **kwargs):\n"
            f"            return self[0](*args, **kwargs){_where_logits_may_be(value)}"
        )
    if logits.ndim < 2 or logits.shape[-1] == 1:
        raise ValueError(
            f"{side}: its logits have shape {tuple(logits.shape)}, expected (B, K) or (B, L, K) with two classes at "
            "least; a single logit z for two classes is torch.stack([torch.zeros_like(z), z], dim=-1), and what is no "
            "classifier gives its outputs as a feature, for an objective that reads it"
        )
    return value if isinstance(value, Outputs) else Outputs(logits)


def _where_logits_may_be(value: object) -> str:
    """How to get at the first tensor of what a module returned, as code; `.logits` where there is none to be seen."""
    pairs: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, tuple | list):
        pairs = enumerate(value)
    return next((f"[{key!r}]" for key, each in pairs if isinstance(each, Tensor)), ".logits")


def tapped(side: str, outputs: Outputs | None, name: str) -> Tensor:
    """Return a feature by name, or raise `ValueError` naming the `side`, the features it has, and `Taps`."""
    found = outputs.features if outputs is not None else {}
    if name not in found:
        there = ", ".join(sorted(found)) or "none"
        raise ValueError(f"{side}: got the features {there}, expected {name!r}: name it with kdrepro.Taps")
    return found[name]


def _any_counts(mask: Tensor) -> Tensor:
    """Whether any position of a sample counts: (B, ...) → (B,)."""
    return mask if mask.ndim == 1 else mask.flatten(1).any(dim=1)


def without(values: Tensor, left_out: Tensor) -> Tensor:
    """Put 0 at some positions: (*positions, ...), (*positions) → (*positions, ...)."""
    if not at_hand(values, left_out):
        spread = left_out.reshape(*left_out.shape, *[1] * (values.ndim - left_out.ndim))
        return values.masked_fill(spread, 0)
    # By their numbers: on a CPU, to spread a mask over thousands of words takes longer than their loss does.
    rows = left_out.flatten().nonzero().squeeze(1)
    return values.flatten(0, left_out.ndim - 1).index_fill(0, rows, 0).view_as(values)
