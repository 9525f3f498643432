"""What the encoder-decoders share: checked sentences, and what a decoder remembers of its sources."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdrepro.types import PAD


def check_sentences(name: str, sentences: object, *, words: int, rows: int | None = None) -> Tensor:
    """Return `sentences`, or raise unless they are word numbers (B, L) below `words`, each sentence before its padding.

    The numbers are looked at on the CPU only: on another device that would make the host wait for it.
    """
    expected = "word numbers (B, L) with none of them empty"
    if not isinstance(sentences, Tensor):
        raise TypeError(f"{name}: got {type(sentences).__name__}, expected a tensor of {expected}")
    if sentences.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name}: got {sentences.dtype}, expected torch.int64 {expected}")
    if sentences.ndim != 2 or sentences.numel() == 0:
        raise ValueError(f"{name}: got shape {tuple(sentences.shape)}, expected {expected}")
    if rows is not None and len(sentences) != rows:
        raise ValueError(f"{name}: got {len(sentences)} sentences, expected {rows}, one for each source")
    if sentences.device.type == "cpu":
        low, high = int(sentences.min()), int(sentences.max())
        if low < 0 or high >= words:
            raise ValueError(
                f"{name}: got word numbers from {low} to {high}, expected numbers from 0 to {words - 1}"
            )
        there = sentences != PAD
        if not bool(there[:, 0].all()):
            row = int((~there[:, 0]).nonzero()[0])
            raise ValueError(
                f"{name}: got padding at the start of sentence {row}, expected a word: padding is at the end"
            )
        if bool((there[:, 1:] & ~there[:, :-1]).any()):
            row = int((there[:, 1:] & ~there[:, :-1]).any(dim=1).nonzero()[0])
            raise ValueError(
                f"{name}: got padding between the words of sentence {row}, expected it at the end"
            )
    return sentences


@dataclass(frozen=True)
class Memory:
    """What an encoder leaves of M sentences, each of which has `width` hypotheses in a row: M · `width` rows.

    `parts` are (M, ...). They stay as they are while hypotheses are only put in another order within their sentence,
    and all of a sentence's hypotheses look at one copy.
    """

    parts: tuple[Tensor, ...]
    width: int = 1

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.parts[0]) * self.width

    def select(self, index: Tensor) -> Memory:
        """Return the memory of the rows at `index` (B',), in that order, whatever they are."""
        sentences, counts = torch.unique_consecutive(
            torch.div(index, self.width, rounding_mode="floor"), return_counts=True
        )
        width = max(len(index) // max(len(sentences), 1), 1)
        if bool((counts != width).any()):
            # Some have more hypotheses than others: a copy for each.
            sentences, width = torch.div(index, self.width, rounding_mode="floor"), 1
        if len(sentences) == len(self.parts[0]) and bool(
            (sentences == torch.arange(len(sentences), device=index.device)).all()
        ):
            return Memory(self.parts, width)
        return Memory(tuple(part.index_select(0, sentences) for part in self.parts), width)
