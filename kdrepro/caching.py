"""A teacher asked once for all: its outputs on a whole data set, looked up instead of computed again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kdrepro import checks, devices
from kdrepro.checkpoints import load_tensors, save_tensors
from kdrepro.data.batches import Batches
from kdrepro.teacher import FrozenTeacher
from kdrepro.types import Batch, Outputs


class CachedTeacher:
    """A teacher's logits (N, K) and features on a whole data set, looked up by `batch.index`. See `cache_teacher`."""

    def __init__(self, logits: Tensor, features: Mapping[str, Tensor] | None = None) -> None:
        self.logits = checks.logits("logits", logits)
        self.features = dict(features or {})

    def save(self, file: Path) -> None:
        """Write the outputs to a safetensors file, atomically."""
        features = {f"features.{name}": value for name, value in self.features.items()}
        save_tensors({"logits": self.logits} | features, file, metadata={})

    @classmethod
    def load(cls, file: Path) -> CachedTeacher:
        """Read what `save` wrote. Raises `ValueError` naming the file when it is truncated or holds anything else."""
        tensors = load_tensors(file)
        if "logits" not in tensors:
            raise ValueError(f"{file}: got no logits, expected a teacher's outputs; delete it to ask again")
        features = {
            name.removeprefix("features."): value for name, value in tensors.items() if name != "logits"
        }
        return cls(tensors["logits"], features)

    def to(self, device: torch.device | str) -> CachedTeacher:
        """Return the same cache on `device`."""
        return CachedTeacher(
            self.logits.to(device), {name: value.to(device) for name, value in self.features.items()}
        )

    def check_fits(self, batches: Batches) -> None:
        """Raise `ValueError` if the cached outputs cannot be those of the inputs that `batches` gives."""
        if batches.augment is not None:
            raise ValueError("teacher: got cached outputs with augmented batches: they belong to other views")
        if len(self.logits) != len(batches.inputs):
            raise ValueError(
                f"teacher: got cached outputs of {len(self.logits)} examples, expected {len(batches.inputs)}"
            )

    def look_up(self, batch: Batch) -> Outputs:
        """Return the logits and features of the examples of `batch`."""
        if batch.index is None:
            raise ValueError(
                "batch.index: got None, expected the examples' positions (a cached teacher looks them up)"
            )
        return Outputs(
            self.logits[batch.index], {name: value[batch.index] for name, value in self.features.items()}
        )


def cache_teacher(
    teacher: nn.Module | FrozenTeacher,
    batches: Batches,
    *,
    temperature: float = 1.0,
    device: str = "auto",
    precision: str = "auto",
) -> CachedTeacher:
    """Run the teacher once over the data of `batches`: right only where student and teacher see the same view.

    `temperature` matters to an ensemble only (the members are averaged after softening). The precision is that of the
    `fit` the cache is for, so that the cached loss equals the uncached one.
    Raises `ValueError` when `batches` augments: the cached outputs would belong to other inputs.
    """
    if batches.augment is not None:
        raise ValueError(
            "batches: got augmented batches, expected none: cached outputs would belong to other views"
        )
    frozen = teacher if isinstance(teacher, FrozenTeacher) else FrozenTeacher(teacher)
    where = devices.accelerator(device).device
    frozen.to(where)
    with devices.autocast(devices.precision_for(precision, where), where):
        parts = [
            frozen(part.to(where), temperature=temperature)
            for part in torch.split(batches.inputs, batches.batch_size)
        ]
    features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
    return CachedTeacher(torch.cat([part.logits for part in parts]), features)
