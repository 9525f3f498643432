"""What every data set of inputs and classes is, and where data sets lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Inputs (N, C, H, W), float32, and targets (N,), int64. The loader says in which units the inputs are."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Tensor) -> Examples:
        """Return the examples at `index`: positions (M,), or a boolean mask (N,)."""
        return Examples(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class DataSet:
    """A data set: its name, a digest of its content, and its training and test examples."""

    name: str
    digest: str
    train: Examples
    test: Examples

    def held_out(self, count: int) -> DataSet:
        """Put the last `count` training examples in the place of the test set.

        Everything that is chosen is chosen on these; the test set is looked at once, at the end.
        Raises `ValueError` unless 1 <= `count` < the number of training examples.
        """
        if not 1 <= count < len(self.train):
            raise ValueError(f"count: got {count}, expected 1 to {len(self.train) - 1}")
        # Slices share memory with the whole, which for pictures is most of a gigabyte.
        inputs, targets = self.train.inputs, self.train.targets
        kept = Examples(inputs[:-count], targets[:-count])
        return DataSet(self.name, self.digest, kept, Examples(inputs[-count:], targets[-count:]))

    def few(self, train: int, test: int) -> DataSet:
        """Keep the first `train` training and `test` test examples."""
        kept = [
            Examples(part.inputs[:count], part.targets[:count])
            for part, count in ((self.train, train), (self.test, test))
        ]
        return DataSet(self.name, self.digest, *kept)


def folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Return where data sets lie: `root`, `$KDREPRO_DATA`, or `~/.cache/kdrepro`."""
    if root is None:
        root = os.environ.get("KDREPRO_DATA") or Path.home() / ".cache" / "kdrepro"
    return Path(root).expanduser()
