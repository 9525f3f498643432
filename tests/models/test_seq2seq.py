"""The LSTM encoder-decoder: step by step, its sizes and initial weights, in half precision, and what it refuses."""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from three_sentences import MASK, PREVIOUS, SOURCE, TARGETS
from three_sentences import make_lstm as make
from torch.nn.utils import prune

from kdrepro.losses.logits import hard_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.models import fused_recurrence, recurrence
from kdrepro.models.seq2seq import LSTMSeq2Seq

# Sizes, initial weights, precision, dropout.


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


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_loops_of_a_gpu_give_what_those_of_a_cpu_give(monkeypatch, half, dropout):
    torch.manual_seed(0)
    net = LSTMSeq2Seq(11, 13, hidden=64, dropout=dropout)
    cpu = recurrence.EncoderLayer, recurrence.DecoderLoop
    found = []
    for on_gpu in (False, True):
        for name, loop in zip(("EncoderLayer", "DecoderLoop"), cpu, strict=True):
            other = getattr(fused_recurrence, name)
            applied = SimpleNamespace(apply=partial(other.apply, False)) if on_gpu else loop
            monkeypatch.setattr(recurrence, name, applied)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = net(SOURCE, PREVIOUS)
        loss = masked_mean(hard_target_loss(logits.float(), TARGETS), MASK)
        found.append((logits.float()[MASK], *torch.autograd.grad(loss, list(net.parameters()))))
    for one, other in zip(*found, strict=True):
        assert (other - one).norm() <= (0.03 if half else 1e-5) * one.norm()
        assert one.norm() > 0


@pytest.mark.parametrize("can", [True, False])
def test_kernels_are_for_training_off_a_cpu_where_they_can_be_made(monkeypatch, can):
    asked = []

    def spied(step, compiled):
        asked.append(compiled)
        return step

    monkeypatch.setattr(fused_recurrence, "_fused", spied)
    monkeypatch.setattr(fused_recurrence, "can_compile", lambda device: can)
    net = LSTMSeq2Seq(11, 13, hidden=8).to("meta")

    def asked_for():
        asked.clear()
        net(SOURCE.to("meta"), PREVIOUS.to("meta"))
        return set(asked)

    assert asked_for() == {False}
    net.compiled = True
    assert asked_for() == {can}
    net.eval()
    assert asked_for() == {False}
    assert "compiled" not in net.state_dict()
    assert copy.deepcopy(net).compiled


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
        ({"dropout": -0.1}, ValueError, r"dropout: got -0.1, expected a number in \[0, 1\)"),
        ({"dropout": None}, TypeError, "dropout: got None"),
    ],
)
def test_sizes_are_checked(changes, error, says):
    words = {"source_words": 11, "target_words": 13, "hidden": 6, **changes}
    with pytest.raises(error, match=says):
        LSTMSeq2Seq(words.pop("source_words"), words.pop("target_words"), **words)


@pytest.mark.parametrize("layer", [0, 1])
def test_pruned_layers_of_the_decoder_count_as_they_are(layer):
    net = make(layers=2).eval()
    before = net(SOURCE, PREVIOUS)
    prune.l1_unstructured(net.decoder_states[layer], "weight", amount=0.9)
    pruned, state = net(SOURCE, PREVIOUS), net.encode(SOURCE)
    step, _ = net.step(state, PREVIOUS[:, 0])
    assert not torch.allclose(pruned, before)
    prune.remove(net.decoder_states[layer], "weight")
    torch.testing.assert_close(net(SOURCE, PREVIOUS), pruned)
    torch.testing.assert_close(net.step(net.encode(SOURCE), PREVIOUS[:, 0])[0], step)
