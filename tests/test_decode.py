"""Greedy and beam search find what brute force and a plain search find."""

from __future__ import annotations

import pytest
import torch
from small_translators import NETS, assert_same, log_prob, make, some_sources
from torch import nn

from kdrepro.decode import Hypothesis, beam_search, greedy
from kdrepro.types import END, PAD, START, UNKNOWN

# Oracles.


@torch.no_grad()
def next_words(net: nn.Module, source: list[int], histories: list[list[int]]) -> list[list[float]]:
    """Log-probabilities of each word after histories of one length, by reading all of it anew."""
    previous = torch.tensor([[START, *history] for history in histories])
    return net(torch.tensor([source] * len(histories)), previous)[:, -1].log_softmax(-1).tolist()


def everything(net: nn.Module, source: list[int], words: int, max_length: int) -> list[Hypothesis]:
    """All translations that end within `max_length`, the likeliest first."""
    found = []
    histories: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(max_length):
        after = []
        tables = next_words(net, source, [history for history, _ in histories])
        for (history, score), table in zip(histories, tables, strict=True):
            found.append(Hypothesis(history, score + table[END], True))
            after += [([*history, word], score + table[word]) for word in range(UNKNOWN, words)]
        histories = after
    return sorted(found, key=lambda each: -each.log_prob)


def plain_search(
    net: nn.Module, source: list[int], *, width: int, n_best: int, max_length: int
) -> list[Hypothesis]:
    """Beam search of one sentence as the docstring tells it, which goes on to the end."""
    finished: list[Hypothesis] = []
    going: list[Hypothesis] = [Hypothesis([], 0.0, False)]
    for _ in range(max_length):
        tables = next_words(net, source, [each.tokens for each in going])
        continued = [
            (each.log_prob + score, each.tokens, word)
            for each, table in zip(going, tables, strict=True)
            for word, score in enumerate(table)
            if word not in (PAD, START)
        ]
        kept = sorted(continued, key=lambda each: -each[0])[:width]
        finished += [Hypothesis(tokens, score, True) for score, tokens, word in kept if word == END]
        going = [Hypothesis([*tokens, word], score, False) for score, tokens, word in kept if word != END]
        if not going:
            break
    return sorted(finished or going, key=lambda each: -each.log_prob)[:n_best]


# What is found.


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("max_length", [1, 2, 4])
def test_with_three_tokens_it_finds_what_brute_force_finds(kind, max_length):
    # Two words and the end.
    sources = some_sources(4)
    for seed in range(4):
        net = make(kind, seed=seed, words=5)
        # Wide enough to lose nothing, and no wider.
        width = 3 * 2 ** (max_length - 1)
        found = beam_search(net, sources, width=width, n_best=width, max_length=max_length)
        for source, several in zip(sources, found, strict=True):
            expected = everything(net, source, 5, max_length)
            assert len(expected) == 2**max_length - 1
            assert_same(several, expected)


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("width", "n_best"), [(1, 1), (2, 1), (3, 2), (3, 3), (5, 1), (5, 5)])
def test_a_batch_finds_what_a_plain_search_of_each_sentence_finds(kind, width, n_best):
    sources, lengths = some_sources(8), set()
    for seed in range(3):
        net = make(kind, seed=seed, words=8)
        found = beam_search(net, sources, width=width, n_best=n_best, max_length=6)
        for source, several in zip(sources, found, strict=True):
            assert_same(several, plain_search(net, source, width=width, n_best=n_best, max_length=6))
            lengths.add(len(several[0].tokens))
    # Otherwise little would be tested.
    assert len(lengths) > 3


@pytest.mark.parametrize("kind", NETS)
def test_a_beam_of_one_is_greedy(kind):
    sources = some_sources(30)
    ends = set()
    for seed in range(3):
        net = make(kind, seed=seed, words=70)
        found = greedy(net, sources, max_length=7)
        for single, (one,) in zip(found, beam_search(net, sources, width=1, max_length=7), strict=True):
            assert_same([single], [one])
            ends.add((single.finished, len(single.tokens)))
    assert {finished for finished, _ in ends} == {True, False}
    assert len(ends) > 4


@pytest.mark.parametrize("kind", NETS)
def test_scores_are_the_models_log_probabilities(kind):
    net, sources = make(kind, words=70), some_sources(10)
    translations = [[each] for each in greedy(net, sources, max_length=5)]
    translations += beam_search(net, sources, width=4, n_best=4, max_length=5)
    ends = set()
    for source, several in zip(sources * 2, translations, strict=True):
        for each in several:
            assert each.log_prob == pytest.approx(log_prob(net, source, each), abs=1e-9)
            assert not {PAD, START, END} & set(each.tokens)
            assert len(each.tokens) + each.finished <= 5
            assert each.finished or len(each.tokens) == 5
            ends.add(each.finished)
    assert ends == {True, False}


def test_the_n_best_are_distinct_and_in_order_and_fewer_are_some_of_them():
    net, sources = make("lstm", words=7), some_sources(12)
    found = beam_search(net, sources, width=6, n_best=6, max_length=6)
    for several in found:
        assert several == sorted(several, key=lambda each: -each.log_prob)
        assert len({tuple(each.tokens) for each in several}) == len(several)
    assert max(map(len, found)) == 6
    for fewer in (1, 3):
        again = beam_search(net, sources, width=6, n_best=fewer, max_length=6)
        for some, several in zip(again, found, strict=True):
            assert_same(some, several[:fewer])


def test_a_wider_beam_finds_no_worse_when_it_is_wide_enough():
    net, sources = make("lstm", words=5), some_sources(12)
    single = greedy(net, sources, max_length=4)
    wide = beam_search(net, sources, width=100, max_length=4)
    for one, (best,) in zip(single, wide, strict=True):
        assert best.log_prob >= one.log_prob - 1e-12 or not one.finished
    assert any(best.tokens != one.tokens for one, (best,) in zip(single, wide, strict=True))


@pytest.mark.parametrize("words", [4, 5])
def test_a_beam_wider_than_the_vocabulary_returns_all_there_is(words):
    net = make("lstm", words=words)
    (found,) = beam_search(net, [[5, 4]], width=50, n_best=50, max_length=3)
    assert_same(found, everything(net, [5, 4], words, 3))
