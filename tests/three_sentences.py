"""Three sentences of different lengths, and encoder-decoders in float64 to read them."""

from __future__ import annotations

import torch

from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.models.transformer import TransformerSeq2Seq
from kdrepro.types import PAD, START

SOURCE = torch.tensor([[4, 5, 6, 7, 3], [5, 9, 0, 0, 0], [8, 10, 4, 0, 0]])
PREVIOUS = torch.tensor([[START, 5, 6, 12], [START, 4, 0, 0], [START, 0, 0, 0]])
TARGETS = torch.tensor([[5, 6, 12, 2], [4, 2, 0, 0], [2, 0, 0, 0]])
MASK = PREVIOUS != PAD


def make_lstm(*, layers: int = 2, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> LSTMSeq2Seq:
    torch.manual_seed(layers)
    net = LSTMSeq2Seq(11, 13, hidden=6, layers=layers, dropout=dropout).to(dtype)
    with torch.no_grad():
        # Larger than its initial weights, so that the gates and the attention are not all but even.
        for parameter in net.parameters():
            parameter.mul_(8)
    return net


def make_transformer(*, layers: int = 2, dropout: float = 0.0, heads: int = 2) -> TransformerSeq2Seq:
    torch.manual_seed(layers)
    net = TransformerSeq2Seq(11, 13, hidden=8, layers=layers, heads=heads, dropout=dropout).double()
    with torch.no_grad():
        # Neither ones nor zeros where they would hide a factor or a term that is left out.
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for embedding in (net.source_embedding, net.target_embedding):
            embedding.weight[PAD] = 0
    return net
