"""CIFAR-10 in small: its files packed in a tar, and the pictures that inputs were made of."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch

from kdrepro.data import cifar
from kdrepro.data.examples import Examples

Copy = dict[str, bytes]


def scaled_back(examples: Examples) -> torch.Tensor:
    """The pictures as 8-bit integers, from the inputs."""
    values = examples.inputs.double()
    for channel, (mean, deviation) in enumerate(zip(cifar.MEAN, cifar.STANDARD_DEVIATION, strict=True)):
        values[:, channel] = values[:, channel] * deviation + mean
    rounded = values.round()
    torch.testing.assert_close(values, rounded, rtol=0, atol=1e-4)
    return rounded.to(torch.uint8)


def pack(
    file: Path,
    files: Copy,
    *,
    mode: str = "w:xz",
    folder: str = "",
    order: Callable[[list[str]], list[str]] = sorted,
    time: int = 0,
) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as tar:
        for name in order(list(files)):
            member = tarfile.TarInfo(folder + name)
            member.size, member.mtime = len(files[name]), time
            tar.addfile(member, io.BytesIO(files[name]))
    return file
