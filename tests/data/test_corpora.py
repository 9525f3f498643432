"""Parallel texts at a protocol: loaded once, and numbered with the words that are frequent enough."""

from __future__ import annotations

from kdrepro.data.corpora import Corpus, encoded, loaded, spelling
from kdrepro.data.parallel import ParallelText


def test_a_corpus_is_loaded_and_numbered_once_a_protocol():
    asked = []

    def load(protocol):
        asked.append(protocol)
        pairs = [("a b a", "x"), ("b c a", "x y")]
        return ParallelText("made", "sha256:0", pairs, pairs[:1], pairs[1:])

    corpus = Corpus(load)
    for _ in range(2):
        assert loaded(corpus, "smoke").train[0] == ("a b a", "x")
        # Words that are there once are not known.
        assert {*encoded(corpus, "smoke").source.words[4:]} == {"a", "b"}
        assert {*encoded(corpus, "smoke").target.words[4:]} == {"x"}
    assert asked == ["smoke"]
    loaded(corpus, "paper")
    assert asked == ["smoke", "paper"]
    assert {*encoded(Corpus(load, at_least=1), "smoke").target.words[4:]} == {"x", "y"}


def test_spelling_is_cut_at_the_small_protocols():
    few, all_of_it = spelling("smoke"), spelling("paper")
    assert [len(few.train), len(few.valid), len(few.test)] == [200, 50, 50]
    assert len(spelling("quick").train) == 6_000
    assert len(all_of_it.train) == 105_676
