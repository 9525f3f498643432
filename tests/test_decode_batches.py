"""Decoding in batches: the order of the sentences, the numbers in the beam, and what is left as it was."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from small_translators import NETS, SOURCE_WORDS, assert_same, log_prob, make, some_sources

from kdrepro.decode import _likeliest, beam_search, greedy
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.types import PAD, START

# In batches.


@pytest.mark.parametrize("kind", NETS)
def test_results_come_in_the_order_of_the_sentences_whatever_the_batches(kind):
    net, sources = make(kind, words=70), some_sources(25)
    single = [greedy(net, [source], max_length=6)[0] for source in sources]
    several = [beam_search(net, [source], width=3, n_best=2, max_length=6)[0] for source in sources]
    assert len({tuple(each.tokens) for each in single}) > 5
    for size in (1, 4, 25, 100):
        assert_same(greedy(net, sources, max_length=6, batch_size=size), single)
        found = beam_search(net, sources, width=3, n_best=2, max_length=6, batch_size=size)
        assert_same(list(itertools.chain(*found)), list(itertools.chain(*several)))


def test_the_same_sentence_twice_has_the_same_translation_twice():
    net = make("lstm")
    first, other, second = beam_search(net, [[5, 6, 7], [8], [5, 6, 7]], width=3, n_best=3, max_length=5)
    assert first == second != other


def test_no_sentences_have_no_translations():
    net = make("lstm")
    assert greedy(net, [], max_length=3) == []
    assert beam_search(net, [], width=2, max_length=3) == []


# Numbers.


@pytest.mark.parametrize("words", [5, 63, 64, 65, 130, 1_000])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_likeliest_continuations_are_the_largest_sums(words, rows):
    generator = torch.Generator().manual_seed(words)
    logits = torch.randn(100 * rows, words, generator=generator, dtype=torch.float64) * 3
    scores = torch.randn(100, rows, generator=generator, dtype=torch.float64)
    scores[::7, -1] = -torch.inf
    log_probs = logits.log_softmax(1)
    log_probs[:, [PAD, START]] = -torch.inf
    sums = (log_probs.view(100, rows, words) + scores.unsqueeze(2)).flatten(1)
    for count in (1, 2, 5, 80, 5_000):
        found, row, word = _likeliest(logits.clone(), scores, count)
        expected, place = sums.topk(min(count, rows * words), dim=1)
        torch.testing.assert_close(found, expected)
        # Those that cannot be are no one's, in any order.
        there = expected > -torch.inf
        assert torch.equal((row * words + word)[there], place[there])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_refused(value):
    net = make("lstm")
    with torch.no_grad():
        net.output.bias[4] = value
    for translate in (greedy, lambda *each, **named: beam_search(*each, width=2, **named)):
        with pytest.raises(FloatingPointError, match="model: its logits are not finite"):
            translate(net, [[5, 6]], max_length=3)


def test_half_precision_gives_scores_close_to_the_models_in_float32():
    torch.manual_seed(0)
    net = LSTMSeq2Seq(SOURCE_WORDS, 70, hidden=64).eval()
    sources = some_sources(6)
    with torch.autocast("cpu", torch.bfloat16):
        single = greedy(net, sources, max_length=5)
        several = beam_search(net, sources, width=3, max_length=5)
    for source, one, (best,) in zip(sources, single, several, strict=True):
        for each in (one, best):
            assert each.log_prob == pytest.approx(log_prob(net, source, each), rel=0.01)


# What is left as it was.


@pytest.mark.parametrize("kind", NETS)
def test_the_model_is_as_it_was_and_runs_in_eval_mode(kind):
    net, sources = make(kind, words=70), some_sources(5)
    expected = greedy(net, sources, max_length=5)
    net.train()
    net.output.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [part.training for part in net.modules()]
    generator = torch.get_rng_state()
    assert greedy(net, sources, max_length=5, device="cpu") == expected
    beam_search(net, sources, width=2, max_length=5)
    with pytest.raises(ValueError, match="max_length"):
        greedy(net, sources, max_length=0)
    assert [part.training for part in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_the_mode_is_put_back_after_an_error_too():
    net = make("lstm").train()
    with torch.no_grad():
        net.output.bias[4] = math.nan
    with pytest.raises(FloatingPointError):
        greedy(net, [[5]], max_length=3)
    assert all(part.training for part in net.modules())
    assert torch.is_grad_enabled()


def test_the_sources_are_not_changed():
    sources = some_sources(5)
    before = [list(source) for source in sources]
    greedy(make("lstm"), sources, max_length=3)
    assert sources == before
    assert greedy(make("lstm"), tuple(map(tuple, sources)), max_length=3) == greedy(
        make("lstm"), sources, max_length=3
    )
