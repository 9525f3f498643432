"""The LSTM encoder-decoder with global attention and input feeding of Luong, Pham & Manning (2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kdrepro import checks
from kdrepro.models import fused_recurrence, recurrence
from kdrepro.models.memory import Memory, check_sentences
from kdrepro.models.recurrence import attend, cell_step, dropout_factors
from kdrepro.types import PAD


class LSTMSeq2Seq(nn.Module):
    """An LSTM encoder-decoder with global attention and input feeding: sentences to the logits of their translations.

    Luong, Pham & Manning (2015), Effective approaches to attention-based neural machine translation, sections 3.1
    (global attention, the `general` score) and 3.3 (input feeding), as the toolkit of Kim & Rush (2016) builds it,
    harvardnlp/seq2seq-attn: the encoder reads in one direction; the decoder starts from the encoder's states after the
    last word, layer by layer, and from an attentional vector of zeros; words have vectors of `hidden` numbers; dropout
    is between the layers and on the attentional vector, which is then both fed back and shown to the output layer;
    score and attentional vector have no bias; all weights are drawn from U(−0.1, 0.1), and the vector of padding is 0.

    With h the decoder's highest state and s the encoder's, the attentional vector is
    tanh(W_c [Σ_j a_j s_j ; h]) with a = softmax_j(h · W_a s_j). The teacher of the paper's Thai-English is 2 × 500, its
    student 2 × 100.

    Shapes: `source` (B, S), and `previous` (B, L), which is `START` and then the target without its end, both with
    `PAD` at the end → logits (B, L, V). Padding changes nothing: not a real position's logits, not a gradient.
    While `compiled` is True, `torch.compile` makes kernels of what lies between the products of a step, in training on
    a GPU: a third as many launches, after some half a minute at the first batches, and numbers that are rounded
    otherwise. Where it cannot, there is a warning.
    Raises `ValueError` or `TypeError` for sizes below 1, a dropout outside [0, 1), and sentences that are empty, have
    padding inside, or words that the net does not know (the last three are looked at on the CPU only).

    >>> sum(parameter.numel() for parameter in LSTMSeq2Seq(6_000, 8_000, hidden=500).parameters())
    20766000
    """

    compiled = False

    def __init__(
        self,
        source_words: int,
        target_words: int,
        *,
        hidden: int = 500,
        layers: int = 2,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.source_words = checks.whole("source_words", source_words, least=1)
        self.target_words = checks.whole("target_words", target_words, least=1)
        self.hidden = checks.whole("hidden", hidden, least=1)
        self.layers = checks.whole("layers", layers, least=1)
        self.dropout = checks.fraction("dropout", dropout, below_one=True)
        gates = 4 * hidden
        self.source_embedding = nn.Embedding(source_words, hidden, padding_idx=PAD)
        self.target_embedding = nn.Embedding(target_words, hidden, padding_idx=PAD)
        # Of each layer, what it takes from below and from its own hidden state.
        self.encoder_inputs = nn.ModuleList(nn.Linear(hidden, gates) for _ in range(layers))
        self.encoder_states = nn.ModuleList(nn.Linear(hidden, gates, bias=False) for _ in range(layers))
        # The lowest layer takes the word before, which is known for all positions at once when a reference is read,
        # and the attentional vector before, which is not.
        self.decoder_words = nn.Linear(hidden, gates)
        self.decoder_states = nn.ModuleList(
            nn.Linear(2 * hidden, gates, bias=layer > 0) for layer in range(layers)
        )
        self.score = nn.Linear(hidden, hidden, bias=False)
        self.combine = nn.Linear(2 * hidden, hidden, bias=False)
        self.output = nn.Linear(hidden, target_words)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.zeros_(embedding.weight[PAD])

    def forward(self, source: Tensor, previous: Tensor) -> Tensor:
        memory, hidden, cell = self._read(source)
        check_sentences("previous", previous, words=self.target_words, rows=len(source))
        words = self.decoder_words(self.target_embedding(previous.t()))
        dropped = None
        if self.training and self.dropout:
            # Between the layers, and on the attentional vector.
            shape = (self.layers, previous.shape[1], len(source), self.hidden)
            dropped = dropout_factors(shape, self.dropout, like=words)
        weights = [each for layer in self.decoder_states for each in _weights_of(layer)]
        given = (words, *memory, hidden, cell, dropped, self._own(), *weights)
        if words.device.type == "cpu":
            vectors = recurrence.DecoderLoop.apply(*given)
        else:
            vectors = fused_recurrence.DecoderLoop.apply(self._with_kernels(words), *given)
        # In one piece, or torch would multiply sentence by sentence.
        logits: Tensor = self.output(vectors.transpose(0, 1).contiguous())
        return logits

    @torch.no_grad()
    def encode(self, source: Tensor) -> State:
        """Read the sentences (B, S), once for all steps of decoding, without dropout."""
        memory, hidden, cell = self._read(source, dropout=False)
        dtype = memory[0].dtype
        lowest, *others = [[each.to(dtype) for each in _weights_of(layer)] for layer in self.decoder_states]
        weights = _Weights(
            [
                torch.cat([self.decoder_words.weight.to(dtype), *lowest], dim=1),
                *(weight for weight, _ in others),
            ],
            [self.decoder_words.bias.to(dtype), *(bias for _, bias in others)],
            self._own().to(dtype),
            self.output.weight.to(dtype),
            self.output.bias.to(dtype),
        )
        return State(Memory(memory), hidden, cell, torch.zeros_like(hidden[0]), weights)

    @torch.no_grad()
    def step(self, state: State, previous: Tensor) -> tuple[Tensor, State]:
        """Take the words before (B,) and return the logits of the next (B, V), and the state after it."""
        weights, memory = state.weights, state.memory
        keys, values, blocked = memory.parts
        below = torch.cat([self.target_embedding(previous).to(keys.dtype), state.fed], dim=1)
        hidden, cell = [], []
        for layer in range(self.layers):
            taken = torch.cat([below, state.hidden[layer]], dim=1)
            sums = linear(taken, weights.gates[layer], weights.biases[layer]).to(state.cell.dtype)
            output, new, squashed = cell_step(sums, state.cell[layer])
            below = (output * squashed).to(keys.dtype)
            hidden.append(below)
            cell.append(new)
        # The hypotheses of one sentence look at it together.
        grouped = (len(keys), memory.width, self.hidden)
        own = linear(below, weights.own)
        vectors, _ = attend(below.view(grouped), own.view(grouped), keys, values, blocked)
        fed = vectors.to(keys.dtype).view_as(below)
        after = State(memory, torch.stack(hidden), torch.stack(cell), fed, weights)
        return linear(fed, weights.output, weights.output_bias), after

    def _with_kernels(self, values: Tensor) -> bool:
        return self.compiled and self.training and fused_recurrence.can_compile(values.device)

    def _own(self) -> Tensor:
        """The half of W_c that the decoder's own state takes."""
        return self.combine.weight[:, self.hidden :]

    def _read(
        self, source: Tensor, *, dropout: bool = True
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """Return keys, values and what blocks padding, and the hidden states and cells after each last word."""
        check_sentences("source", source, words=self.source_words)
        padding = source == PAD
        last = (~padding).sum(dim=1) - 1
        states = self.source_embedding(source.t())
        ends = []
        for layer, (inputs, own) in enumerate(zip(self.encoder_inputs, self.encoder_states, strict=True)):
            if layer and dropout and self.training and self.dropout:
                states = states * dropout_factors(states.shape, self.dropout, like=states).to(states.dtype)
            taken = (inputs(states), own.weight, last)
            if states.device.type == "cpu":
                states, *end = recurrence.EncoderLayer.apply(*taken)
            else:
                states, *end = fused_recurrence.EncoderLayer.apply(self._with_kernels(states), *taken)
            ends.append(end)
        hidden, cell = (torch.stack(each) for each in zip(*ends, strict=True))
        # W_a, of which `score` holds the transpose, and the half of W_c that takes the source, multiplied with all
        # positions of it before the first step.
        weight = torch.cat([self.score.weight.t(), self.combine.weight[:, : self.hidden]])
        keys, values = (each.transpose(0, 1).contiguous() for each in linear(states, weight).chunk(2, dim=-1))
        blocked = torch.zeros_like(padding, dtype=keys.dtype).masked_fill_(padding, -torch.inf)
        return (keys, values, blocked.unsqueeze(1)), hidden, cell


def _weights_of(layer: nn.Module) -> list[Tensor]:
    """The weight of a linear layer and its bias if it has one, as they are: pruned, parametrised, or a replica's."""
    return [each for name in ("weight", "bias") if isinstance(each := getattr(layer, name), Tensor)]


class _Weights(NamedTuple):
    """The decoder's weights in the type that a step computes in."""

    gates: list[Tensor]
    biases: list[Tensor]
    own: Tensor
    output: Tensor
    output_bias: Tensor


@dataclass(frozen=True)
class State:
    """Where the decoder stands in each of B hypotheses."""

    memory: Memory
    hidden: Tensor
    cell: Tensor
    fed: Tensor
    weights: _Weights

    def select(self, index: Tensor) -> State:
        """Return the state of the hypotheses at `index` (B',), in that order: some may be left out or repeated."""
        return State(
            self.memory.select(index),
            self.hidden.index_select(1, index),
            self.cell.index_select(1, index),
            self.fed.index_select(0, index),
            self.weights,
        )
