"""The parallel texts of a recipe for translators, each loaded and numbered once for all of its runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from kdrepro.data import cmudict
from kdrepro.data.parallel import EncodedText, ParallelText


@dataclass(frozen=True)
class Corpus:
    """Where parallel text comes from, and how often a word has to be in it to be a word of the vocabulary.

    `load` takes a protocol. The sentences are language, or the words of a dictionary and their `phonemes`.
    """

    load: Callable[[str], ParallelText]
    at_least: int = 2
    phonemes: bool = False


@cache
def loaded(corpus: Corpus, protocol: str) -> ParallelText:
    """Return a corpus at a protocol."""
    return corpus.load(protocol)


@cache
def encoded(corpus: Corpus, protocol: str) -> EncodedText:
    """Return a corpus at a protocol as numbers, with its vocabularies."""
    return EncodedText.of(loaded(corpus, protocol), at_least=corpus.at_least)


def spelling(protocol: str) -> ParallelText:
    """Return English words and their phonemes: all, or at `quick` 6,000 to train on, and at `smoke` 200."""
    sizes = {"smoke": (200, 50, 50), "quick": (6_000, 500, 500)}.get(protocol, (105_676, 5_855, 5_962))
    train, valid, test = sizes
    return cmudict.load().few(train=train, valid=valid, test=test)
