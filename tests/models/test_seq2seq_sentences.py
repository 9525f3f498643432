"""The LSTM encoder-decoder reads each sentence as a loop over single ones does, whatever is padded beside it."""

from __future__ import annotations

import pytest
import torch
from three_sentences import MASK, PREVIOUS, SOURCE, TARGETS
from three_sentences import make_lstm as make
from torch import Tensor, nn
from torch.func import functional_call

from kdrepro.losses.logits import hard_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.models import seq2seq
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.types import PAD, START

# An oracle: sentence by sentence, word by word, with torch's own cells.


def gates_of_torch(weight: Tensor) -> Tensor:
    """Ours are in the order i, f, o, g, torch's in the order i, f, g, o."""
    i, f, o, g = weight.chunk(4)
    return torch.cat([i, f, g, o])


def cell(
    net: LSTMSeq2Seq, into: Tensor, own: Tensor, bias: Tensor, taken: Tensor, state: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    weights = {"weight_ih": into, "weight_hh": own, "bias_ih": bias, "bias_hh": torch.zeros_like(bias)}
    weights = {name: gates_of_torch(weight) for name, weight in weights.items()}
    module = nn.LSTMCell(into.shape[1], net.hidden, dtype=into.dtype)
    return functional_call(module, weights, (taken, state))


def by_hand(
    net: LSTMSeq2Seq, source: Tensor, previous: Tensor, row: int = 0, drawn: list[Tensor] | None = None
) -> Tensor:
    """Logits (L, V) of one sentence without padding; `drawn` is what dropout drew, of which it is row `row`."""
    size, layers = net.hidden, range(net.layers)
    states = [
        (torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)) for _ in layers
    ]
    memory = []
    for place, word in enumerate(source.tolist()):
        taken = net.source_embedding.weight[word]
        for layer in layers:
            if layer and drawn is not None:
                taken = taken * drawn[layer - 1][place, row]
            inputs, own = net.encoder_inputs[layer], net.encoder_states[layer]
            states[layer] = cell(net, inputs.weight, own.weight, inputs.bias, taken, states[layer])
            taken = states[layer][0]
        memory.append(taken)
    seen = torch.stack(memory)
    fed = torch.zeros(size, dtype=torch.float64)
    logits = []
    for place, word in enumerate(previous.tolist()):
        taken = torch.cat([net.target_embedding.weight[word], fed])
        for layer in layers:
            if layer and drawn is not None:
                taken = taken * drawn[-1][layer - 1, place, row]
            below, own = net.decoder_states[layer].weight.split(size, dim=1)
            bias = net.decoder_states[layer].bias
            if layer == 0:
                below, bias = torch.cat([net.decoder_words.weight, below], dim=1), net.decoder_words.bias
            states[layer] = cell(net, below, own, bias, taken, states[layer])
            taken = states[layer][0]
        attention = torch.softmax(torch.stack([net.score(taken) @ each for each in seen]), dim=0)
        context = sum(weight * each for weight, each in zip(attention, seen, strict=True))
        fed = torch.tanh(net.combine.weight @ torch.cat([context, taken]))
        if drawn is not None:
            fed = fed * drawn[-1][-1, place, row]
        logits.append(net.output.weight @ fed + net.output.bias)
    return torch.stack(logits)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_logits_and_all_gradients_are_those_of_a_loop_over_sentences(layers, dropout, monkeypatch):
    net = make(layers=layers, dropout=dropout)
    drawn: list[Tensor] = []
    draw = seq2seq.dropout_factors

    def kept(*arguments: object, **named: object) -> Tensor:
        drawn.append(draw(*arguments, **named))
        return drawn[-1]

    monkeypatch.setattr(seq2seq, "dropout_factors", kept)
    logits = net(SOURCE, PREVIOUS)
    # Between two layers of the encoder, and once for the decoder.
    assert len(drawn) == (layers if dropout else 0)
    weights = torch.randn(logits.shape, dtype=torch.float64)
    found = torch.autograd.grad((logits * weights)[MASK].sum(), list(net.parameters()))
    expected = [
        by_hand(net, source[source != PAD], previous[previous != PAD], row, drawn or None)
        for row, (source, previous) in enumerate(zip(SOURCE, PREVIOUS, strict=True))
    ]
    for row, each in enumerate(expected):
        torch.testing.assert_close(logits[row, : len(each)], each)
    total = sum((each * weights[row, : len(each)]).sum() for row, each in enumerate(expected))
    wanted = torch.autograd.grad(total, list(net.parameters()))
    for (name, _), one, other in zip(net.named_parameters(), found, wanted, strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
        assert one.abs().sum() > 0, name


# Padding and masks.


def test_gradients_come_from_the_positions_that_count_only():
    net = make()
    # The last word of the first sentence is seen by its last position only, which does not count here.
    mask = MASK.clone()
    mask[0, -1] = False
    values = hard_target_loss(net(SOURCE, PREVIOUS), TARGETS)
    found = torch.autograd.grad(masked_mean(values, mask), list(net.parameters()))
    total = torch.zeros((), dtype=torch.float64)
    for source, previous, targets, count in zip(SOURCE, PREVIOUS, TARGETS, mask.sum(dim=1), strict=True):
        logits = by_hand(net, source[source != PAD], previous[:count])
        total = total + hard_target_loss(logits, targets[:count]).sum()
    wanted = torch.autograd.grad(total / mask.sum(), list(net.parameters()))
    torch.testing.assert_close(found, wanted)
    names = [name for name, _ in net.named_parameters()]
    gradient = found[names.index("target_embedding.weight")]
    assert gradient[PREVIOUS[0, -1]].abs().sum() == 0
    # Each word before a position that counts has a gradient, START too.
    assert set(gradient.abs().sum(dim=1).nonzero().flatten().tolist()) == set(PREVIOUS[mask].tolist())


def test_vectors_of_padding_stay_zero_and_only_words_that_were_read_learn():
    net = make()
    hard_target_loss(net(SOURCE, PREVIOUS), TARGETS)[MASK].sum().backward()
    for embedding, read in ((net.source_embedding, SOURCE), (net.target_embedding, PREVIOUS)):
        learns = set(embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist())
        assert learns == set(read.flatten().tolist()) - {PAD}
    assert START not in SOURCE
    torch.optim.SGD(net.parameters(), lr=1.0).step()
    assert not net.source_embedding.weight[PAD].any()
    assert not net.target_embedding.weight[PAD].any()
