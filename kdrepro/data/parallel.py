"""Parallel text: sentence pairs for training, choosing and testing, from any two files of one sentence a line."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdrepro import checks, files
from kdrepro.data.text import Vocabulary, sentence, words
from kdrepro.types import UNKNOWN

Pair = tuple[str, str]

# The frequent words of each side are kept, as many as in Kim & Rush (2016), section 4.1 (from memory); and longer
# sentences than this fill the memory, so seq2seq-attn refuses them too (its `max_sent_l`).
_MOST_WORDS, _LONGEST = 50_000, 250

_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class ParallelText:
    """Pairs (source, target) of raw text: for training, for choosing (`valid`), and a `test` that is looked at once.

    `further` holds test sets beyond the first by name; `digest` is that of the content.
    """

    name: str
    digest: str
    train: list[Pair]
    valid: list[Pair]
    test: list[Pair]
    further: Mapping[str, list[Pair]] = field(default_factory=dict)

    def few(self, *, train: int, valid: int, test: int) -> ParallelText:
        """Keep the first pairs of each part, and no further test set."""
        return replace(
            self, train=self.train[:train], valid=self.valid[:valid], test=self.test[:test], further={}
        )

    def held_out(self, count: int) -> ParallelText:
        """Keep the first `count` pairs for choosing as the test set, so that settings are chosen without the test.

        All of them where there are fewer. The training pairs stay as they are. Raises `ValueError` for a `count` below
        1, and where there are no pairs for choosing.
        """
        checks.whole("count", count, least=1)
        if not self.valid:
            raise ValueError(f"count: got {count}, but {self.name} has no pairs for choosing")
        return replace(self, valid=[], test=self.valid[:count], further={})


@dataclass(frozen=True)
class EncodedText:
    """A parallel text and its numbers: the words of both sides, the training pairs, and the test pairs."""

    data: ParallelText
    source: Vocabulary
    target: Vocabulary
    sources: list[list[int]]
    targets: list[list[int]]
    test_sources: list[list[int]]
    test_targets: list[list[int]]

    @classmethod
    def of(cls, data: ParallelText, *, at_least: int = 1) -> EncodedText:
        """Number the words that are in the training pairs `at_least` so many times, each side on its own.

        Of more than 50,000 the frequent ones.
        """
        try:
            source, target = (
                Vocabulary.from_texts(
                    (pair[side] for pair in data.train), at_least=at_least, most=_MOST_WORDS
                )
                for side in (0, 1)
            )
        except ValueError as error:
            raise ValueError(
                f"{data.name}: too little text for a vocabulary, among {len(data.train):,} training pairs; {error}"
            ) from error
        train, test = (encode_pairs(pairs, source, target) for pairs in (data.train, data.test))
        return cls(data, source, target, *train, *test)

    def written(self, numbers: Sequence[int]) -> str:
        """Return words of the target side as text."""
        return sentence(self.target.decode(numbers))

    def described(self) -> str:
        """Say in words how many pairs there are, and how much of the test pairs the vocabularies do not hold."""
        shares = [
            unknown_share([pair[side] for pair in self.data.test], vocabulary)
            for side, vocabulary in enumerate((self.source, self.target))
        ]
        return (
            f"{len(self.data.train):,} pairs to train on, {len(self.data.test):,} to test with; of the words of these "
            f"{shares[0]:.1%} in the source and {shares[1]:.1%} in the target are unknown, as no or too few training "
            "pairs have them"
        )


def encode_pairs(
    pairs: Sequence[Pair], source: Vocabulary, target: Vocabulary
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the numbers of the words of the sources and of the targets, as `SentenceBatches` takes them."""
    return [source.encode(words(one)) for one, _ in pairs], [target.encode(words(one)) for _, one in pairs]


def unknown_share(texts: Sequence[str], vocabulary: Vocabulary) -> float:
    """Return the share of the words of `texts` that the vocabulary does not hold, in [0, 1]."""
    numbers = [number for text in texts for number in vocabulary.encode(words(text))]
    return numbers.count(UNKNOWN) / max(1, len(numbers))


def read_parallel(source_file: str | os.PathLike[str], target_file: str | os.PathLike[str]) -> ParallelText:
    """Read two plain text files, UTF-8, of which line n of one translates line n of the other.

    A twentieth of the pairs, at most 1,000, is kept for choosing and as many for testing. Which ones depends on the
    source sentences alone, not on their order, and pairs with one source stay together, so that no sentence is tested
    that was trained on. A sentence that is there more often than that is trained on, unless too few others are there to
    hold out. The training pairs keep their order. The name is that of the two files.

    Accents are composed (Unicode NFC), and marks of byte order around a line, such as files that were joined leave,
    are taken off. Raises `OSError`, naming argument and file, for one that is not there or cannot be read, and
    `ValueError`, naming file and line, for text that is not UTF-8, a carriage return or a mark of byte order within a
    line, lines that are empty or hold only what cannot be seen, sentences of more than 250 words, files of different
    length, two files of the same text, and fewer than three different source sentences.
    """
    sources, targets = _lines("source_file", Path(source_file)), _lines("target_file", Path(target_file))
    if len(sources) != len(targets):
        longer, both = (source_file, sources) if len(sources) > len(targets) else (target_file, targets)
        more = both[min(len(sources), len(targets)) :]
        blank = "" if any(more) else f"; what {longer} has more is empty"
        raise ValueError(
            f"{target_file}: got {len(targets):,} lines, expected the {len(sources):,} of {source_file}: "
            f"line n of one file translates line n of the other{blank}"
        )
    for file, lines in ((source_file, sources), (target_file, targets)):
        _check_sentences(file, lines)
    if sources == targets:
        raise ValueError(f"{target_file}: got the text of {source_file}, expected its translation")
    pairs = list(zip(sources, targets, strict=True))
    by_source: dict[str, list[int]] = {}
    for place, source in enumerate(sources):
        by_source.setdefault(source, []).append(place)
    if len(by_source) < 3:
        raise ValueError(
            f"{source_file}: got {len(by_source)} different sentences, expected at least 3, some each for training, "
            "choosing and testing"
        )
    count = max(1, min(1000, len(pairs) // 20))
    held_out = [_drawn(by_source, count, later=later) for later in (1, 0)]
    test, valid = ([pairs[place] for place in sorted(part)] for part in held_out)
    kept = {place for part in held_out for place in part}
    train = [pair for place, pair in enumerate(pairs) if place not in kept]
    digest = hashlib.sha256("\0".join("\n".join(side) for side in (sources, targets)).encode()).hexdigest()
    # Names of files are bytes, and not all are UTF-8; a row's are.
    source, target = (
        os.fsencode(Path(file).name).decode("utf-8", "replace") for file in (source_file, target_file)
    )
    name = f"{source} and {target}"
    return ParallelText(name, f"sha256:{digest[:16]}", train, valid, test)


def _drawn(by_source: dict[str, list[int]], count: int, *, later: int) -> list[int]:
    """Take sentences out, those that are there together no more than `count` times, and return their places.

    One so rare is left for each of the parts that are drawn `later`, and one of any kind to train on. If none is so
    rare, the rarest is taken.
    """
    part: list[int] = []
    fitting = sum(len(places) <= count for places in by_source.values())
    for source in sorted(by_source, key=_drawing, reverse=True):
        if len(part) == count or fitting <= later or len(by_source) == later + 1:
            break
        if len(part) + len(by_source[source]) <= count:
            part += by_source.pop(source)
            fitting -= 1
    return part or by_source.pop(
        min(by_source, key=lambda source: (len(by_source[source]), _drawing(source)))
    )


def _drawing(source: str) -> bytes:
    """The order in which sentences are held out: any, and the same for the same sentences."""
    return hashlib.sha256(source.encode()).digest()


def _lines(argument: str, file: Path) -> list[str]:
    """Read a file's lines, without the spaces around them."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise type(error)(
            f"{argument}: got {str(file)!r}, expected a text file that can be read: {error.strerror}"
        ) from error
    # Other characters that end a line for Python, such as U+2028, are part of a sentence here.
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines or lines == [_BYTE_ORDER_MARK.encode()]:
        raise ValueError(f"{file}: got an empty file, expected one sentence a line")
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8").strip().strip(_BYTE_ORDER_MARK).strip()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{file}: got byte 0x{line[error.start]:02x} at position {error.start + 1} of line {number}, expected "
                "UTF-8: convert it, with iconv for example"
            ) from error
        found.append(unicodedata.normalize("NFC", text))
        if "\0" in text:
            raise ValueError(
                f"{file}: got a zero byte in line {number}, expected UTF-8: it looks like UTF-16 or binary"
            )
        # Where a file is read as text, and so by many toolkits, this ends a line too, and the pairs would shift.
        if "\r" in text:
            raise ValueError(
                f"{file}: got a carriage return within line {number}, expected lines that end in \\n or \\r\\n: "
                "convert the file, with tr for example"
            )
        # Where a file without a line end at its end was joined with another, two sentences would be one.
        if _BYTE_ORDER_MARK in text:
            raise ValueError(
                f"{file}: got a mark of byte order (U+FEFF) within line {number}, expected none: end the line before "
                "it, or take the mark out"
            )
    return found


def _check_sentences(file: str | os.PathLike[str], found: Sequence[str]) -> None:
    """Raise `ValueError` for a line without a letter or sign that is seen, or one of too many words."""
    empty = [str(number) for number, line in enumerate(found, start=1) if not any(map(_seen, line))]
    if empty:
        more = f" and {len(empty) - 5:,} more" if len(empty) > 5 else ""
        raise ValueError(
            f"{file}: got nothing in line {', '.join(empty[:5])}{more}, expected a sentence in every line: take the "
            "line out of both files"
        )
    for number, text in enumerate(found, start=1):
        # To count the words of every line would take long; no line has more words than characters.
        if len(text) > _LONGEST and len(words(text)) > _LONGEST:
            raise ValueError(
                f"{file}: got {len(words(text)):,} words in line {number}, expected at most {_LONGEST}: cut it into "
                "sentences, or take the line out of both files"
            )


def _seen(character: str) -> bool:
    """Tell what is printed, a letter, a number or a sign, from spaces, controls and what only changes a letter."""
    return unicodedata.category(character)[0] in "LNPS"


def write_lines(file: str | os.PathLike[str], lines: Sequence[str]) -> None:
    """Write one sentence a line, UTF-8, the file whole or not at all."""
    with files.whole(Path(file)) as beside, beside.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for line in lines)
