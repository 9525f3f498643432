"""Files of weights and of training states: whole or not at all, and never more than data."""

import os
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from small_networks import network, snapshot
from torch import nn

from kdrepro import checkpoints
from kdrepro.checkpoints import load_state, load_tensors, load_weights, save_state, save_weights

STATE = {"epochs": 3, "weights": {"a": torch.arange(4.0)}, "curves": [1.0, float("inf")], "best": None}


def test_a_state_comes_back_as_it_went(tmp_path):
    file = tmp_path / "new" / "folder" / "state.pt"
    save_state(STATE, file)
    found = load_state(file)
    assert torch.equal(found.pop("weights")["a"], STATE["weights"]["a"])
    assert found == {name: value for name, value in STATE.items() if name != "weights"}
    assert [each.name for each in file.parent.iterdir()] == ["state.pt"]


def test_numbers_of_numpys_are_written_as_pythons(tmp_path):
    state = {
        "rate": np.float64(0.1),
        "steps": [np.int64(3), (np.float32(0.5), True)],
        "at": Counter({np.int64(2): 1}),
    }
    save_state(state, tmp_path / "state.pt")
    found = load_state(tmp_path / "state.pt")
    assert found == {"rate": 0.1, "steps": [3, (0.5, True)], "at": Counter({2: 1})}
    assert (type(found["rate"]), type(found["steps"][0]), type(found["at"])) == (float, int, Counter)
    assert type(state["rate"]) is np.float64


def test_weights_that_layers_share_come_back_too(tmp_path):
    tied, other = (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2))
    for net in (tied, other):
        net[1].weight = net[0].weight
    save_weights(tied, tmp_path / "net.safetensors", metadata={})
    load_weights(other, tmp_path / "net.safetensors")
    assert snapshot(other)["bytes"] == snapshot(tied)["bytes"]


def test_weights_come_back_bit_for_bit_and_say_whose_they_are(tmp_path):
    file, net, other = tmp_path / "net.safetensors", network(0), network(1)
    save_weights(net, file, metadata={"run": "hinton_kd.smoke.teacher.s0"})
    load_weights(other, file)
    assert snapshot(other)["bytes"] == snapshot(net)["bytes"]
    with safe_open(file, "pt") as content:
        assert content.metadata() == {"run": "hinton_kd.smoke.teacher.s0"}


def fails(error: Exception):
    def write(*arguments, **options) -> None:
        (where,) = (each for each in arguments if hasattr(each, "write_bytes"))
        where.write_bytes(b"half")
        raise error

    return write


@pytest.mark.parametrize("there_before", [True, False])
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(28, "No space left on device"), 28),
        (
            RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file"),
            None,
        ),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), None),
    ],
)
@pytest.mark.parametrize("kind", ["state", "weights"])
def test_when_the_disk_is_full_the_last_good_file_stays(
    kind, error, number, there_before, tmp_path, monkeypatch
):
    file = tmp_path / "file"

    def write() -> None:
        if kind == "state":
            save_state(STATE, file)
        else:
            save_weights(network(0), file, metadata={})

    if there_before:
        write()
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    monkeypatch.setattr(torch, "save", fails(error))
    monkeypatch.setattr(checkpoints, "save_file", fails(error))
    with pytest.raises(OSError, match=r"file: could not be written .* untouched") as caught:
        write()
    assert caught.value.errno == number
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("odd")])
def test_other_errors_pass_as_they_are_and_leave_no_part_behind(error, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", fails(error))
    with pytest.raises(type(error)):
        save_state(STATE, tmp_path / "state.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    file, synchronise, there = tmp_path / "state.pt", os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: (there.append(file.exists()), synchronise(handle)))
    save_state(STATE, file)
    assert there == [False]
    assert file.exists()


class Malicious:
    def __init__(self, file) -> None:
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (str(self.file),))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_nothing_but_data_is_unpickled(writer, tmp_path):
    file, made = tmp_path / "state.pt", tmp_path / "made"
    if writer == "torch":
        torch.save({"state": Malicious(made)}, file)
    else:
        file.write_bytes(pickle.dumps({"state": Malicious(made)}, protocol=2))
    with pytest.raises(ValueError, match=r"state.pt: not a readable checkpoint \(UnpicklingError"):
        load_state(file)
    assert not made.exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "state"])
def test_a_file_that_holds_something_else_is_refused_by_name(content, tmp_path):
    torch.save(content, tmp_path / "state.pt")
    expected = f"state.pt: got {type(content).__name__}, expected a training state"
    with pytest.raises(ValueError, match=expected):
        load_state(tmp_path / "state.pt")


def test_a_file_of_somebody_elses_is_never_to_be_deleted(tmp_path):
    """Neither one that torch wrote itself nor one that is no archive; of what is ours the beginning will do."""
    file, theirs = tmp_path / "state.pt", tmp_path / "theirs.pt"
    torch.save({"weights": torch.zeros(100)}, theirs)
    save_state(STATE, file)
    ours = file.read_bytes()
    for content in (b"PK\x03\x04 and so on" * 30, b"a text", theirs.read_bytes()[:300], b"PX", ours[1:300]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"state.pt: not a readable checkpoint .*; name another file$"):
            load_state(file)
        assert file.read_bytes() == content
    for content in (b"", ours[:3], ours[:40], ours[:300], ours[:-1]):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"state.pt: not a readable checkpoint .*; delete it to start anew$"
        ):
            load_state(file)


def test_a_folder_is_no_state_and_no_tensors(tmp_path):
    for load in (load_state, load_tensors):
        with pytest.raises(ValueError, match=r"is a folder, expected .*; name a file in it"):
            load(tmp_path)


def test_tensors_that_are_a_text_are_not_to_be_deleted(tmp_path):
    (tmp_path / "text").write_text("a text")
    with pytest.raises(ValueError, match=r"text: not a readable safetensors file .*; name another file, or"):
        load_tensors(tmp_path / "text")


def test_a_missing_state_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none.pt: not a readable checkpoint \(FileNotFoundError"):
        load_state(tmp_path / "none.pt")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.9])
def test_truncated_weights_are_refused_by_name_and_change_nothing(kept, tmp_path):
    file, net = tmp_path / "net.safetensors", network(1)
    save_weights(network(0), file, metadata={})
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"net.safetensors: its weights do not load into Sequential"):
        load_weights(net, file)
    assert snapshot(net) == before


@pytest.mark.parametrize("other", [network(1, width=9), network(1)[:3]])
def test_weights_of_another_net_are_refused_by_name(other, tmp_path):
    file = tmp_path / "net.safetensors"
    save_weights(network(0), file, metadata={})
    with pytest.raises(ValueError, match=r"net.safetensors: its weights do not load into Sequential"):
        load_weights(other, file)
