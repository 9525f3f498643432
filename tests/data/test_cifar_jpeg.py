"""The JPEG copy of CIFAR-10: however it is packed the same pictures, fetched, checked, and never a damaged one."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_copies import Copy, pack, scaled_back

from kdrepro.data import cifar

# Read before a test clears it, to look at the real data where they are.
REAL = os.environ.get("KDREPRO_DATA", "")


@pytest.fixture(autouse=True)
def _fetched_from_here(upstream: None) -> None:
    """What is fetched is fetched from a folder of this machine, which is empty at first."""


@pytest.mark.usefixtures("expected_digest")
def test_the_files_of_the_copy_become_the_pictures(pictures, copy, tmp_path):
    pack(tmp_path / "cifar10-jpeg.tar.xz", copy)
    loaded = cifar.load("cifar10-jpeg", root=tmp_path)
    assert loaded.name == "cifar10-jpeg"
    for split, examples, count in (("train", loaded.train, 60), ("test", loaded.test, 20)):
        assert examples.inputs.shape == (count, 3, 32, 32)
        assert (examples.inputs.dtype, examples.targets.dtype) == (torch.float32, torch.int64)
        assert examples.inputs.is_contiguous()
        # Each picture is nearest to one that was compressed, and as near as compression with loss leaves it.
        names = [name for name in pictures if name.startswith(split)]
        originals = torch.from_numpy(np.stack([pictures[name] for name in names])).permute(0, 3, 1, 2)
        distances = torch.cdist(scaled_back(examples).flatten(1).float(), originals.flatten(1).float(), p=1)
        nearest = distances.min(dim=1)
        assert nearest.values.max() / 3072 < 5
        assert sorted(nearest.indices.tolist()) == list(range(count))
        classes = [names[place].split("/")[1] for place in nearest.indices]
        assert [cifar.CLASS_NAMES[target] for target in examples.targets] == classes


@pytest.mark.parametrize(
    ("file", "packing"),
    [
        ("cifar10-jpeg.tar.xz", {"order": lambda names: sorted(names, reverse=True), "time": 1_700_000_000}),
        ("cifar10-jpeg.tar.xz", {"mode": "w"}),
        ("cifar10-jpeg.tar.xz", {"mode": "w:bz2", "folder": "./"}),
        ("cifar10-jpeg.tar.gz", {"mode": "w:gz", "folder": "CIFAR-10-images-6d04f75/"}),
    ],
)
def test_however_they_are_packed_they_are_the_same_data_set(file, packing, copy, expected_digest, tmp_path):
    pack(tmp_path / "one" / "cifar10-jpeg.tar.xz", copy)
    pack(tmp_path / "other" / file, copy | {"README.md": b"words", "train/cat/notes.txt": b"more"}, **packing)
    one, other = (cifar.load("cifar10-jpeg", root=tmp_path / each) for each in ("one", "other"))
    assert one.digest == other.digest == f"sha256:{expected_digest[:16]}"
    for first, second in ((one.train, other.train), (one.test, other.test)):
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.targets, second.targets)


@pytest.mark.usefixtures("expected_digest")
def test_the_copy_is_shuffled_the_same_way_every_time(copy, tmp_path):
    pack(tmp_path / "cifar10-jpeg.tar.xz", copy)
    first = cifar.load("cifar10-jpeg", root=tmp_path).train.targets.tolist()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert cifar.load("cifar10-jpeg", root=tmp_path).train.targets.tolist() == first
    assert torch.equal(torch.get_rng_state(), before)
    assert first != sorted(first)
    assert len(set(first[-20:])) > 5


def damaged(files: Copy, damage: str) -> Copy:
    """The files with one of them altered, missing, more, or under the name of another."""
    cat, dog = "train/cat/0003.jpg", "train/dog/0003.jpg"
    return {
        "altered": files | {cat: files[cat][:-1] + b"\0"},
        "missing": {name: content for name, content in files.items() if name != cat},
        "more": files | {"train/cat/9999.jpg": files[cat]},
        "exchanged": files | {cat: files[dog], dog: files[cat]},
        "empty": {},
    }[damage]


@pytest.mark.usefixtures("expected_digest")
@pytest.mark.parametrize(
    ("damage", "count"), [("altered", 80), ("missing", 79), ("more", 81), ("exchanged", 80), ("empty", 0)]
)
def test_a_copy_with_other_pictures_is_named(damage, count, copy, tmp_path):
    pack(tmp_path / "cifar10-jpeg.tar.xz", damaged(copy, damage))
    with pytest.raises(
        ValueError, match=rf"cifar10-jpeg\.tar\.xz: got {count} pictures with SHA-256 .*, expected 60,000"
    ):
        cifar.load("cifar10-jpeg", root=tmp_path)


@pytest.mark.usefixtures("expected_digest")
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_a_truncated_tar_is_named(mode, kept, copy, tmp_path):
    file = pack(tmp_path / "cifar10-jpeg.tar.xz", copy, mode=mode)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"cifar10-jpeg\.tar\.xz: (not a readable tar|got .* pictures)"):
        cifar.load("cifar10-jpeg", root=tmp_path)


def test_a_link_in_a_tar_is_not_followed(copy, expected_digest, tmp_path):
    file = tmp_path / "cifar10-jpeg.tar.xz"
    with tarfile.open(file, "w:xz") as tar:
        for name, content in copy.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("train/cat/9999.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "0000.jpg"
        tar.addfile(link)
    assert cifar.load("cifar10-jpeg", root=tmp_path).digest == f"sha256:{expected_digest[:16]}"


@pytest.mark.usefixtures("expected_digest")
def test_a_copy_that_is_not_there_is_fetched_from_its_repository(copy, tmp_path):
    pack(tmp_path / "upstream" / "archive.tar.gz", copy, mode="w:gz", folder="CIFAR-10-images-6d04f75/")
    root = tmp_path / "new" / "folder"
    assert len(cifar.load("cifar10-jpeg", root=root).train) == 60
    assert [file.name for file in root.iterdir()] == ["cifar10-jpeg.tar.gz"]
    (tmp_path / "upstream" / "archive.tar.gz").unlink()
    assert len(cifar.load("cifar10-jpeg", root=root).test) == 20


@pytest.mark.usefixtures("expected_digest")
@pytest.mark.parametrize("damage", ["altered", "missing", "not a tar", "half"])
def test_a_bad_download_leaves_nothing(damage, copy, tmp_path):
    file = tmp_path / "upstream" / "archive.tar.gz"
    pack(file, copy if damage in ("not a tar", "half") else damaged(copy, damage), mode="w:gz")
    if damage == "not a tar":
        file.write_bytes(b"<html>Not here</html>")
    if damage == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(RuntimeError, match="cifar10-jpeg: could not be downloaded into"):
        cifar.load("cifar10-jpeg", root=tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_a_copy_that_cannot_be_fetched_says_what_to_do(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        cifar.load("cifar10-jpeg", root=tmp_path / "new")
    for fragment in ("could not be downloaded into", "save http://", "KDREPRO_DATA", "cifar10-jpeg.tar.xz"):
        assert fragment in str(caught.value)
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(REAL) / "cifar10-jpeg.tar.xz").exists(), reason="the JPEG copy is not under $KDREPRO_DATA"
)
def test_the_real_copy_is_the_one_that_the_digest_was_made_of():
    loaded = cifar.load("cifar10-jpeg", root=REAL)
    for examples, each in ((loaded.train, 5000), (loaded.test, 1000)):
        assert torch.bincount(examples.targets).tolist() == [each] * 10
        # Standardised with rounded constants of CIFAR-10 itself; the copy's own differ in the second digit.
        assert examples.inputs.mean(dim=(0, 2, 3)).abs().max() < 0.02
        assert (examples.inputs.std(dim=(0, 2, 3)) - 1).abs().max() < 0.02
    held_out = loaded.held_out(5000).test
    assert torch.bincount(held_out.targets, minlength=10).min() > 400
