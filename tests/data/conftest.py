"""What the tests of CIFAR-10 share: its JPEG copy in small, and a folder of this machine to fetch from."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cifar_copies import Copy
from PIL import Image
from served_folders import served
from torchvision.datasets import CIFAR10

from kdrepro.data import cifar


@pytest.fixture
def pictures() -> dict[str, np.ndarray]:
    """Six training and two test pictures of each class, by the name of their file."""
    chance = np.random.default_rng(0)
    found = {}
    for split, count in (("train", 6), ("test", 2)):
        for name in cifar.CLASS_NAMES:
            for number in range(count):
                coarse = Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8))
                found[f"{split}/{name}/{number:04d}.jpg"] = np.asarray(coarse.resize((32, 32)))
    return found


@pytest.fixture
def copy(pictures: dict[str, np.ndarray]) -> Copy:
    """The pictures as JPEG files, by name."""
    files = {}
    for name, picture in pictures.items():
        content = io.BytesIO()
        Image.fromarray(picture).save(content, "JPEG", quality=95)
        files[name] = content.getvalue()
    return files


@pytest.fixture
def expected_digest(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have this copy taken for the published one; its digest is of what `sha256sum` would print."""
    printed = "".join(f"{hashlib.sha256(copy[name]).hexdigest()}  {name}\n" for name in sorted(copy))
    digest = hashlib.sha256(printed.encode()).hexdigest()
    monkeypatch.setattr(cifar, "_PICTURES_DIGEST", digest)
    return digest


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is fetched is fetched from a folder of this machine, which is empty at first."""
    (tmp_path / "upstream").mkdir()
    with served(tmp_path / "upstream") as address:
        monkeypatch.setattr(cifar, "_ARCHIVE", f"{address}/archive.tar.gz")
        monkeypatch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")
        yield
