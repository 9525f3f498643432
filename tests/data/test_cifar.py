"""The pictures: CIFAR-10 as torchvision fetches and checks it, and the JPEG copy in a tar."""

import hashlib
import io
import os
import pickle
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from kdrepro.data import cifar
from kdrepro.data.examples import Examples

# Read before a test clears it, to look at the real data where they are.
REAL = os.environ.get("KDREPRO_DATA", "")

Copy = dict[str, bytes]


def scaled_back(examples: Examples) -> torch.Tensor:
    """The pictures as 8-bit integers, from the inputs."""
    values = examples.inputs.double()
    for channel, (mean, deviation) in enumerate(zip(cifar.MEAN, cifar.STANDARD_DEVIATION, strict=True)):
        values[:, channel] = values[:, channel] * deviation + mean
    rounded = values.round()
    torch.testing.assert_close(values, rounded, rtol=0, atol=1e-4)
    return rounded.to(torch.uint8)


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


class Quiet(SimpleHTTPRequestHandler):
    """Serve a folder without saying so."""

    def log_message(self, *ignored: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is fetched is fetched from a folder of this machine, which is empty at first."""
    (tmp_path / "upstream").mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "upstream"))
    # Whoever fetches may hang up before the end.
    server.handle_error = lambda *_: None
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(cifar, "_ARCHIVE", f"{address}/archive.tar.gz")
    monkeypatch.setattr(CIFAR10, "url", f"{address}/{CIFAR10.filename}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


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


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(REAL) / CIFAR10.base_folder).exists(), reason="CIFAR-10 is not under $KDREPRO_DATA"
)
def test_the_published_pictures_are_five_and_one_thousand_of_each_class():
    loaded = cifar.load("cifar10", root=REAL)
    for examples, each in ((loaded.train, 5000), (loaded.test, 1000)):
        assert torch.bincount(examples.targets).tolist() == [each] * 10
