"""The Transformer encoder-decoder: against a loop over positions and heads, step by step, with padding."""

from __future__ import annotations

import math

import pytest
import torch
from three_sentences import MASK, PREVIOUS, SOURCE, TARGETS
from three_sentences import make_transformer as make
from torch import Tensor, nn

from kdrepro.losses.logits import hard_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.models.transformer import TransformerSeq2Seq, positions
from kdrepro.types import PAD, START

# An oracle: one sentence, one position and one head after another.


def attended(module: nn.Module, heads: int, state: Tensor, seen: list[Tensor]) -> Tensor:
    size = len(state) // heads
    query = module.query(state)
    keys, values = zip(*(module.key_value(each).chunk(2) for each in seen), strict=True)
    found = []
    for head in range(heads):
        part = slice(size * head, size * (head + 1))
        scores = [query[part] @ key[part] / math.sqrt(size) for key in keys]
        weights = torch.stack(scores).exp()
        weights = weights / weights.sum()
        found.append(sum(weight * value[part] for weight, value in zip(weights, values, strict=True)))
    return module.out(torch.cat(found))


def vector(embedding: nn.Embedding, place: int, word: int) -> Tensor:
    hidden = embedding.embedding_dim
    angles = [place / 10_000 ** (2 * number / hidden) for number in range(hidden // 2)]
    waves = [wave(angle) for angle in angles for wave in (math.sin, math.cos)]
    return embedding.weight[word] * math.sqrt(hidden) + torch.tensor(waves, dtype=torch.float64)


def through(
    net: TransformerSeq2Seq, layers: nn.ModuleList, states: list[Tensor], read: list[Tensor] | None = None
) -> list[Tensor]:
    """Each position through the layers; the decoder's (with what was `read`) see only what is before them."""
    for layer in layers:
        normed = [layer.norm(state) for state in states]
        after = []
        for place, state in enumerate(states):
            seen = normed if read is None else normed[: place + 1]
            new = state + attended(layer.attend, net.heads, normed[place], seen)
            if read is not None:
                new = new + attended(layer.attend_source, net.heads, layer.source_norm(new), read)
            wide = layer.widen(layer.linear_norm(new)).clamp(min=0)
            after.append(new + layer.narrow(wide))
        states = after
    return states


def by_hand(net: TransformerSeq2Seq, source: Tensor, previous: Tensor) -> Tensor:
    read = [vector(net.source_embedding, *each) for each in enumerate(source.tolist())]
    read = [net.encoder_norm(state) for state in through(net, net.encoder, read)]
    states = [vector(net.target_embedding, *each) for each in enumerate(previous.tolist())]
    states = through(net, net.decoder, states, read)
    return torch.stack([net.output(net.decoder_norm(state)) for state in states])


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 2), (2, 4)])
def test_logits_and_gradients_are_those_of_a_loop_over_positions(layers, heads):
    net = make(layers=layers, heads=heads)
    logits = net(SOURCE, PREVIOUS)
    weights = torch.randn(logits.shape, dtype=torch.float64)
    found = torch.autograd.grad((logits * weights)[MASK].sum(), list(net.parameters()))
    total = torch.zeros((), dtype=torch.float64)
    for row, (source, previous) in enumerate(zip(SOURCE, PREVIOUS, strict=True)):
        expected = by_hand(net, source[source != PAD], previous[previous != PAD])
        torch.testing.assert_close(logits[row, : len(expected)], expected)
        total = total + (expected * weights[row, : len(expected)]).sum()
    wanted = torch.autograd.grad(total, list(net.parameters()))
    torch.testing.assert_close(found, wanted)
    for (name, _), gradient in zip(net.named_parameters(), found, strict=True):
        assert gradient.abs().sum() > 0, name


# Padding and masks.


def test_gradients_come_from_the_positions_that_count_only():
    net = make()
    # The last word of the first sentence is seen by its last position only, which does not count here.
    mask = MASK.clone()
    mask[0, -1] = False
    masked_mean(hard_target_loss(net(SOURCE, PREVIOUS), TARGETS), mask).backward()
    learns = net.target_embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert set(learns) == set(PREVIOUS[mask].tolist())
    learns = net.source_embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert set(learns) == set(SOURCE.flatten().tolist()) - {PAD}


# Positions, dropout, precision, errors.


def test_positions_go_on_where_a_step_left_off_and_fit_any_width():
    like = torch.zeros(1, dtype=torch.float64)
    for hidden in (7, 8):
        whole = positions(12, hidden, like=like)
        assert whole.shape == (12, hidden)
        torch.testing.assert_close(positions(5, hidden, first=7, like=like), whole[7:])
    # Also in half precision, which cannot count to 300.
    rough = positions(1, 8, first=299, like=torch.zeros(1, dtype=torch.bfloat16))
    torch.testing.assert_close(rough.double(), positions(1, 8, first=299, like=like), rtol=0, atol=0.004)


def test_dropout_is_for_training_only():
    net = make(dropout=0.5)
    assert not torch.equal(net(SOURCE, PREVIOUS), net(SOURCE, PREVIOUS))
    net.eval()
    plain = make(dropout=0.0)
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(SOURCE, PREVIOUS), net(SOURCE, PREVIOUS))


def test_half_precision_is_close_to_float32_and_steps_as_it_reads():
    torch.manual_seed(0)
    net = TransformerSeq2Seq(11, 13, hidden=32, layers=2, heads=4, dropout=0.0)
    with torch.no_grad():
        exact = net(SOURCE, PREVIOUS)[MASK]
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(SOURCE, PREVIOUS)
            assert (logits.float()[MASK] - exact).norm() < 0.02 * exact.norm()
            state = net.encode(SOURCE)
            for place in range(PREVIOUS.shape[1]):
                step, state = net.step(state, PREVIOUS[:, place])
                rows = MASK[:, place]
                torch.testing.assert_close(
                    step[rows].float(), logits[rows, place].float(), rtol=0.03, atol=0.03
                )


def test_it_learns_to_turn_sentences_around():
    torch.manual_seed(0)
    net = TransformerSeq2Seq(8, 8, hidden=32, layers=1, heads=2, dropout=0.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        source = torch.randint(3, 8, (32, 4), generator=generator)
        previous = torch.cat([torch.full((32, 1), START), source.flip(1)[:, :-1]], dim=1)
        loss = hard_target_loss(net(source, previous), source.flip(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Without the source it would be the logarithm of 5, which is 1.61.
    assert loss.item() < 0.5


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"source_words": 0}, ValueError, "source_words: got 0, expected a whole number of at least 1"),
        ({"target_words": 2.5}, TypeError, "target_words: got 2.5"),
        ({"hidden": 0}, ValueError, "hidden: got 0, expected a whole number of at least 1"),
        ({"layers": 0}, ValueError, "layers: got 0, expected a whole number of at least 1"),
        ({"heads": 0}, ValueError, "heads: got 0, expected a whole number of at least 1"),
        ({"heads": 3}, ValueError, "heads: got 3, expected a number that divides hidden, 8"),
        ({"dropout": 1}, ValueError, r"dropout: got 1, expected a number in \[0, 1\)"),
        ({"dropout": -0.1}, ValueError, r"dropout: got -0.1, expected a number in \[0, 1\)"),
    ],
)
def test_sizes_are_checked(changes, error, says):
    words = {"source_words": 11, "target_words": 13, "hidden": 8, **changes}
    with pytest.raises(error, match=says):
        TransformerSeq2Seq(words.pop("source_words"), words.pop("target_words"), **words)
