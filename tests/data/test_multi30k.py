"""Multi30k: the files of two languages as pairs, fetched and checked, and what is said of altered ones."""

import gzip
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sacrebleu
from served_folders import served

from kdrepro.data import multi30k
from kdrepro.data.parallel import unknown_share
from kdrepro.data.text import Vocabulary, sentence, words

# Read before a test clears it, to look at the real data where they are.
REAL = os.environ.get("KDREPRO_DATA", "")

COUNTS = {"train": 12, "val": 4, "test_2016_flickr": 3, "test_2017_flickr": 2}


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small texts by name, whose checksums are taken for the published ones."""
    found = {
        f"{part}.{language}": "".join(f"{part} {language} {number} \n" for number in range(count)).encode()
        for part, count in COUNTS.items()
        for language in multi30k.LANGUAGES
    }
    assert set(found) == set(multi30k._FILES)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    monkeypatch.setattr(multi30k, "_FILES", sums)
    return found


@pytest.fixture(autouse=True)
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What is fetched is fetched from a folder of this machine, which is empty at first."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    with served(folder) as address:
        monkeypatch.setattr(multi30k, "_ADDRESS", address)
        yield folder


def laid_out(folder: Path, texts: dict[str, bytes], *, level: int = 9) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=level))
    return folder.parent


@pytest.mark.parametrize(("source", "target"), [("en", "de"), ("de", "en"), ("fr", "en")])
def test_line_n_of_one_language_belongs_to_line_n_of_the_other(source, target, texts, tmp_path):
    loaded = multi30k.load(source, target, root=laid_out(tmp_path / "data" / "multi30k", texts))
    parts = {
        "train": loaded.train,
        "val": loaded.valid,
        "test_2016_flickr": loaded.test,
        "test_2017_flickr": loaded.further["test_2017"],
    }
    for name, count in COUNTS.items():
        expected = [(f"{name} {source} {number}", f"{name} {target} {number}") for number in range(count)]
        assert parts[name] == expected
    assert loaded.name == f"multi30k-{source}-{target}"


def test_the_digest_is_that_of_the_languages_whoever_packed_them(texts, tmp_path):
    one = laid_out(tmp_path / "one" / "multi30k", texts)
    other = laid_out(tmp_path / "other" / "multi30k", texts, level=1)
    digests = {multi30k.load(*sides, root=one).digest for sides in (("en", "de"), ("en", "fr"), ("fr", "de"))}
    assert len(digests) == 3
    assert multi30k.load(root=other).digest == multi30k.load(root=one).digest


def test_they_are_looked_for_where_the_environment_says(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_DATA", str(laid_out(tmp_path / "data" / "multi30k", texts)))
    assert len(multi30k.load().train) == 12


def test_what_is_not_there_is_fetched_and_kept(texts, upstream, tmp_path):
    laid_out(upstream, texts)
    root = tmp_path / "data"
    fetched = multi30k.load(root=root)
    assert len(fetched.train) == 12
    names = {f"{part}.{language}.gz" for part in COUNTS for language in ("en", "de")}
    assert {file.name for file in (root / "multi30k").iterdir()} == names
    for file in upstream.iterdir():
        file.unlink()
    assert multi30k.load(root=root) == fetched


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "shorter", "not gzip"])
@pytest.mark.parametrize("name", ["train.en", "test_2017_flickr.de"])
def test_a_damaged_file_is_named_and_left_alone(name, damage, texts, upstream, tmp_path):
    laid_out(upstream, texts)
    root = laid_out(tmp_path / "data" / "multi30k", texts)
    file = root / "multi30k" / f"{name}.gz"
    content = {
        "truncated": file.read_bytes()[:-9],
        "altered": gzip.compress(texts[name].replace(b"0", b"1")),
        "empty": b"",
        "shorter": gzip.compress(texts[name][: texts[name].index(b"\n") + 1]),
        "not gzip": texts[name],
    }[damage]
    file.write_bytes(content)
    says = {"altered": "got SHA-256", "shorter": "got SHA-256", "empty": "got SHA-256"}.get(
        damage, "not a readable gz"
    )
    with pytest.raises(ValueError, match=rf"{name}\.gz: {says}.*; delete it and load again") as caught:
        multi30k.load(root=root)
    assert ("truncated or altered" in str(caught.value)) == (says == "got SHA-256")
    assert file.read_bytes() == content
    file.unlink()
    assert len(multi30k.load(root=root).train) == 12


@pytest.mark.parametrize("damage", ["missing", "altered", "truncated"])
def test_a_download_that_fails_leaves_nothing_and_says_what_to_do(damage, texts, upstream, tmp_path):
    laid_out(upstream, texts)
    file = upstream / "train.en.gz"
    if damage == "missing":
        file.unlink()
    else:
        packed = gzip.compress(b"other text\n")
        file.write_bytes(packed if damage == "altered" else packed[:-4])
    with pytest.raises(RuntimeError, match=r"train\.en\.gz could not be downloaded into .*KDREPRO_DATA"):
        multi30k.load(root=tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.gz*"))


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (("en", "en"), "target: got 'en', the source's language, expected another"),
        (("en", "nl"), "target: got 'nl', expected one of en, de, fr"),
        (("eng", "de"), "source: got 'eng', expected one of en, de, fr; did you mean 'en'"),
    ],
)
def test_languages_that_there_are_not_are_refused(sides, message):
    with pytest.raises(ValueError, match=message):
        multi30k.load(*sides)


needs_data = pytest.mark.skipif(
    not (Path(REAL) / "multi30k" / "train.en.gz").exists(), reason="KDREPRO_DATA holds no multi30k"
)


@needs_data
@pytest.mark.parametrize("sides", [("en", "de"), ("fr", "en")])
def test_the_published_captions(sides):
    loaded = multi30k.load(*sides, root=REAL)
    parts = (loaded.train, loaded.valid, loaded.test, loaded.further["test_2017"])
    assert [len(part) for part in parts] == [29_000, 1014, 1000, 1000]
    assert all(source and target for part in parts for source, target in part)
    first = {"en": "Two young, White males are outside near many bushes.", "fr": "Deux jeunes hommes blancs"}
    assert loaded.train[0][0].startswith(first[sides[0]])


@needs_data
@pytest.mark.parametrize("language", multi30k.LANGUAGES)
def test_captions_cut_into_words_and_put_together_are_nearly_the_captions(language):
    loaded = multi30k.load(language, "en" if language != "en" else "de", root=REAL)
    texts = [" ".join(source.split()) for source, _ in loaded.train + loaded.valid + loaded.test]
    back = [sentence(words(text)) for text in texts]
    assert sum(one != other for one, other in zip(texts, back, strict=True)) / len(texts) < 0.005
    assert all(words(one) == words(other) for one, other in zip(texts, back, strict=True))
    references = [source for source, _ in loaded.valid]
    assert sacrebleu.corpus_bleu([sentence(words(text)) for text in references], [references]).score > 99.9


@needs_data
def test_words_seen_twice_leave_few_unknown():
    loaded = multi30k.load(root=REAL)
    for place, share in ((0, 0.025), (1, 0.05)):
        vocabulary = Vocabulary.from_texts((pair[place] for pair in loaded.train), at_least=2)
        found = unknown_share([pair[place] for pair in loaded.valid], vocabulary)
        # A model learns what to do with unknown words only if some are unknown in training.
        assert 0 < unknown_share([pair[place] for pair in loaded.train], vocabulary) < found < share
