"""Greedy and beam search against brute force and a plain search, alone and in batches, and what ends a sentence."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdrepro.decode import Hypothesis, _likeliest, beam_search, greedy
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.models.transformer import TransformerSeq2Seq
from kdrepro.types import END, PAD, START, UNKNOWN

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


# Oracles.


@torch.no_grad()
def next_words(net: nn.Module, source: list[int], histories: list[list[int]]) -> list[list[float]]:
    """Log-probabilities of each word after histories of one length, by reading all of it anew."""
    previous = torch.tensor([[START, *history] for history in histories])
    return net(torch.tensor([source] * len(histories)), previous)[:, -1].log_softmax(-1).tolist()


@torch.no_grad()
def log_prob(net: nn.Module, source: list[int], hypothesis: Hypothesis) -> float:
    words = hypothesis.tokens + [END] * hypothesis.finished
    log_probs = net(torch.tensor([source]), torch.tensor([[START, *words[:-1]]])).log_softmax(-1)[0]
    return sum(log_probs[place, word].item() for place, word in enumerate(words))


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


def assert_same(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [(each.tokens, each.finished) for each in found] == [
        (each.tokens, each.finished) for each in expected
    ]
    assert [each.log_prob for each in found] == pytest.approx([each.log_prob for each in expected], abs=1e-9)


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


# What ends a sentence, told by a model that says what it is told.


class Script(nn.Module):
    """Says after each history what `probabilities` gives it: of the source's first word and the words written."""

    source_words = SOURCE_WORDS

    def __init__(self, probabilities: Callable[[int, list[int]], dict[int, float]], words: int = 7) -> None:
        super().__init__()
        self.probabilities, self.words = probabilities, words
        self.rows: list[int] = []
        self.sources: list[Tensor] = []
        self.modes: set[bool] = set()

    def encode(self, source: Tensor) -> Told:
        self.sources.append(source)
        self.modes.add(self.training)
        return Told([(word, []) for word in source[:, 0].tolist()])

    def step(self, state: Told, previous: Tensor) -> tuple[Tensor, Told]:
        self.rows.append(len(previous))
        self.modes.add(self.training)
        after = [
            (first, [*written, word])
            for (first, written), word in zip(state.rows, previous.tolist(), strict=True)
        ]
        logits = torch.full((len(previous), self.words), -torch.inf, dtype=torch.float64)
        for row, (first, written) in enumerate(after):
            # What follows on END is asked of none that goes on.
            told = {END: 1.0} if END in written else self.probabilities(first, written[1:])
            for word, probability in told.items():
                logits[row, word] = math.log(probability)
        return logits, Told(after)


class Told:
    def __init__(self, rows: list[tuple[int, list[int]]]) -> None:
        self.rows = rows

    def select(self, index: Tensor) -> Told:
        return Told([self.rows[each] for each in index.tolist()])


def words_of(hypotheses: list[Hypothesis]) -> list[tuple[list[int], float, bool]]:
    return [(each.tokens, round(math.exp(each.log_prob), 9), each.finished) for each in hypotheses]


def test_the_likeliest_first_word_may_lead_astray():
    # 3 is likelier than 4, but nothing likely comes after it.
    def garden(_: int, written: list[int]) -> dict[int, float]:
        return {(): {3: 0.6, 4: 0.4}, (3,): {5: 0.5, 6: 0.5}}.get(tuple(written), {END: 1.0})

    assert words_of(greedy(Script(garden), [[5]], max_length=5)) == [([3, 5], 0.3, True)]
    (found,) = beam_search(Script(garden), [[5]], width=2, n_best=2, max_length=5)
    assert words_of(found) == [([4], 0.4, True), ([3, 5], 0.3, True)]


def test_lengths_are_not_normalised_and_the_best_of_all_that_ended_wins():
    # Each word of the long one is likely, but so many of them are less so than the short one.
    def either(_: int, written: list[int]) -> dict[int, float]:
        return {END: 0.2, 3: 0.8} if len(written) < 10 else {END: 1.0}

    (found,) = beam_search(Script(either), [[5]], width=2, n_best=2, max_length=20)
    assert words_of(found) == [([], 0.2, True), ([3], 0.16, True)]


def test_the_search_is_over_when_none_that_goes_on_can_win():
    def either(_: int, written: list[int]) -> dict[int, float]:
        return {END: 0.6, 3: 0.4} if len(written) == 1 else {3: 0.9, 4: 0.1}

    script = Script(either)
    # 0.9 · 0.6 has ended and 0.9 · 0.4 goes on.
    (found,) = beam_search(script, [[5]], width=2, max_length=50)
    assert words_of(found) == [([3], 0.54, True)]
    assert len(script.rows) == 2
    # The second best may still be among those that go on, until 0.9 · 0.4 · 0.9 · 0.9 ... is below 0.1 · 0.6.
    script = Script(either)
    (found,) = beam_search(script, [[5]], width=3, n_best=2, max_length=50)
    assert words_of(found) == [([3], 0.54, True), ([4], 0.06, True)]
    assert len(script.rows) == 2 + math.ceil(math.log(0.06 / 0.36) / math.log(0.9))


def test_one_that_has_ended_takes_no_place_of_those_that_go_on():
    def either(_: int, written: list[int]) -> dict[int, float]:
        tables: dict[tuple[int, ...], dict[int, float]] = {
            (): {END: 0.5, 3: 0.3, 4: 0.2},
            (3,): {3: 0.5, 4: 0.5},
        }
        return tables.get(tuple(written), {END: 1.0})

    # A width of 2: END and 3, and then both continuations of 3.
    (found,) = beam_search(Script(either), [[5]], width=2, n_best=2, max_length=9)
    assert words_of(found) == [([], 0.5, True), ([3, 3], 0.15, True)]


def test_where_nothing_ends_what_goes_on_is_returned_and_says_so():
    def endless(_: int, written: list[int]) -> dict[int, float]:
        return {3: 0.7, 4: 0.3}

    assert words_of(greedy(Script(endless), [[5]], max_length=3)) == [([3, 3, 3], 0.343, False)]
    (found,) = beam_search(Script(endless), [[5]], width=2, n_best=2, max_length=2)
    assert words_of(found) == [([3, 3], 0.49, False), ([3, 4], 0.21, False)]


def test_one_that_has_ended_wins_over_a_likelier_one_that_has_not():
    def endless(_: int, written: list[int]) -> dict[int, float]:
        return {3: 0.9, END: 0.1} if not written else {3: 1.0}

    (found,) = beam_search(Script(endless), [[5]], width=2, n_best=2, max_length=4)
    assert words_of(found) == [([], 0.1, True)]
    assert words_of(greedy(Script(endless), [[5]], max_length=4)) == [([3, 3, 3, 3], 0.9, False)]


def test_the_end_counts_as_a_word_of_the_length():
    def three(_: int, written: list[int]) -> dict[int, float]:
        return {3: 1.0} if len(written) < 3 else {END: 1.0}

    for max_length, finished in ((3, False), (4, True)):
        expected = [([3, 3, 3], 1.0, finished)]
        assert words_of(greedy(Script(three), [[5]], max_length=max_length)) == expected
        assert words_of(beam_search(Script(three), [[5]], width=2, max_length=max_length)[0]) == expected


def test_an_empty_translation_is_one():
    def nothing(_: int, written: list[int]) -> dict[int, float]:
        return {END: 1.0}

    script = Script(nothing).train()
    assert words_of(greedy(script, [[5], [6]], max_length=9)) == [([], 1.0, True)] * 2
    assert beam_search(script, [[5]], width=2, max_length=9) == [[Hypothesis([], 0.0, True)]]
    assert script.rows == [2, 1]
    assert script.modes == {False}
    assert script.training


def test_padding_and_start_are_never_written_and_their_share_is_not_given_to_others():
    def wrong(_: int, written: list[int]) -> dict[int, float]:
        return {PAD: 0.5, START: 0.3, 3: 0.15, END: 0.05} if not written else {END: 1.0}

    assert words_of(greedy(Script(wrong), [[5]], max_length=3)) == [([3], 0.15, True)]
    (found,) = beam_search(Script(wrong), [[5]], width=4, n_best=4, max_length=3)
    assert words_of(found) == [([3], 0.15, True), ([], 0.05, True)]


def test_sentences_are_read_once_by_length_and_leave_when_they_are_done():
    # A sentence of the word n has n words.
    def as_many(first: int, written: list[int]) -> dict[int, float]:
        return {3: 1.0} if len(written) < first else {END: 1.0}

    sources = [[3], [8, 8, 8], [8], [3, 3, 3], [3, 3], [8, 8]]
    for translate in (
        lambda script: greedy(script, sources, max_length=20, batch_size=4),
        lambda script: [
            each for (each,) in beam_search(script, sources, width=1, max_length=20, batch_size=4)
        ],
    ):
        script = Script(as_many)
        assert [each.tokens for each in translate(script)] == [[3] * source[0] for source in sources]
        assert [(source != PAD).sum(dim=1).tolist() for source in script.sources] == [[3, 3, 2, 2], [1, 1]]
        # Four sentences until two of them are done after three words and the end, and then five words of two.
        assert script.rows == [4] * 4 + [2] * 5 + [2] * 4 + [1] * 5


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
