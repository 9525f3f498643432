"""Text as numbers: words, vocabularies, and batches of sentence pairs."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from kdrepro import checks, digests
from kdrepro.types import END, PAD, START, UNKNOWN, Batch

# The words that are none, by number. An unknown one is written as a single sign that no reference holds: it counts as
# one wrong word, where BLEU's own tokenisation would make three of "<unk>".
SPECIAL = ("<pad>", "<s>", "</s>", "⁇")

# Letters, digits, and the marks that many scripts write on letters, which \w alone leaves out.
_MARKS = "".join(
    letter for letter in map(chr, range(0x300, 0x10000)) if unicodedata.category(letter) in ("Mn", "Mc")
)
_LETTER = rf"[\w{_MARKS}]"
_WORD = re.compile(
    r"[^\W\d_]{1,2}['’](?=\w)"  # l'homme
    r"|(?<=\w)['’][^\W\d_]{1,2}(?!\w)"  # woman's, they're
    r"|\d+(?:[.,]\d+)+"
    rf"|{_LETTER}+(?:-{_LETTER}+|['’]\w{{3,}})*(?:-(?=\s))?"  # T-Shirt, aujourd'hui, Ess- und Wohnzimmer
    r"|\S"
)
_AFTER_NO_SPACE = frozenset(".,;:!?)]}%…”")
_BEFORE_NO_SPACE = frozenset("([{¿¡„#$@")
_QUOTES = {'"': '"', "'": "'", "“": "„"}  # each with what opens it


def words(text: str) -> list[str]:
    """Cut a sentence into its words and punctuation marks, by a fixed rule for every language that writes spaces.

    Case is kept, as in Luong et al. (2015), whose training Kim & Rush (2016) follow: it carries meaning in German, and
    BLEU counts it. Words with hyphens stay whole; what an apostrophe elides is cut off (`l'`, `'s`), and of a word of
    one or two letters whatever follows (`it'`, `s`). Accents are composed first (Unicode NFC). Scripts without spaces
    have to come with their words already apart.

    >>> words("A boy's T-shirt, 1.5 m long.")
    ['A', 'boy', "'s", 'T-shirt', ',', '1.5', 'm', 'long', '.']
    """
    return _WORD.findall(unicodedata.normalize("NFC", text))


def sentence(words: Iterable[str]) -> str:
    """Put words back into a sentence, with spaces where they are usual: the inverse of `words`, but for rare spacing.

    >>> sentence(["A", "boy", "'s", "T-shirt", ",", "1.5", "m", "long", "."])
    "A boy's T-shirt, 1.5 m long."
    """
    several = list(words)
    left = Counter(word for word in several if word in _QUOTES)
    opened: set[str] = set()
    parts: list[str] = []
    joined = True
    for word in several:
        closes = opens = False
        if word in _QUOTES:
            left[word] -= 1
            # A quotation mark without its other half is taken for the end of one, or for an apostrophe.
            closes = word in opened or (left[word] == 0 and _QUOTES[word] == word)
            opens = not closes
            (opened.discard if closes else opened.add)(word)
        elif word == "„":
            opened.add("“")
        elif word == "”":
            opened.discard("“")
        elided_before = len(word) > 1 and word[0] in "'’"
        parts.append(word if joined or closes or elided_before or word in _AFTER_NO_SPACE else f" {word}")
        joined = opens or word in _BEFORE_NO_SPACE or (len(word) > 1 and word[-1] in "'’")
    return "".join(parts)


class Vocabulary:
    """The words that one side of a model knows, by number: `PAD`, `START`, `END`, `UNKNOWN`, and then `words`.

    Two vocabularies are equal if every word has the same number in both; `digest` says so in short.
    Raises `ValueError` for a word that is there twice, is empty or is one of the four.

    >>> vocabulary = Vocabulary(["a", "dog"])
    >>> vocabulary.encode(["a", "cat"])
    [4, 3]
    >>> vocabulary.decode([4, 3])
    ['a', '⁇']
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = (*SPECIAL, *words)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        if len(self._numbers) < len(self.words):
            word, times = Counter(self.words).most_common(1)[0]
            raise ValueError(f"words: got {word!r} {times} times, expected each once and none of {SPECIAL}")
        if "" in self._numbers:
            raise ValueError("words: got an empty one, expected at least one letter in each")

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, most: int | None = None, at_least: int = 1) -> Vocabulary:
        """Take the words of `texts` that are there `at_least` so many times, the frequent ones first.

        Words that are equally frequent are sorted, so that the order of the texts does not matter. `most` bounds how
        many words are taken, the four special ones not counted. Raises `ValueError` if none is left.
        """
        checks.whole("at_least", at_least, least=1)
        if most is not None:
            checks.whole("most", most, least=1)
        counts = Counter(chain.from_iterable(map(words, texts)))
        found = sorted((-count, word) for word, count in counts.items() if count >= at_least)
        kept = [word for _, word in found if word not in SPECIAL][:most]
        if not kept:
            raise ValueError(f"texts: got no word that is there {at_least} times or more, expected some")
        return cls(kept)

    def __len__(self) -> int:
        """How many words there are, the four special ones among them: the classes of a model that writes them."""
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    @property
    def digest(self) -> str:
        """What tells it from another, in short."""
        return f"sha256:{hashlib.sha256(chr(0).join(self.words).encode()).hexdigest()[:16]}"

    def encode(self, words: Iterable[str]) -> list[int]:
        """Return the words' numbers, `UNKNOWN` for those that are not known; neither start nor end is added."""
        return [self._numbers.get(word, UNKNOWN) for word in words]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Return the words up to the first `END`; padding and starts are left out, an unknown word is `⁇`.

        Raises `ValueError` for a number that no word has.
        """
        found = []
        for number in numbers:
            if not 0 <= number < len(self.words):
                raise ValueError(f"numbers: got {number}, expected 0 to {len(self.words) - 1}")
            if number == END:
                break
            if number not in (PAD, START):
                found.append(self.words[number])
        return found


def check_same(student: Vocabulary, teacher: Vocabulary, *, side: str = "target") -> None:
    """Raise `ValueError` unless student and teacher number the words of that `side` alike.

    To be called in a loop of one's own, before a student learns from a teacher whose vocabulary is from elsewhere.
    Where they differ, class 17 is one word to the teacher and another to the student, and no loss can see it if the
    sizes agree. The recipe here needs no such call: all its nets number the words of one text, which their rows name.

    >>> check_same(Vocabulary(["a", "dog"]), Vocabulary(["dog", "a"]))  # as many words, in another order
    Traceback (most recent call last):
    ValueError: target vocabulary: got 6 words for the student and 6 for the teacher, of which 4 is 'a' and 'dog', ...
    """
    if student == teacher:
        return
    pairs = enumerate(zip(student.words, teacher.words, strict=False))
    where = next((f"{number} is {one!r} and {other!r}" for number, (one, other) in pairs if one != other), "")
    raise ValueError(
        f"{side} vocabulary: got {len(student)} words for the student and {len(teacher)} for the teacher"
        f"{', of which ' + where if where else ''}, expected the same words in the same order: make one vocabulary, "
        "from the training text, and give it to both"
    )


class _Sentences:
    """Sentences one behind the other in one tensor, each with `before` and `after` around it."""

    def __init__(
        self, name: str, sentences: Sequence[Sequence[Any]], *, before: list[int], after: list[int]
    ) -> None:
        for place, each in enumerate(sentences):
            if isinstance(each, str) or any(isinstance(number, str) for number in each[:1]):
                raise TypeError(
                    f"{name}: got text in sentence {place}, expected what Vocabulary.encode makes of it"
                )
            if len(each) and min(each) < UNKNOWN:
                raise ValueError(
                    f"{name}: got {min(each)} in sentence {place}, expected numbers of words, {UNKNOWN} or more, "
                    "without padding, start and end"
                )
        around = len(before) + len(after)
        # The lengths stay on the CPU too: a batch's width is known without asking the device.
        self.lengths = torch.tensor([len(each) + around for each in sentences])
        self.numbers = torch.tensor(list(chain.from_iterable([*before, *each, *after] for each in sentences)))
        self.starts, self.ends = self.lengths.cumsum(0) - self.lengths, self.lengths.cumsum(0)

    def to(self, device: torch.device | str) -> _Sentences:
        moved = copy(self)
        moved.numbers, moved.starts, moved.ends = (
            each.to(device) for each in (self.numbers, self.starts, self.ends)
        )
        return moved

    def padded(self, index: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Those at `index` (B,), on the CPU and on the device, as (B, S), and where they are not padding."""
        width = int(self.lengths[index].max())
        places = self.starts[there][:, None] + torch.arange(width, device=there.device)
        inside = places < self.ends[there][:, None]
        numbers = self.numbers[places.clamp_(max=len(self.numbers) - 1)]
        return numbers.masked_fill_(~inside, PAD), inside


class SentenceBatches:
    """Sentence pairs in batches of similar length, shuffled anew each epoch: `Batches` for text.

    `sources` and `targets` hold the numbers of the words of each sentence, without `START` and `END`; a target may be
    empty. A batch has `inputs["source"]` (B, S), `inputs["previous"]` (B, L), which is `START` and then the target,
    `targets` (B, L), which is the target and then `END`, so that position j of both belongs to one prediction, `mask`
    (B, L), True from the first word to `END`, and `index` (B,), the pairs' positions. What is left over is `PAD`.

    An epoch's pairs are shuffled and cut into stretches of 100 batches, each is sorted by length, cut into batches, and
    these are shuffled. The order is a function of (`seed`, epoch), drawn on the CPU, so it is the same on every device.

    Raises `ValueError`, naming the sentence, for an empty source, or a number that stands for no word.
    """

    # In batches. Fewer leave more padding, more make neighbours of the same sentences in every epoch. On Multi30k, 64
    # to a batch: 2 % of the targets and 13 % of the sources are padding, where without sorting it is half of both.
    _STRETCH = 100

    def __init__(
        self,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        if len(sources) == 0:
            raise ValueError("sources: got no sentence, expected at least one")
        if len(targets) != len(sources):
            raise ValueError(
                f"targets: got {len(targets)} sentences, expected {len(sources)}, one per source"
            )
        self.batch_size = checks.whole("batch_size", batch_size, least=1)
        self.seed = checks.whole("seed", seed)
        empty = next((place for place, each in enumerate(sources) if len(each) == 0), None)
        if empty is not None:
            raise ValueError(f"sources: got no word in sentence {empty}, expected at least one")
        self._sources = _Sentences("sources", sources, before=[], after=[])
        self._targets = _Sentences("targets", targets, before=[START], after=[END])

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return (self.examples + self.batch_size - 1) // self.batch_size

    @property
    def examples(self) -> int:
        """How many sentence pairs there are."""
        return len(self._sources.lengths)

    @property
    def predictions(self) -> Tensor:
        """How many predictions each pair has, its target's words and `END`: (N,), on the CPU."""
        return self._targets.lengths - 1

    def digest(self) -> str:
        """Return the checksum of all pairs: of their words and where each sentence ends."""
        sides = {"sources": self._sources, "targets": self._targets}
        numbers = {name: each.numbers for name, each in sides.items()}
        return digests.of_tensors(numbers | {f"{name} lengths": each.lengths for name, each in sides.items()})

    def first(self, count: int) -> Batch:
        """Return the first pairs, in their own order."""
        index = torch.arange(min(count, self.examples))
        return self._batch(index, index.to(self._targets.numbers.device))

    def check_classes(self, classes: int) -> None:
        """Raise `ValueError` unless every target is a word of a vocabulary of `classes` words."""
        highest = int(self._targets.numbers.max())
        if highest >= classes:
            raise ValueError(f"targets: got word number {highest}, expected numbers from 0 to {classes - 1}")

    def to(self, device: torch.device | str) -> SentenceBatches:
        """Return the same batches with the whole data set on `device`."""
        moved = copy(self)
        moved._sources, moved._targets = self._sources.to(device), self._targets.to(device)
        return moved

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of epoch `number` (from 0)."""
        generator = torch.Generator().manual_seed((self.seed << 20) + number)
        shuffled = torch.randperm(self.examples, generator=generator)
        # By the target's length first: a target's position costs a softmax over all words, a source's does not.
        lengths = self._targets.lengths * (int(self._sources.lengths.max()) + 1) + self._sources.lengths
        batches: list[Tensor] = []
        for stretch in torch.split(shuffled, self.batch_size * self._STRETCH):
            ordered = stretch[lengths[stretch].argsort(stable=True)]
            batches += torch.split(ordered, self.batch_size)
        order = [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
        # To the device in one go.
        there = torch.split(torch.cat(order).to(self._targets.numbers.device), [len(each) for each in order])
        for index, index_there in zip(order, there, strict=True):
            yield self._batch(index, index_there)

    def _batch(self, index: Tensor, there: Tensor) -> Batch:
        source, _ = self._sources.padded(index, there)
        target, inside = self._targets.padded(index, there)
        # From START to the last word, and from the first word to END.
        mask = inside[:, 1:].contiguous()
        previous = target[:, :-1].masked_fill(~mask, PAD)
        return Batch({"source": source, "previous": previous}, target[:, 1:].contiguous(), mask, there)
