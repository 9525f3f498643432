"""The LSTM encoder-decoder: against a loop over single sentences, step by step, with padding, in half precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from kdrepro.losses.logits import hard_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.models import seq2seq
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.types import PAD, START

SOURCE = torch.tensor([[4, 5, 6, 7, 3], [5, 9, 0, 0, 0], [8, 10, 4, 0, 0]])
PREVIOUS = torch.tensor([[START, 5, 6, 12], [START, 4, 0, 0], [START, 0, 0, 0]])
TARGETS = torch.tensor([[5, 6, 12, 2], [4, 2, 0, 0], [2, 0, 0, 0]])
MASK = PREVIOUS != PAD


def make(*, layers: int = 2, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> LSTMSeq2Seq:
    torch.manual_seed(layers)
    net = LSTMSeq2Seq(11, 13, hidden=6, layers=layers, dropout=dropout).to(dtype)
    with torch.no_grad():
        # Larger than its first weights, so that the gates and the attention are not all but even.
        for parameter in net.parameters():
            parameter.mul_(8)
    return net


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


def test_padding_changes_no_logit_and_no_gradient():
    net = make()
    found = []
    for more in (0, 3):
        source = nn.functional.pad(SOURCE, (0, more), value=PAD)
        previous = nn.functional.pad(PREVIOUS, (0, more), value=PAD)
        logits = net(source, previous)[:, : PREVIOUS.shape[1]]
        found.append((logits[MASK], torch.autograd.grad(logits[MASK].square().sum(), list(net.parameters()))))
    torch.testing.assert_close(*found)


def test_a_sentence_does_not_depend_on_its_neighbours():
    net = make()
    together = net(SOURCE, PREVIOUS)
    for row in range(len(SOURCE)):
        source, previous = SOURCE[row][SOURCE[row] != PAD], PREVIOUS[row][MASK[row]]
        alone = net(source.unsqueeze(0), previous.unsqueeze(0))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone)


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


# Decoding.


@pytest.mark.parametrize("layers", [1, 2])
def test_step_by_step_gives_what_teacher_forcing_gives(layers):
    net = make(layers=layers, dropout=0.5)
    expected = net.eval()(SOURCE, PREVIOUS)
    # Reading and writing are without dropout in any mode.
    net.train()
    state = net.encode(SOURCE)
    for place in range(PREVIOUS.shape[1]):
        logits, state = net.step(state, PREVIOUS[:, place])
        assert not logits.requires_grad
        torch.testing.assert_close(logits, expected[:, place].detach())


def test_hypotheses_may_be_put_in_order_repeated_and_left_out():
    net = make().eval()
    state = net.encode(SOURCE)
    histories = torch.empty(3, 0, dtype=torch.int64)
    sentences = torch.arange(3)
    generator = torch.Generator().manual_seed(0)
    for index in ([0, 0, 1, 1, 2, 2], [1, 0, 3, 3, 4, 5], [0, 1, 4, 5], [2, 3, 0, 1], [3, 0, 1], [2]):
        words = torch.full((len(sentences),), START)
        if histories.numel():
            words = torch.randint(3, 13, words.shape, generator=generator)
        histories = torch.cat([histories, words.unsqueeze(1)], dim=1)
        logits, after = net.step(state, words)
        torch.testing.assert_close(logits, net(SOURCE[sentences], histories)[:, -1].detach())
        chosen = torch.tensor(index)
        state, sentences, histories = after.select(chosen), sentences[chosen], histories[chosen]


def test_an_older_state_stays_as_it_is():
    net = make().eval()
    state = net.encode(SOURCE)
    first, _ = net.step(state, PREVIOUS[:, 0])
    net.step(state, torch.tensor([7, 8, 9]))
    again, _ = net.step(state, PREVIOUS[:, 0])
    assert torch.equal(first, again)


# Sizes, first weights, precision, dropout.


@pytest.mark.parametrize(("hidden", "count"), [(500, 20_766_000), (100, 2_599_600)])
def test_the_nets_of_the_paper_have_the_sizes_that_their_equations_give(hidden, count):
    with torch.device("meta"):
        net = LSTMSeq2Seq(6_000, 8_000, hidden=hidden)
    vectors = (6_000 + 8_000) * hidden
    encoder = 2 * (4 * hidden * 2 * hidden + 4 * hidden)
    decoder = 4 * hidden * 3 * hidden + 4 * hidden * 2 * hidden + 2 * 4 * hidden
    attention = hidden * hidden + hidden * 2 * hidden
    output = 8_000 * hidden + 8_000
    assert vectors + encoder + decoder + attention + output == count
    assert sum(parameter.numel() for parameter in net.parameters()) == count


def test_first_weights_are_drawn_from_the_toolkits_range_and_follow_the_seed():
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(LSTMSeq2Seq(50, 60, hidden=32))
    for (name, one), same, other in zip(
        nets[0].named_parameters(), nets[1].parameters(), nets[2].parameters(), strict=True
    ):
        assert torch.equal(one, same), name
        assert not torch.equal(one, other), name
        assert one.abs().max() <= 0.1, name
        if one.numel() > 1_000:
            assert one.mean().item() == pytest.approx(0, abs=0.01), name
            assert one.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.06), name


def test_half_precision_is_close_to_float32():
    torch.manual_seed(0)
    net = LSTMSeq2Seq(11, 13, hidden=64, dropout=0.0)
    found = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(SOURCE, PREVIOUS)
        assert logits.dtype == (torch.bfloat16 if half else torch.float32)
        loss = masked_mean(hard_target_loss(logits.float(), TARGETS), MASK)
        found.append((logits.float()[MASK], torch.autograd.grad(loss, list(net.parameters()))))
    (exact, exact_gradients), (rough, rough_gradients) = found
    assert (rough - exact).norm() < 0.02 * exact.norm()
    for (name, _), one, other in zip(net.named_parameters(), exact_gradients, rough_gradients, strict=True):
        assert other.dtype == torch.float32
        assert (other - one).norm() < 0.03 * one.norm(), name


def test_half_precision_steps_as_it_reads():
    torch.manual_seed(0)
    net = LSTMSeq2Seq(11, 13, hidden=64).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = net(SOURCE, PREVIOUS).float()
        state = net.encode(SOURCE)
        for place in range(PREVIOUS.shape[1]):
            logits, state = net.step(state, PREVIOUS[:, place])
            assert logits.dtype == torch.bfloat16
            torch.testing.assert_close(logits.float(), expected[:, place], rtol=0.02, atol=0.01)


def test_dropout_is_for_training_only():
    net = make(dropout=0.5)
    assert not torch.equal(net(SOURCE, PREVIOUS), net(SOURCE, PREVIOUS))
    net.eval()
    assert torch.equal(net(SOURCE, PREVIOUS), net(SOURCE, PREVIOUS))
    plain = make(dropout=0.0)
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(SOURCE, PREVIOUS), net(SOURCE, PREVIOUS))


def test_a_part_that_is_frozen_has_no_gradient_and_the_others_have_theirs():
    net = make()
    frozen = copy.deepcopy(net)
    for part in (frozen.source_embedding, frozen.encoder_inputs, frozen.encoder_states):
        part.requires_grad_(False)
    for each in (net, frozen):
        each(SOURCE, PREVIOUS)[MASK].square().sum().backward()
    for (name, one), other in zip(net.named_parameters(), frozen.parameters(), strict=True):
        if other.requires_grad:
            torch.testing.assert_close(other.grad, one.grad)
        else:
            assert name.startswith(("source_embedding", "encoder_"))
            assert other.grad is None


# Errors.


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"source_words": 0}, ValueError, "source_words: got 0, expected a whole number of at least 1"),
        ({"target_words": 2.5}, TypeError, "target_words: got 2.5"),
        ({"hidden": 0}, ValueError, "hidden: got 0, expected a whole number of at least 1"),
        ({"layers": 0}, ValueError, "layers: got 0, expected a whole number of at least 1"),
        ({"dropout": 1}, ValueError, r"dropout: got 1, expected a number in \[0, 1\)"),
        ({"dropout": -0.1}, ValueError, r"dropout: got -0.1, expected a number in \[0, 1\]"),
        ({"dropout": None}, TypeError, "dropout: got None"),
    ],
)
def test_sizes_are_checked(changes, error, says):
    words = {"source_words": 11, "target_words": 13, "hidden": 6, **changes}
    with pytest.raises(error, match=says):
        LSTMSeq2Seq(words.pop("source_words"), words.pop("target_words"), **words)


@pytest.mark.parametrize(
    ("source", "previous", "says"),
    [
        (SOURCE + 4, PREVIOUS, "source: got word numbers from 4 to 14, expected numbers from 0 to 10"),
        (SOURCE, PREVIOUS + 1, "previous: got word numbers from 1 to 13, expected numbers from 0 to 12"),
        (SOURCE[:2], PREVIOUS, "previous: got 3 sentences, expected 2, one for each source"),
        (SOURCE.flip(1), PREVIOUS, "source: got padding at the start of sentence 1"),
        (SOURCE, PREVIOUS[:, :0], r"previous: got shape \(3, 0\)"),
        (SOURCE[0], PREVIOUS, r"source: got shape \(5,\)"),
    ],
)
def test_sentences_are_checked(source, previous, says):
    with pytest.raises(ValueError, match=says):
        make()(source, previous)
