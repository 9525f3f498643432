"""Multi30k: captions of photographs in English, German and French, each a translation of the others."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.request
import zlib
from pathlib import Path

from kdrepro import checks, files
from kdrepro.data.examples import folder
from kdrepro.data.parallel import Pair, ParallelText

LANGUAGES = ("en", "de", "fr")

# Where they are published, at the commit that the checksums are of.
_ADDRESS = "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw"
# SHA-256 of the unpacked texts, so that it does not matter who packed them.
_FILES = {
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.fr": "5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.fr": "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.fr": "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
    "test_2017_flickr.en": "ce1450ddc5ab0834502579d77a170849952e15a2938b34cc503bdc25ebb4fb98",
    "test_2017_flickr.de": "c3078bc3b36808bf9d20eb2347ed6137016179ef59ec0d2b9b8ecc3fb2880081",
    "test_2017_flickr.fr": "6f3764e31dac41e9455e612958bcfd4e877c5e15cd66df2c2b2be6d9bd83e5b6",
}


def load(
    source: str = "en", target: str = "de", *, root: str | os.PathLike[str] | None = None
) -> ParallelText:
    """Load the captions in two languages: 29,000 pairs for training, 1,014 for choosing, 1,000 for testing.

    Elliott et al. (2016), Multi30K: multilingual English-German image descriptions, task 1. `test` is the test set of
    2016; the 1,000 pairs of 2017 are in `further["test_2017"]`. The texts are raw, without the spaces around them, and
    the training pairs are in the published order.

    The files, `multi30k/train.en.gz` and so on, are looked for under `root` (default: `folder()`) and downloaded from
    the data set's repository when they are not there (1.3 MB). They are checked against SHA-256 sums on every load.
    Raises `ValueError` for an unknown language, one language twice, or an altered file, naming it; `RuntimeError` when
    a download fails.
    """
    for name, language in (("source", source), ("target", target)):
        checks.choice(name, language, LANGUAGES)
    if source == target:
        raise ValueError(
            f"target: got {target!r}, the source's language, expected another of {', '.join(LANGUAGES)}"
        )
    where = folder(root) / "multi30k"

    def pairs(part: str) -> list[Pair]:
        sides = [_lines(where, f"{part}.{language}") for language in (source, target)]
        return list(zip(*sides, strict=True))

    train, valid, test, test_2017 = map(pairs, ("train", "val", "test_2016_flickr", "test_2017_flickr"))
    sums = "".join(digest for file, digest in _FILES.items() if file[-2:] in (source, target))
    digest = hashlib.sha256(sums.encode()).hexdigest()
    name = f"multi30k-{source}-{target}"
    return ParallelText(name, f"sha256:{digest[:16]}", train, valid, test, {"test_2017": test_2017})


def _lines(where: Path, name: str) -> list[str]:
    file = where / f"{name}.gz"
    if file.exists():
        try:
            content = _unpacked(name, file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{file}: {error}; delete it and load again to fetch it") from error
    else:
        content = _fetched(name, file)
    return [line.strip() for line in content.decode("utf-8").split("\n")[:-1]]


def _fetched(name: str, file: Path) -> bytes:
    try:
        with urllib.request.urlopen(f"{_ADDRESS}/{file.name}", timeout=60) as response:
            packed: bytes = response.read()
        content = _unpacked(name, packed)
        with files.whole(file) as beside:
            beside.write_bytes(packed)
    except Exception as error:
        raise RuntimeError(
            f"multi30k: {file.name} could not be downloaded into {file.parent} ({error}); put it there from "
            f"{_ADDRESS}, or point KDREPRO_DATA at a folder that holds multi30k"
        ) from error
    return content


def _unpacked(name: str, packed: bytes) -> bytes:
    try:
        content = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not a readable gzip file ({error})") from error
    found = hashlib.sha256(content).hexdigest()
    if found != _FILES[name]:
        raise ValueError(
            f"got SHA-256 {found} of the {len(content):,} bytes in it, expected {_FILES[name]}: it is truncated "
            "or altered"
        )
    return content
