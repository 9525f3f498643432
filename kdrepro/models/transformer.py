"""A small Transformer of the same interface as the LSTM encoder-decoder, for readers of today."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import relu, scaled_dot_product_attention

from kdrepro import checks
from kdrepro.models.memory import Memory, check_sentences
from kdrepro.types import PAD

# Keys and values (B, heads, S, H / heads): what attention reads.
KeysValues = tuple[Tensor, Tensor]


class TransformerSeq2Seq(nn.Module):
    """A Transformer encoder-decoder: sentences to the logits of their translations.

    Vaswani et al. (2017), Attention is all you need, section 3: sinusoidal positions, multi-head attention, two linear
    layers of 4 · `hidden` with a ReLU between, dropout on what each part adds, on the sums of words and positions, and
    on the attention weights. No part of the paper that this project reproduces: Kim & Rush (2016) had LSTMs.

    Departs from it: layer normalisation comes before each part, and once at the end (Xiong et al., 2020, On layer
    normalization in the Transformer architecture), which trains without a warm-up of the learning rate; the output
    layer has weights of its own.

    Shapes: `source` (B, S), and `previous` (B, L), which is `START` and then the target without its end, both with
    `PAD` at the end → logits (B, L, V). Padding changes nothing: not a real position's logits, not a gradient.
    Raises `ValueError` or `TypeError` for sizes below 1, a `hidden` that `heads` do not divide, a dropout outside
    [0, 1), and sentences that are empty, have padding inside, or words that the net does not know (the last three are
    looked at on the CPU only).

    >>> net = TransformerSeq2Seq(20, 30, hidden=16, layers=1, heads=2)
    >>> net(torch.tensor([[5, 6, 7]]), torch.tensor([[1, 8]])).shape
    torch.Size([1, 2, 30])
    """

    def __init__(
        self,
        source_words: int,
        target_words: int,
        *,
        hidden: int = 256,
        layers: int = 3,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.source_words = checks.whole("source_words", source_words, least=1)
        self.target_words = checks.whole("target_words", target_words, least=1)
        self.hidden = checks.whole("hidden", hidden, least=1)
        self.layers = checks.whole("layers", layers, least=1)
        self.heads = checks.whole("heads", heads, least=1)
        if hidden % heads:
            raise ValueError(f"heads: got {heads}, expected a number that divides hidden, {hidden}")
        self.dropout = checks.fraction("dropout", dropout, below_one=True)
        self.source_embedding = nn.Embedding(source_words, hidden, padding_idx=PAD)
        self.target_embedding = nn.Embedding(target_words, hidden, padding_idx=PAD)
        self.encoder = nn.ModuleList(_Layer(hidden, heads, reads_source=False) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(hidden)
        self.decoder = nn.ModuleList(_Layer(hidden, heads, reads_source=True) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, target_words)
        for embedding in (self.source_embedding, self.target_embedding):
            # What √hidden makes one again.
            nn.init.normal_(embedding.weight, std=hidden**-0.5)
            nn.init.zeros_(embedding.weight[PAD])

    def forward(self, source: Tensor, previous: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        *memory, there = self._read(source, dropout)
        check_sentences("previous", previous, words=self.target_words, rows=len(source))
        states = drop(self._words(self.target_embedding, previous), dropout)
        for layer, keys, values in zip(self.decoder, memory[0::2], memory[1::2], strict=True):
            states, _ = layer(states, source=(keys, values), there=there, dropout=dropout)
        logits: Tensor = self.output(self.decoder_norm(states))
        return logits

    @torch.no_grad()
    def encode(self, source: Tensor) -> State:
        """Read the sentences (B, S), once for all steps of decoding, without dropout."""
        return State(Memory(tuple(self._read(source, 0.0))), [])

    @torch.no_grad()
    def step(self, state: State, previous: Tensor) -> tuple[Tensor, State]:
        """Take the words before (B,) and return the logits of the next (B, V), and the state after it."""
        *memory, there = state.memory.parts
        place = state.before[0][0].shape[2] if state.before else 0
        states = self._words(self.target_embedding, previous.unsqueeze(1), first=place)
        after = []
        for number, layer in enumerate(self.decoder):
            before = state.before[number] if state.before else None
            source = (memory[2 * number], memory[2 * number + 1])
            states, seen = layer(states, before=before, source=source, there=there)
            after.append(seen)
        return self.output(self.decoder_norm(states)).squeeze(1), State(state.memory, after)

    def _words(self, embedding: nn.Embedding, words: Tensor, *, first: int = 0) -> Tensor:
        """Vectors of words (B, L) at the places from `first` on, (B, L, H)."""
        vectors: Tensor = embedding(words) * math.sqrt(self.hidden)
        return vectors + positions(words.shape[1], self.hidden, first=first, like=vectors)

    def _read(self, source: Tensor, dropout: float) -> list[Tensor]:
        """Return the keys and values of the source for each layer of the decoder, and where it has words."""
        check_sentences("source", source, words=self.source_words)
        there = (source != PAD)[:, None, None, :]
        states = drop(self._words(self.source_embedding, source), dropout)
        for layer in self.encoder:
            states = layer(states, there=there, dropout=dropout)[0]
        states = self.encoder_norm(states)
        decoder = cast(Iterable[_Layer], self.decoder)
        return [*(each for layer in decoder for each in layer.attend_source.remember(states)), there]


def positions(length: int, hidden: int, *, first: int = 0, like: Tensor) -> Tensor:
    """Return sines and cosines of the places from `first` on, (L, H): Vaswani et al. (2017), section 3.5."""
    exact = torch.promote_types(like.dtype, torch.float32)
    places = torch.arange(first, first + length, device=like.device, dtype=exact).unsqueeze(1)
    numbers = torch.arange(0, hidden, 2, device=like.device, dtype=exact)
    angles = places * torch.exp(numbers * (-math.log(10_000) / hidden))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :hidden].to(like.dtype)


class _Attention(nn.Module):
    """Multi-head attention: Vaswani et al. (2017), section 3.2."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key_value = nn.Linear(hidden, 2 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def remember(self, states: Tensor) -> KeysValues:
        """Return the keys and values of what is looked at, (B, S, H)."""
        keys, values = self.key_value(states).chunk(2, dim=-1)
        return self._split(keys), self._split(values)

    def forward(
        self,
        states: Tensor,
        looked_at: KeysValues,
        *,
        there: Tensor | None = None,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> Tensor:
        """Look from `states` (B, L, H), at positions that are `there`, or if `causal` only at those up to one's own."""
        keys, values = looked_at
        shape = states.shape
        # The hypotheses of one sentence, of one position each, look at it together.
        queries = self._split(self.query(states).view(len(keys), -1, shape[2]))
        found = scaled_dot_product_attention(
            queries, keys, values, attn_mask=there, dropout_p=dropout, is_causal=causal
        )
        result: Tensor = self.out(found.transpose(1, 2).reshape(shape))
        return result

    def _split(self, vectors: Tensor) -> Tensor:
        return vectors.view(*vectors.shape[:2], self.heads, -1).transpose(1, 2)


class _Layer(nn.Module):
    """Attention to its own sentence, to the source where there is one, and two linear layers, each added to its input.

    In the encoder a position looks at all of the sentence, in the decoder at what came before it.
    """

    def __init__(self, hidden: int, heads: int, *, reads_source: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.attend = _Attention(hidden, heads)
        self.reads_source = reads_source
        if reads_source:
            self.source_norm = nn.LayerNorm(hidden)
            self.attend_source = _Attention(hidden, heads)
        self.linear_norm = nn.LayerNorm(hidden)
        self.widen = nn.Linear(hidden, 4 * hidden)
        self.narrow = nn.Linear(4 * hidden, hidden)

    def forward(
        self,
        states: Tensor,
        *,
        before: KeysValues | None = None,
        source: KeysValues | None = None,
        there: Tensor | None = None,
        dropout: float = 0.0,
    ) -> tuple[Tensor, KeysValues]:
        """Return the states (B, L, H) and the keys and values of the sentence so far.

        `there` is where the source has words; `before` the keys and values of the words before the first of `states`.
        """
        normed = self.norm(states)
        own = self.attend.remember(normed)
        if before is not None:
            own = (torch.cat([before[0], own[0]], dim=2), torch.cat([before[1], own[1]], dim=2))
        # A single position looks at all that is before it.
        causal = self.reads_source and states.shape[1] > 1
        mask = None if self.reads_source else there
        states = states + drop(self.attend(normed, own, there=mask, causal=causal, dropout=dropout), dropout)
        if source is not None:
            normed = self.source_norm(states)
            states = states + drop(self.attend_source(normed, source, there=there, dropout=dropout), dropout)
        inner = relu(self.widen(self.linear_norm(states)))
        return states + drop(self.narrow(inner), dropout), own


@dataclass(frozen=True)
class State:
    """Where the decoder stands in each of B hypotheses."""

    memory: Memory
    before: list[KeysValues]

    def select(self, index: Tensor) -> State:
        """Return the state of the hypotheses at `index` (B',), in that order: some may be left out or repeated."""
        before = [
            (keys.index_select(0, index), values.index_select(0, index)) for keys, values in self.before
        ]
        return State(self.memory.select(index), before)
