"""CIFAR-10 as torchvision fetches and checks it, and never taken for its JPEG copy."""

import hashlib
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from cifar_copies import Copy, pack, scaled_back
from filelock import FileLock
from torchvision.datasets import CIFAR10

from kdrepro.data import cifar

# Read before a test clears it, to look at the real data where they are.
REAL = os.environ.get("KDREPRO_DATA", "")


@pytest.fixture(autouse=True)
def _fetched_from_here(upstream: None) -> None:
    """What is fetched is fetched from a folder of this machine, which is empty at first."""


Arrays = dict[str, tuple[np.ndarray, list[int]]]


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """Six small files, upstream, whose checksums are taken for the published ones."""
    chance = np.random.default_rng(0)
    arrays: Arrays = {}
    files: Copy = {}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        arrays[name] = (chance.integers(0, 256, (7, 3, 32, 32), dtype=np.uint8), [*range(7)])
        files[name] = pickle.dumps({"data": arrays[name][0].reshape(7, -1), "labels": arrays[name][1]})
    files["batches.meta"] = pickle.dumps({"label_names": list(cifar.CLASS_NAMES)})
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name in sorted(arrays)[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": sums["batches.meta"]})
    archive = pack(
        tmp_path / "upstream" / CIFAR10.filename, files, mode="w:gz", folder=f"{CIFAR10.base_folder}/"
    )
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return arrays


def test_the_published_files_are_fetched_and_become_the_pictures_in_their_order(published, tmp_path):
    loaded = cifar.load("cifar10", root=tmp_path / "new")
    assert loaded.name == "cifar10"
    names = sorted(published)
    for examples, parts in ((loaded.train, names[:5]), (loaded.test, names[5:])):
        expected = np.concatenate([published[name][0] for name in parts])
        np.testing.assert_array_equal(scaled_back(examples).numpy(), expected)
        assert examples.targets.tolist() == [target for name in parts for target in published[name][1]]
        assert (examples.inputs.dtype, examples.targets.dtype) == (torch.float32, torch.int64)
        assert examples.inputs.is_contiguous()


@pytest.mark.usefixtures("published")
def test_published_files_that_are_there_are_not_fetched_again(tmp_path, monkeypatch):
    first = cifar.load("cifar10", root=tmp_path / "new")
    (tmp_path / "upstream" / CIFAR10.filename).unlink()
    monkeypatch.setenv("KDREPRO_DATA", str(tmp_path / "new"))
    again = cifar.load("cifar10")
    assert again.digest == first.digest
    assert torch.equal(again.test.inputs, first.test.inputs)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b"\0"])
def test_a_damaged_file_is_fetched_again_and_never_read(name, damage, published, tmp_path):
    root = tmp_path / "new"
    before = cifar.load("cifar10", root=root)
    file = root / CIFAR10.base_folder / name
    content = file.read_bytes()
    file.write_bytes(damage(content))
    after = cifar.load("cifar10", root=root)
    assert file.read_bytes() == content
    assert torch.equal(after.train.inputs, before.train.inputs)
    file.write_bytes(damage(content))
    for archive in (root, tmp_path / "upstream"):
        (archive / CIFAR10.filename).unlink()
    with pytest.raises(RuntimeError, match="cifar10: could not be downloaded into"):
        cifar.load("cifar10", root=root)


@pytest.mark.usefixtures("published")
def test_damaged_names_of_classes_are_noticed(tmp_path):
    cifar.load("cifar10", root=tmp_path / "new")
    file = tmp_path / "new" / CIFAR10.base_folder / "batches.meta"
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(RuntimeError, match=r"corrupted.*delete cifar-10-batches-py"):
        cifar.load("cifar10", root=tmp_path / "new")


def test_what_another_process_fetches_is_waited_for(published, tmp_path):
    cifar.load("cifar10", root=tmp_path / "there")
    (tmp_path / "upstream" / CIFAR10.filename).unlink()
    root = tmp_path / "new"
    root.mkdir()
    with ThreadPoolExecutor(1) as pool, FileLock(root / ".cifar10.lock"):
        loading = pool.submit(cifar.load, "cifar10", root=root)
        with pytest.raises(TimeoutError):
            loading.result(timeout=0.5)
        (tmp_path / "there" / CIFAR10.base_folder).rename(root / CIFAR10.base_folder)
    # Nothing is left to be fetched.
    assert len(loading.result().train) == 35


def test_a_download_that_fails_says_what_to_do(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        cifar.load("cifar10", root=tmp_path / "new")
    for fragment in (str(tmp_path / "new"), "cifar-10-python.tar.gz", "cifar-10-batches-py", "KDREPRO_DATA"):
        assert fragment in str(caught.value)


def test_the_two_are_never_taken_for_each_other(copy, expected_digest, published, tmp_path):
    pack(tmp_path / "new" / "cifar10-jpeg.tar.xz", copy)
    both = [cifar.load(name, root=tmp_path / "new") for name in cifar.SETS]
    assert [each.name for each in both] == ["cifar10", "cifar10-jpeg"]
    assert both[0].digest != both[1].digest


def test_the_constants_are_those_of_the_papers_code():
    pixels = torch.tensor([0, 255, 125], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    (found,) = cifar._standardised(pixels).unbind()
    expected = [(0 - 125.3) / 63.0, (255 - 123.0) / 62.1, (125 - 113.9) / 66.7]
    torch.testing.assert_close(found[:, 5, 7], torch.tensor(expected))


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(REAL) / CIFAR10.base_folder).exists(), reason="CIFAR-10 is not under $KDREPRO_DATA"
)
def test_the_published_pictures_are_five_and_one_thousand_of_each_class():
    loaded = cifar.load("cifar10", root=REAL)
    for examples, each in ((loaded.train, 5000), (loaded.test, 1000)):
        assert torch.bincount(examples.targets).tolist() == [each] * 10
