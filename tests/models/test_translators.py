"""What both encoder-decoders have to do alike: step by step as at once, blind to padding and neighbours, strict."""

from __future__ import annotations

import pytest
import torch
from three_sentences import MASK, PREVIOUS, SOURCE, make_lstm, make_transformer
from torch import nn

from kdrepro.types import PAD, START

either = pytest.mark.parametrize("make", [make_lstm, make_transformer])


@pytest.mark.parametrize("layers", [1, 2])
@either
def test_step_by_step_gives_what_teacher_forcing_gives(make, layers):
    net = make(layers=layers, dropout=0.5)
    expected = net.eval()(SOURCE, PREVIOUS)
    # Reading and writing are without dropout in any mode.
    net.train()
    state = net.encode(SOURCE)
    for place in range(PREVIOUS.shape[1]):
        logits, state = net.step(state, PREVIOUS[:, place])
        assert not logits.requires_grad
        torch.testing.assert_close(logits, expected[:, place].detach())


@either
def test_hypotheses_may_be_put_in_order_repeated_and_left_out(make):
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


@either
def test_an_older_state_stays_as_it_is(make):
    net = make().eval()
    _, state = net.step(net.encode(SOURCE), PREVIOUS[:, 0])
    first, _ = net.step(state, torch.tensor([4, 5, 6]))
    net.step(state, torch.tensor([7, 8, 9]))
    again, _ = net.step(state, torch.tensor([4, 5, 6]))
    assert torch.equal(first, again)


@either
def test_padding_changes_no_logit_and_no_gradient(make):
    net = make()
    found = []
    for more in (0, 3):
        source = nn.functional.pad(SOURCE, (0, more), value=PAD)
        previous = nn.functional.pad(PREVIOUS, (0, more), value=PAD)
        logits = net(source, previous)[:, : PREVIOUS.shape[1]]
        found.append((logits[MASK], torch.autograd.grad(logits[MASK].square().sum(), list(net.parameters()))))
    torch.testing.assert_close(*found)


@either
def test_a_sentence_does_not_depend_on_its_neighbours(make):
    net = make()
    together = net(SOURCE, PREVIOUS)
    for row in range(len(SOURCE)):
        source, previous = SOURCE[row][SOURCE[row] != PAD], PREVIOUS[row][MASK[row]]
        alone = net(source.unsqueeze(0), previous.unsqueeze(0))[0]
        torch.testing.assert_close(together[row, : len(alone)], alone)


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
@either
def test_sentences_are_checked(make, source, previous, says):
    with pytest.raises(ValueError, match=says):
        make()(source, previous)
