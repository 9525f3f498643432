"""A run that was stopped at any moment ends with the numbers of one that was not."""

import random
import time

import pytest
import torch
from killed_runs import start
from small_networks import network
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, StepLR

from kdrepro import Batches, HintonKD, devices, fit, resume
from kdrepro.checkpoints import load_state, save_state
from kdrepro.data.batches import Jitter
from kdrepro.ledger import Ledger

IMAGES = torch.randn(30, 1, 6, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(5, (30,), generator=torch.Generator().manual_seed(1))
EPOCHS, STEPS = 4, 4


class Killed(Exception):
    """Ends a run in the middle."""


class WithOwnWeights(nn.Module):
    """Soft targets with a temperature of their own for each class, which is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.soft = HintonKD(temperature=4.0, soft_weight=0.9)

    def forward(self, student, teacher, batch):
        terms = self.soft(student, teacher, batch)
        return terms | {"scale": (self.scale * student.logits).square().mean() * 0.01}


def images_net(seed: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), network(seed, inputs=36))


def train(checkpoint=None, *, kill_at: int | None = None, validate_fails: bool = False, **changes):
    """Everything that has a state: dropout, BatchNorm, jitter, momentum, a schedule, validation, learnt weights."""
    student, objective, steps = images_net(1), WithOwnWeights(), 0

    def after_step(net: nn.Module) -> None:
        nonlocal steps
        if steps == kill_at:
            raise Killed
        steps += 1

    def validate(net: nn.Module) -> float:
        if validate_fails:
            raise Killed
        # The best epoch is the second, and lies before most of the moments at which a run is stopped.
        return abs(net[1][4].bias.sum().item() + 0.4317)

    batches = Batches(
        changes.pop("inputs", IMAGES),
        changes.pop("targets", TARGETS),
        batch_size=changes.pop("batch_size", 8),
        seed=changes.pop("seed", 7),
        augment=changes.pop("augment", Jitter(pixels=1)),
    )
    arguments = {
        "objective": objective,
        "teacher": images_net(0),
        "optimizer": lambda parameters: SGD(parameters, lr=0.2, momentum=0.9),
        "schedule": lambda optimizer: LambdaLR(optimizer, lambda step: 1 - step / (EPOCHS * STEPS)),
        "epochs": EPOCHS,
        "validate": validate,
        "after_step": after_step,
        "device": "cpu",
        "precision": "fp32",
        "checkpoint_seconds": 0.0,
    }
    history = fit(student, batches=batches, checkpoint=checkpoint, **(arguments | changes))
    return {**student.state_dict(), "scale": objective.scale.detach()}, history


def same(one, other) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=0)
    assert one[1].curves == other[1].curves
    assert (one[1].epochs, one[1].best_epoch) == (other[1].epochs, other[1].best_epoch)


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
    with pytest.raises(Killed):
        train(file, kill_at=moment)
    assert file.exists() == (moment >= STEPS)
    torch.rand(moment)
    same(train(file), UNDISTURBED)


def test_a_history_says_which_devices_a_run_was_trained_on(tmp_path, monkeypatch):
    file = tmp_path / "state.pt"
    for device in ("cuda: made up", "cpu: made up"):
        monkeypatch.setattr(devices, "describe", lambda _, device=device: device)
        with pytest.raises(Killed):
            train(file, kill_at=STEPS)
    _, history = train(file)
    assert history.devices == ["cuda: made up", "cpu: made up"]


def test_the_seconds_of_a_run_count_what_it_took_before_it_was_killed(tmp_path):
    file = tmp_path / "state.pt"
    with pytest.raises(Killed):
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
        with pytest.raises(Killed):
            train(file, kill_at=moment)
    same(train(file), UNDISTURBED)


def test_a_run_stopped_while_it_is_validated_ends_with_the_same_numbers(tmp_path):
    file = tmp_path / "state.pt"
    with pytest.raises(Killed):
        train(file, kill_at=STEPS)
    with pytest.raises(Killed):
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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": 5}, "epochs 4, here 5"),
        ({"batch_size": 6}, "batch_size 8, here 6"),
        ({"seed": 8}, "seed 7, here 8"),
        ({"precision": "bf16"}, "precision 'fp32', here 'bf16'"),
        (
            {"objective": HintonKD(temperature=3.0, soft_weight=0.9)},
            "here 'HintonKD(temperature=3.0, soft_weight=0.9)'",
        ),
        ({"optimizer": lambda parameters: SGD(parameters, lr=0.3, momentum=0.9)}, "initial_lr: 0.3"),
        ({"optimizer": lambda parameters: SGD(parameters, lr=0.2)}, "momentum: 0 "),
        ({"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=0.2)}, "here 'Adam ("),
        ({"gradient_clip": 0.5}, "gradient_clip "),
        (
            {"schedule": lambda optimizer: StepLR(optimizer, 2, gamma=0.5)},
            "here \"StepLR {'step_size': 2, 'gamma': 0.5",
        ),
        ({"teacher": images_net(5)}, "teacher '"),
        ({"inputs": 2 * IMAGES}, "data '"),
        ({"targets": (TARGETS + 1) % 5}, "data '"),
        (
            {"inputs": torch.cat([IMAGES, IMAGES]), "targets": torch.cat([TARGETS, TARGETS])},
            "examples 30, here 60",
        ),
        ({"augment": Jitter(pixels=2)}, "here \"Jitter {'pixels': 2}\""),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(changes, says, tmp_path):
    file = tmp_path / "state.pt"
    train(file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint: .*state.pt was written by another run") as caught:
        train(file, **changes)
    assert says in str(caught.value)
    assert file.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused_by_name(kept, tmp_path):
    file = tmp_path / "state.pt"
    train(file)
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(
        ValueError, match=r"state.pt: not a readable checkpoint .*; delete it to start anew"
    ) as caught:
        train(file)
    assert "weights_only" not in str(caught.value)


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


class Hidden(nn.Module):
    """An objective whose repr shows none of its settings, as most are."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = self.start = weight
        self.seen = []

    def start_epoch(self, epoch: int) -> None:
        self.weight = self.start / (1 + epoch)

    def forward(self, student, teacher, batch):
        self.seen.append(len(batch.targets))
        return {"hard": self.weight * nn.functional.cross_entropy(student.logits, batch.targets)}


def test_settings_that_an_objective_does_not_show_and_late_labels_count_too(tmp_path):
    file = tmp_path / "state.pt"
    objective = Hidden(0.5)
    train(file, objective=objective)
    # One that has trained has another weight now, and is the same objective.
    assert objective.weight != 0.5
    train(file, objective=objective)
    train(file, objective=Hidden(0.5))
    with pytest.raises(ValueError, match="was written by another run"):
        train(file, objective=Hidden(0.9))
    inputs, targets = torch.cat([IMAGES] * 3), torch.cat([TARGETS] * 3)
    late = targets.clone()
    late[-1] = (late[-1] + 1) % 5
    more = {"inputs": inputs, "objective": Hidden(0.1)}
    train(tmp_path / "long.pt", targets=targets, **more)
    with pytest.raises(ValueError, match="was written by another run"):
        train(tmp_path / "long.pt", targets=late, **more)
