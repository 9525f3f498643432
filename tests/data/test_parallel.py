"""Any two files as training, validation and test pairs, and what is said about files that are none."""

import hashlib
import os
import unicodedata
from pathlib import Path

import pytest

from kdrepro.data import parallel
from kdrepro.data.parallel import (
    EncodedText,
    ParallelText,
    encode_pairs,
    read_parallel,
    unknown_share,
    write_lines,
)
from kdrepro.data.text import Vocabulary


def written(folder: Path, source: bytes | list[str], target: bytes | list[str]) -> tuple[Path, Path]:
    files = (folder / "a.en", folder / "a.de")
    for file, content in zip(files, (source, target), strict=True):
        file.write_bytes(
            content if isinstance(content, bytes) else "".join(f"{line}\n" for line in content).encode()
        )
    return files


ENGLISH = [f"sentence {number}" for number in range(100)]
GERMAN = [f"Satz {number}" for number in range(100)]


def test_the_pairs_are_those_of_the_lines(tmp_path):
    text = read_parallel(*written(tmp_path, ENGLISH, GERMAN))
    assert [len(part) for part in (text.train, text.valid, text.test)] == [90, 5, 5]
    everything = text.train + text.valid + text.test
    assert sorted(everything) == sorted(zip(ENGLISH, GERMAN, strict=True))
    assert text.train == sorted(text.train, key=lambda pair: ENGLISH.index(pair[0]))
    assert text.name == "a.en and a.de"
    assert not text.further


def test_the_name_of_a_file_need_not_be_utf_8(tmp_path):
    english, german = written(tmp_path, ENGLISH, GERMAN)
    other = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.en")
    os.rename(english, other)
    text = read_parallel(other, german)
    assert text.name == "caf\ufffd.en and a.de"
    text.name.encode("utf-8")


def test_which_are_held_out_depends_on_the_sources_alone(tmp_path):
    text = read_parallel(*written(tmp_path, ENGLISH, GERMAN))
    other = read_parallel(*written(tmp_path, ENGLISH[::-1], [line.upper() for line in GERMAN[::-1]]))
    for one, two in ((text.valid, other.valid), (text.test, other.test)):
        assert {source for source, _ in one} == {source for source, _ in two}
    assert other.train[0][0] > other.train[-1][0]
    assert other.digest != text.digest


def test_pairs_with_one_source_stay_together(tmp_path):
    sources = [f"sentence {number // 4}" for number in range(200)]
    text = read_parallel(*written(tmp_path, sources, [f"Satz {number}" for number in range(200)]))
    parts = [{source for source, _ in part} for part in (text.train, text.valid, text.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 50
    # A twentieth is ten pairs, and no more.
    assert [len(part) for part in (text.valid, text.test)] == [8, 8]


def test_a_sentence_that_is_there_very_often_is_trained_on(tmp_path):
    often = ["Thank you."] * 900
    for place in range(5):
        sources = [f"{place} {number}" for number in range(100)] + often
        text = read_parallel(*written(tmp_path, sources, [f"Satz {number}" for number in range(1000)]))
        assert [len(part) for part in (text.train, text.valid, text.test)] == [900, 50, 50]
        assert sum(source == often[0] for source, _ in text.train) == 900


def test_the_last_rare_sentence_is_left_for_choosing(tmp_path):
    sources = [f"{number}" for number in range(5)] + ["often"] * 47 + ["more often"] * 48
    text = read_parallel(*written(tmp_path, sources, [f"Satz {number}" for number in range(100)]))
    assert [len(part) for part in (text.train, text.valid, text.test)] == [95, 1, 4]
    assert {source for source, _ in text.train} == {"often", "more often"}


def test_where_all_sentences_are_there_more_often_the_rarest_are_held_out(tmp_path):
    sources = ["one"] * 2 + ["two"] * 3 + ["three"] * 9
    text = read_parallel(*written(tmp_path, sources, [f"Satz {number}" for number in range(14)]))
    held_out = [[source for source, _ in part] for part in (text.test, text.valid, text.train)]
    assert held_out == [["one"] * 2, ["two"] * 3, ["three"] * 9]


@pytest.mark.parametrize("count", [3, 4, 20])
def test_a_few_sentences_are_enough(count, tmp_path):
    text = read_parallel(*written(tmp_path, ENGLISH[:count], GERMAN[:count]))
    assert [len(part) for part in (text.train, text.valid, text.test)] == [count - 2, 1, 1]


def test_no_more_than_a_thousand_are_held_out(tmp_path):
    lines = [str(number) for number in range(30_000)]
    text = read_parallel(*written(tmp_path, lines, lines[::-1]))
    assert [len(part) for part in (text.train, text.valid, text.test)] == [28_000, 1000, 1000]


def test_line_ends_of_other_systems_and_marks_of_byte_order_are_no_part_of_a_sentence(tmp_path):
    plain = read_parallel(*written(tmp_path, ENGLISH, GERMAN))
    source = b"\xef\xbb\xbf" + "\r\n".join(ENGLISH).encode()
    other = read_parallel(*written(tmp_path, source, [f"  {line}\t" for line in GERMAN]))
    assert other == plain


def test_marks_of_byte_order_that_joined_files_leave_are_no_part_of_a_sentence(tmp_path):
    plain = read_parallel(*written(tmp_path, ENGLISH, GERMAN))
    halves = ["".join(f"{line}\n" for line in lines) for lines in (ENGLISH[:50], ENGLISH[50:])]
    joined = "".join(f"\ufeff{half}" for half in halves).encode()
    assert read_parallel(*written(tmp_path, joined, GERMAN)) == plain


def test_accents_are_composed_so_that_two_ways_to_write_them_are_one_word(tmp_path):
    composed = [f"café {number}" for number in range(20)]
    apart = [unicodedata.normalize("NFD", line) for line in composed]
    assert apart != composed
    assert read_parallel(*written(tmp_path, apart, apart[::-1])) == read_parallel(
        *written(tmp_path, composed, composed[::-1])
    )


def test_other_characters_that_end_a_line_do_not_shift_the_pairs(tmp_path):
    sources = [f"one\u2028two\x0bthree\u0085{number}" for number in range(20)]
    text = read_parallel(*written(tmp_path, sources, GERMAN[:20]))
    found = text.train + text.valid + text.test
    assert sorted(found) == sorted(zip(sources, GERMAN[:20], strict=True))


def test_the_digest_is_that_of_the_content(tmp_path):
    text = read_parallel(*written(tmp_path, ENGLISH, GERMAN))
    content = "\n".join(ENGLISH) + "\0" + "\n".join(GERMAN)
    assert text.digest == f"sha256:{hashlib.sha256(content.encode()).hexdigest()[:16]}"


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (ENGLISH, GERMAN[:-1], r"a\.de: got 99 lines, expected the 100 of .*a\.en: line n of one .* other$"),
        (ENGLISH, [*GERMAN, "", " "], r"a\.de: got 102 lines, .* what .*a\.de has more is empty$"),
        ([*ENGLISH, ""], GERMAN, r"a\.de: got 100 lines, .* what .*a\.en has more is empty$"),
        (b"one\rtwo\rthree\r", list("abc"), r"a\.en: got a carriage return within line 1, expected lines"),
        (list("abc"), b"eins\r\nzwei\rdrei\r\nvier", r"a\.de: got a carriage return within line 2, expected"),
        (
            ["one", "", "three", "  "],
            list("abcd"),
            r"a\.en: got nothing in line 2, 4, expected a sentence in every",
        ),
        (
            list("abcdefgh"),
            ["x", *[""] * 7],
            r"a\.de: got nothing in line 2, 3, 4, 5, 6 and 2 more, expected",
        ),
        (
            b"one\ntwo\ncaf\xe9\n",
            list("abc"),
            r"a\.en: got byte 0xe9 at position 4 of line 3, expected UTF-8",
        ),
        (
            list("abc"),
            "eins\nzwei\ndrei\n".encode("utf-16"),
            r"a\.de: got byte 0xff at position 1 of line 1, expec",
        ),
        (
            list("abc"),
            "eins\nzwei\ndrei\n".encode("utf-16-le"),
            r"a\.de: got a zero byte in line 1, .* UTF-16",
        ),
        (
            ["\u200b", "two", "\u00ad \u2060\u200e", "four"],
            list("abcd"),
            r"a\.en: got nothing in line 1, 3, expected a sentence in every",
        ),
        (list("abc"), ["eins", "\ufeff", "drei"], r"a\.de: got nothing in line 2, expected a sentence"),
        (
            list("abc"),
            ["eins", "zwei", "drei\ufeffvier"],
            r"a\.de: got a mark of byte order \(U\+FEFF\) within line 3, expected none",
        ),
        (b"\xef\xbb\xbf", list("abc"), r"a\.en: got an empty file, expected one sentence a line"),
        (b"", list("abc"), r"a\.en: got an empty file, expected one sentence a line"),
        (
            ["a b", "a " * 249 + "b", "a " * 251],
            list("abc"),
            r"a\.en: got 251 words in line 3, expected at most 250: cut it",
        ),
        (["same"] * 9, list("abcdefghi"), r"a\.en: got 1 different sentences, expected at least 3"),
    ],
)
def test_what_is_no_parallel_text_is_named_with_its_line(source, target, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_parallel(*written(tmp_path, source, target))


def test_a_file_that_is_not_there_is_named(tmp_path):
    (source, _) = written(tmp_path, ENGLISH, GERMAN)
    with pytest.raises(
        FileNotFoundError, match=r"^target_file: got '.*b\.de', expected a text file that can"
    ):
        read_parallel(source, tmp_path / "b.de")
    with pytest.raises(IsADirectoryError, match=r"^source_file: got '.*', expected a text file .*: Is a dir"):
        read_parallel(tmp_path, source)


def test_a_few_of_each_part(tmp_path):
    text = read_parallel(*written(tmp_path, ENGLISH, GERMAN))
    few = text.few(train=4, valid=2, test=1)
    assert (few.train, few.valid, few.test) == (text.train[:4], text.valid[:2], text.test[:1])
    assert (few.name, few.digest) == (text.name, text.digest)
    more = ParallelText("x", "y", text.train, text.valid, text.test, {"test_2017": text.test})
    assert more.few(train=1, valid=1, test=1).further == {}


def test_pairs_as_numbers_and_the_share_of_unknown_words():
    pairs = [("a dog runs", "ein Hund rennt"), ("a cat", "eine Katze")]
    source, target = Vocabulary(["a", "dog"]), Vocabulary(["ein", "Hund", "rennt"])
    assert encode_pairs(pairs, source, target) == ([[4, 5, 3], [4, 3]], [[4, 5, 6], [3, 3]])
    assert unknown_share([one for one, _ in pairs], source) == pytest.approx(2 / 5)
    assert unknown_share([one for _, one in pairs], target) == pytest.approx(2 / 5)
    assert unknown_share(["a a"], source) == 0


def test_lines_are_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "text.de"
    write_lines(file, ["ein Hund", "", "zwei\u2028Hunde"])
    assert file.read_bytes() == "ein Hund\n\nzwei\u2028Hunde\n".encode()
    with pytest.raises(UnicodeEncodeError):
        write_lines(file, ["ein Hund", "\ud800"])
    assert file.read_text(encoding="utf-8").startswith("ein Hund\n\n")
    assert [each.name for each in file.parent.iterdir()] == ["text.de"]


def test_pairs_for_choosing_take_the_place_of_the_test():
    text = ParallelText(
        "n", "d", [("a", "b")], [("c", "d"), ("e", "f")], [("g", "h")], {"more": [("i", "j")]}
    )
    held = text.held_out(1)
    assert (held.train, held.valid, held.test, held.further) == ([("a", "b")], [], [("c", "d")], {})
    # The thousand of a recipe are more than some texts have.
    assert text.held_out(2).test == text.held_out(1_000).test == text.valid
    for count in (-1, 0):
        with pytest.raises(ValueError, match=f"count: got {count}, expected a whole number of at least 1"):
            text.held_out(count)
    with pytest.raises(ValueError, match="count: got 5, but n has no pairs for choosing"):
        text.held_out(1).held_out(5)


def test_a_text_is_not_its_own_translation(tmp_path):
    files = written(tmp_path, ENGLISH, ENGLISH)
    with pytest.raises(ValueError, match=r"a.de: got the text of .*a.en, expected its translation"):
        read_parallel(*files)


def test_a_text_too_small_for_a_vocabulary_is_named(tmp_path):
    text = read_parallel(*written(tmp_path, ENGLISH, [f"Satz{number}" for number in range(100)]))
    with pytest.raises(
        ValueError, match=r"a\.en and a\.de: too little text for a vocabulary, among 90 training pairs"
    ):
        EncodedText.of(text, at_least=2)


def test_vocabularies_end_at_their_greatest_size(monkeypatch):
    monkeypatch.setattr(parallel, "_MOST_WORDS", 2)
    pairs = [("the dog", "der hund"), ("a cat ran", "eine katze lief davon"), ("the cat", "die katze")]
    found = EncodedText.of(ParallelText("x", "sha256:0", pairs, [], pairs))
    # Beside padding, the beginning, the end, and what is unknown.
    assert (len(found.source), len(found.target)) == (4 + 2, 4 + 2)
