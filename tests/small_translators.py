"""Small translators that are sure of what they never learnt, and what they say of a translation."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import nn

from kdrepro.decode import Hypothesis
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.models.transformer import TransformerSeq2Seq
from kdrepro.types import END, START, UNKNOWN

SOURCE_WORDS = 9
NETS = ("lstm", "transformer")


def make(kind: str, *, seed: int = 0, words: int = 6) -> nn.Module:
    """A net in float64 that has learnt nothing but is sure of it: other words after other words."""
    torch.manual_seed(seed)
    if kind == "lstm":
        net: nn.Module = LSTMSeq2Seq(SOURCE_WORDS, words, hidden=16, dropout=0.5)
    else:
        net = TransformerSeq2Seq(SOURCE_WORDS, words, hidden=16, layers=1, heads=2, dropout=0.5)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=4 / parameter.shape[1] ** 0.5)
        for embedding in (net.source_embedding, net.target_embedding):
            embedding.weight.normal_(std=2 if kind == "lstm" else 0.5)
        net.output.weight.normal_(std=0.5)
        net.output.bias.zero_()
        # So that sentences end at different lengths, however many words there are.
        net.output.bias[END] = math.log(words / 5)
    return net.double().eval()


def some_sources(count: int, *, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(UNKNOWN, SOURCE_WORDS) for _ in range(draw.randint(1, 7))] for _ in range(count)]


@torch.no_grad()
def log_prob(net: nn.Module, source: list[int], hypothesis: Hypothesis) -> float:
    words = hypothesis.tokens + [END] * hypothesis.finished
    log_probs = net(torch.tensor([source]), torch.tensor([[START, *words[:-1]]])).log_softmax(-1)[0]
    return sum(log_probs[place, word].item() for place, word in enumerate(words))


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [(each.tokens, each.finished) for each in found] == [
        (each.tokens, each.finished) for each in expected
    ]
    assert [each.log_prob for each in found] == pytest.approx([each.log_prob for each in expected], abs=1e-9)
