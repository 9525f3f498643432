"""A run that was stopped at any moment ends with the numbers of one that was not."""

import random
import time

import pytest
import torch
from killed_runs import start
from resumed_trainings import EPOCHS, STEPS, same, train
from stopped_trainings import Stopped
from torch import nn

from kdrepro import devices
from kdrepro.checkpoints import load_state, save_state
from kdrepro.ledger import Ledger
from kdrepro.training import resume

UNDISTURBED = train()


def test_what_is_resumed_has_a_best_epoch_in_the_middle_and_everything_moves():
    _, history = UNDISTURBED
    assert 0 < history.best_epoch < EPOCHS - 1
    last = train(validate=None)
    assert not torch.equal(last[0]["1.0.weight"], UNDISTURBED[0]["1.0.weight"])
    assert not torch.equal(last[0]["scale"], torch.ones(5))


@pytest.mark.parametrize("moment", range(EPOCHS * STEPS))
def test_a_run_stopped_at_any_step_ends_with_the_same_numbers(moment, tmp_path):
    file = tmp_path / "state.pt"
    with pytest.raises(Stopped):
        train(file, kill_at=moment)
    assert file.exists() == (moment >= STEPS)
    torch.rand(moment)
    same(train(file), UNDISTURBED)


def test_a_history_says_which_devices_a_run_was_trained_on(tmp_path, monkeypatch):
    file = tmp_path / "state.pt"
    for device in ("cuda: made up", "cpu: made up"):
        monkeypatch.setattr(devices, "describe", lambda _, device=device: device)
        with pytest.raises(Stopped):
            train(file, kill_at=STEPS)
    _, history = train(file)
    assert history.devices == ["cuda: made up", "cpu: made up"]


def test_the_seconds_of_a_run_count_what_it_took_before_it_was_killed(tmp_path):
    file = tmp_path / "state.pt"
    with pytest.raises(Stopped):
        train(file, kill_at=2 * STEPS)
    state = load_state(file)
    state["history"]["seconds"] = 100.0
    save_state(state, file)
    _, history = train(file)
    assert 100.0 < history.seconds < 200.0


class Drawing(nn.Module):
    """Labels, and beside them a random number for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[float] = []

    def forward(self, student, teacher, batch):
        self.drawn.append(torch.rand(()).item())
        return {"loss": student.logits.square().mean()}


def test_what_is_drawn_is_a_function_of_seed_and_epoch():
    found = {}
    for seed in (7, 8, 7):
        objective = Drawing()
        train(objective=objective, seed=seed, augment=None, epochs=2)
        # The first is drawn where the first examples are tried.
        numbers = objective.drawn[-2 * STEPS :]
        epochs = numbers[:STEPS], numbers[STEPS:]
        assert found.setdefault(seed, epochs) == epochs
    every = [number for epochs in found.values() for epoch in epochs for number in epoch]
    assert len(set(every)) == len(every) == 4 * STEPS


def test_a_run_stopped_again_and_again_ends_with_the_same_numbers(tmp_path):
    file = tmp_path / "state.pt"
    for moment in (2, 5, 1, 6, 3, 0):
        with pytest.raises(Stopped):
            train(file, kill_at=moment)
    same(train(file), UNDISTURBED)


def test_a_run_stopped_while_it_is_validated_ends_with_the_same_numbers(tmp_path):
    file = tmp_path / "state.pt"
    with pytest.raises(Stopped):
        train(file, kill_at=STEPS)
    with pytest.raises(Stopped):
        train(file, validate_fails=True)
    same(train(file), UNDISTURBED)


def test_a_run_that_was_done_is_not_trained_again(tmp_path):
    file = tmp_path / "state.pt"
    train(file)
    same(train(file, kill_at=0), UNDISTURBED)


def test_a_run_out_of_patience_stays_so(tmp_path):
    file, values = tmp_path / "state.pt", iter([1.0, 2.0, 3.0])
    first = train(file, validate=lambda net: next(values), patience=2)
    assert first[1].epochs == 3
    same(train(file, validate=lambda net: 0.0, patience=2, kill_at=0), first)


def test_a_disk_that_fills_up_stops_the_run_and_the_last_good_checkpoint_goes_on(tmp_path, monkeypatch):
    file = tmp_path / "state.pt"
    saves, save = 0, torch.save

    def full(state, where, **options) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:
            where.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save(state, where, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            OSError, match=r"state.pt: could not be written .*No space left.* untouched"
        ) as caught:
            train(file)
    assert caught.value.errno == 28
    assert [each.name for each in tmp_path.iterdir()] == ["state.pt"]
    assert load_state(file)["history"]["epochs"] == 2
    same(train(file), UNDISTURBED)


def test_checkpoints_are_written_no_more_often_than_asked_and_at_the_end(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(resume, "save_state", lambda state, file: saved.append(state["history"]["epochs"]))
    train(tmp_path / "state.pt", checkpoint_seconds=3600.0)
    assert saved == [EPOCHS]
    train(tmp_path / "state.pt")
    assert saved == [EPOCHS, 1, 2, 3, 4]


RUN = [
    "run",
    "hinton_kd",
    "--protocol",
    "quick",
    "--arms",
    "student_alone",
    "--seeds",
    "1",
    "--device",
    "cpu",
]


@pytest.mark.slow
def test_a_run_killed_ten_times_leaves_the_row_and_the_weights_of_an_undisturbed_one(tmp_path):
    # The first process also starts the server of the others, which is no part of a run's duration.
    start([*RUN, "--plan"], tmp_path / "plan").join()
    began = time.monotonic()
    undisturbed = start(RUN, tmp_path / "undisturbed")
    undisturbed.join()
    duration = time.monotonic() - began
    assert undisturbed.exitcode == 0
    chance = random.Random(0)
    kills, resumed = 0, 0
    folders = []
    # Ten kills at random moments, and more if none of them fell between the first checkpoint and the end.
    while kills < 10 or not resumed:
        folder = tmp_path / f"killed{len(folders)}"
        folders.append(folder)
        while True:
            checkpoint = folder / "checkpoints" / "hinton_kd.quick.student_alone.s1.pt"
            resumed += checkpoint.exists()
            process = start(RUN, folder)
            process.join(chance.uniform(0, duration) if kills < 10 or not resumed else None)
            if process.exitcode == 0:
                break
            assert process.exitcode is None
            process.kill()
            process.join()
            kills += 1
    assert kills >= 10
    (expected,) = Ledger(tmp_path / "undisturbed").rows()
    weights = (tmp_path / "undisturbed" / "weights" / f"{expected.run}.safetensors").read_bytes()
    for folder in folders:
        ledger = Ledger(folder)
        (row,) = ledger.rows()
        assert ledger.problems() == []
        assert (row.run, row.metrics, row.curves) == (expected.run, expected.metrics, expected.curves)
        assert row.config == expected.config
        assert (folder / "weights" / f"{row.run}.safetensors").read_bytes() == weights
