"""What ends a sentence, told by a model that says what it is told."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from small_translators import SOURCE_WORDS
from torch import Tensor, nn

from kdrepro.decode import Hypothesis, beam_search, greedy
from kdrepro.types import END, PAD, START


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
