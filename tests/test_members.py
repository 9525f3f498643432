"""Several students under one teacher: each ends as if it had been alone, and is killed and resumed as one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_networks import network, snapshot
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

from kdrepro import AttentionTransfer, Batches, HintonKD, Outputs, Supervised, fit
from kdrepro.data.batches import Jitter
from kdrepro.engine import fit_cohort
from kdrepro.members import Member
from kdrepro.resume import History
from kdrepro.teacher import FrozenTeacher

IMAGES = torch.randn(30, 1, 6, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(5, (30,), generator=torch.Generator().manual_seed(1))
EPOCHS, STEPS = 4, 4
SETTINGS = {"epochs": EPOCHS, "device": "cpu", "precision": "fp32", "checkpoint_seconds": 0.0}


class Killed(Exception):
    """Ends a run in the middle."""


def batches(**changes) -> Batches:
    return Batches(
        **{
            "inputs": IMAGES,
            "targets": TARGETS,
            "batch_size": 8,
            "seed": 7,
            "augment": Jitter(pixels=1),
            **changes,
        }
    )


def images_net(seed: int, width: int = 8) -> nn.Sequential:
    """With BatchNorm and dropout."""
    return nn.Sequential(nn.Flatten(), network(seed, inputs=36, width=width))


def sgd(parameters) -> SGD:
    return SGD(parameters, lr=0.2, momentum=0.9)


def falling(optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 1 - step / (EPOCHS * STEPS))


class Regressed(nn.Module):
    """Squared distance of logits through a weight of its own that is learnt, and dropout on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.dropout = nn.Parameter(torch.ones(5)), nn.Dropout(0.5)

    def forward(self, student: Outputs, teacher: Outputs, batch) -> dict[str, Tensor]:
        return {"apart": mse_loss(self.dropout(self.scale * student.logits), teacher.logits)}


def member(name: str, **changes) -> Member:
    """One of several students that have nothing in common but their batches: nets, objectives, optimisers differ."""
    soft = HintonKD(temperature=4.0, soft_weight=0.9)
    made: dict[str, dict[str, object]] = {
        "labels": {
            "student": images_net(1),
            "objective": Supervised(),
            "optimizer": lambda each: SGD(each, lr=0.1),
        },
        "soft": {"student": images_net(1), "objective": soft, "optimizer": sgd, "schedule": falling},
        "wide": {
            "student": images_net(2, width=20),
            "objective": soft,
            "optimizer": sgd,
            "gradient_clip": 0.5,
            # The best epoch is not the last, so what is kept is not what comes out of the loop.
            "validate": lambda net: abs(net[1][4].bias.sum().item() + 0.43),
        },
        "own weights": {
            "student": images_net(3),
            "objective": Regressed(),
            "optimizer": lambda each: AdamW(each, lr=0.05),
        },
    }
    return Member(**(made[name] | {"label": name} | changes))


NAMES = ("labels", "soft", "wide", "own weights")


def weights(some: Member) -> dict[str, Tensor]:
    return {
        f"{side}.{name}": value
        for side in ("student", "objective")
        for name, value in getattr(some, side).state_dict().items()
    }


def together(members: list[Member], data: Batches | None = None, **changes) -> list[History]:
    return fit_cohort(members, data or batches(), **({"teacher": images_net(0)} | SETTINGS | changes))


def alone(some: Member, data: Batches | None = None, **changes) -> History:
    """What `fit` makes of one member."""
    own = {name: value for name, value in vars(some).items() if name not in ("student", "objective", "label")}
    arguments = {"teacher": images_net(0)} | SETTINGS | own | changes
    return fit(some.student, some.objective, data or batches(), **arguments)


def same(one: Member, other: Member, histories: tuple[History, History]) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)
    first, second = histories
    assert first.curves == second.curves
    assert (first.epochs, first.best_epoch) == (second.epochs, second.best_epoch)


def compare(make: Callable[[str], Member], names: tuple[str, ...], **changes) -> None:
    """A cohort of the names ends as each of them does alone, to the bit."""
    cohort = [make(name) for name in names]
    for name, one, history in zip(names, cohort, together(cohort, **changes), strict=True):
        other = make(name)
        same(one, other, (history, alone(other, **changes)))


# -- a cohort of n is n times fit


def test_each_of_a_cohort_ends_as_it_would_alone():
    compare(member, NAMES)


@pytest.mark.parametrize("names", [("soft",), ("own weights", "labels"), tuple(reversed(NAMES))])
def test_neither_company_nor_order_changes_a_number(names):
    compare(member, names)


def test_without_augmentation_or_teacher():
    def make(name: str) -> Member:
        return member(name, objective=Supervised())

    compare(make, NAMES, teacher=None, data=batches(augment=None))


def test_in_bfloat16():
    compare(member, NAMES, precision="bf16")


def test_an_ensemble_is_asked_at_the_one_temperature():
    def make(name: str) -> Member:
        return member(name, objective=HintonKD(temperature=4.0, soft_weight=0.5))

    crowd = FrozenTeacher([images_net(seed) for seed in (10, 11, 12)])
    compare(make, ("soft", "wide"), teacher=crowd)
    # At another temperature the mean of the members is another.
    hot = make("soft")
    together([hot, make("wide")], teacher=crowd)
    first = make("soft")
    alone(first, teacher=FrozenTeacher([images_net(10)]))
    assert not torch.equal(hot.student[1][0].weight, first.student[1][0].weight)


def test_members_draw_their_dropout_from_random_states_of_their_own():
    """Two equal students drop the same, and one whose net draws more does not disturb its neighbour."""
    twins = [member("soft"), member("soft")]
    together([twins[0], member("wide"), twins[1]])
    torch.testing.assert_close(weights(twins[0]), weights(twins[1]), rtol=0, atol=0)


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    together([member(name) for name in NAMES])
    assert torch.equal(torch.get_rng_state(), before)


def test_who_runs_out_of_patience_leaves_and_the_others_go_on():
    def make(name: str) -> Member:
        if name != "soft":
            return member(name)
        values = iter([1.0, 2.0, 3.0, 4.0])
        return member(name, validate=lambda net: next(values), patience=1)

    compare(make, NAMES)
    cohort = [make(name) for name in NAMES]
    assert [history.epochs for history in together(cohort)] == [EPOCHS, 2, EPOCHS, EPOCHS]


def test_the_teacher_is_asked_once_for_all_and_is_bitwise_unchanged():
    teacher = images_net(0)
    before, asked = snapshot(teacher), []
    teacher.register_forward_hook(lambda net, inputs, output: asked.append(len(inputs[0])))
    counts = []
    for names in (NAMES[:1], NAMES):
        soft = HintonKD(temperature=4.0, soft_weight=1.0)
        together([member(name, objective=soft) for name in names], teacher=teacher)
        counts.append(len([size for size in asked if size > 2]))
        asked.clear()
    after = snapshot(teacher)
    assert (after["bytes"], after["gradients"]) == (before["bytes"], before["gradients"])
    # The last batch has six examples; two are tried before training, once for each member.
    assert counts == [EPOCHS * STEPS] * 2


def test_features_are_shared_too():
    class Maps(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 5)

        def forward(self, inputs: Tensor) -> Outputs:
            maps = self.conv(inputs).relu()
            return Outputs(self.head(maps.mean(dim=(2, 3))), {"maps": maps})

    def make(name: str) -> Member:
        objectives = {
            "labels": Supervised(),
            "attention": AttentionTransfer(["maps"], attention_weight=100.0),
            "paper": AttentionTransfer(["maps"], attention_weight=1.0, form="paper"),
        }
        return Member(student=Maps(1), objective=objectives[name], optimizer=sgd, label=name)

    with torch.random.fork_rng():
        compare(make, ("labels", "attention", "paper"), teacher=Maps(0))


# -- what is refused


@pytest.mark.parametrize(
    ("make", "changes", "says"),
    [
        (lambda: [], {}, "members: got none, expected at least one"),
        (
            lambda: [first := member("soft"), member("labels", student=first.student)],
            {},
            "members: got one student twice, expected a student of its own for each",
        ),
        (
            lambda: [member("soft"), member("wide", objective=HintonKD(temperature=2.0, soft_weight=0.9))],
            {"teacher": FrozenTeacher([images_net(10), images_net(11)])},
            r"members: got objectives at the temperatures 2\.0, 4\.0, expected one: the ensemble's classes",
        ),
        (lambda: [member("soft")], {"epochs": 0}, "epochs: got 0"),
        (
            lambda: [member("labels"), member("soft", student=images_net(1).requires_grad_(False))],
            {},
            "student: got no parameter that requires a gradient",
        ),
    ],
)
def test_what_cannot_work_fails_before_the_first_step(make, changes, says):
    cohort = make()
    before = [snapshot(each.student)["bytes"] for each in cohort]
    with pytest.raises(ValueError, match=says):
        together(cohort, **changes)
    assert [snapshot(each.student)["bytes"] for each in cohort] == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gradient_clip": -1.0}, "gradient_clip: got -1.0"),
        ({"patience": 2}, "patience: got 2 without validate"),
        ({"patience": 0, "validate": lambda net: 0.0}, "patience: got 0"),
    ],
)
def test_a_member_is_checked_when_it_is_made(changes, says):
    with pytest.raises(ValueError, match=says):
        member("soft", **changes)


def test_two_temperatures_of_a_single_teacher_are_fine():
    def make(name: str) -> Member:
        hot = {"soft": 4.0, "wide": 20.0}[name]
        return member(name, objective=HintonKD(temperature=hot, soft_weight=0.9))

    compare(make, ("soft", "wide"))


def test_a_student_that_is_part_of_the_teacher_is_refused():
    shared = member("soft")
    with pytest.raises(ValueError, match=r"student.*teacher|teacher.*student"):
        together([member("labels"), shared], teacher=shared.student)


# -- killed and resumed


def with_files(folder: Path, **changes) -> list[Member]:
    return [member(name, checkpoint=folder / f"{name}.pt", **changes.get(name, {})) for name in NAMES]


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[Member], list[History]]:
    cohort = [member(name) for name in NAMES]
    return cohort, together(cohort)


def ends_the_same(folder: Path, undisturbed: tuple[list[Member], list[History]]) -> list[History]:
    cohort = with_files(folder)
    histories = together(cohort)
    for one, other, *both in zip(cohort, undisturbed[0], histories, undisturbed[1], strict=True):
        same(one, other, (both[0], both[1]))
    return histories


def stops_at(step: int) -> Callable[[nn.Module], None]:
    steps = iter(range(1000))

    def after_step(net: nn.Module) -> None:
        if next(steps) == step:
            raise Killed

    return after_step


@pytest.mark.parametrize("who", ["labels", "own weights"])
@pytest.mark.parametrize("moment", [0, 3, 4, 9, 15])
def test_a_cohort_stopped_at_any_step_ends_with_the_same_numbers(who, moment, tmp_path, undisturbed):
    with pytest.raises(Killed):
        together(with_files(tmp_path, **{who: {"after_step": stops_at(moment)}}))
    assert len(list(tmp_path.iterdir())) == (len(NAMES) if moment >= STEPS else 0)
    ends_the_same(tmp_path, undisturbed)


@pytest.mark.parametrize("ahead", [["labels", "soft"], ["soft", "own weights"], ["wide"]])
def test_members_that_were_saved_an_epoch_ahead_wait_for_the_others(ahead, tmp_path, undisturbed):
    """A kill between two of the checkpoints of one epoch leaves some of that epoch and some of the last."""
    for epochs, folder in ((2, tmp_path / "early"), (3, tmp_path / "late")):
        folder.mkdir()
        with pytest.raises(Killed):
            together(with_files(folder, labels={"after_step": stops_at(epochs * STEPS)}))
    for name in ahead:
        shutil.copy(tmp_path / "late" / f"{name}.pt", tmp_path / "early")
    ends_the_same(tmp_path / "early", undisturbed)


def test_a_kill_while_the_checkpoints_of_an_epoch_are_written(tmp_path, undisturbed):
    def fails(net: nn.Module) -> float:
        raise Killed

    # The third member is validated after the first two are saved.
    with pytest.raises(Killed):
        together(with_files(tmp_path, wide={"validate": fails}))
    assert sorted(file.stem for file in tmp_path.iterdir()) == ["labels", "soft"]
    ends_the_same(tmp_path, undisturbed)


def test_what_is_done_is_not_trained_again(tmp_path, undisturbed):
    together(with_files(tmp_path))
    (tmp_path / "soft.pt").unlink()
    trained: list[str] = []
    cohort = with_files(tmp_path)
    for each in cohort:
        each.after_step = lambda net, name=each.label: trained.append(name)
    histories = together(cohort)
    assert trained == ["soft"] * EPOCHS * STEPS
    for one, other, *both in zip(cohort, undisturbed[0], histories, undisturbed[1], strict=True):
        same(one, other, (both[0], both[1]))


class Watched(Supervised):
    """Notes the epochs that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def start_epoch(self, epoch: int) -> None:
        self.told.append(epoch)


def test_objectives_are_told_of_every_epoch_also_after_a_resume(tmp_path):
    def watched(**changes) -> list[Member]:
        return [
            member("labels", objective=Watched(), checkpoint=tmp_path / "labels.pt", **changes),
            member("soft", objective=Watched(), checkpoint=tmp_path / "soft.pt"),
        ]

    cohort = watched(after_step=stops_at(2 * STEPS + 1))
    with pytest.raises(Killed):
        together(cohort)
    assert [each.objective.told for each in cohort] == [[0, 1, 2]] * 2
    cohort = watched()
    together(cohort)
    assert [each.objective.told for each in cohort] == [[2, 3]] * 2
    cohort = watched()
    together(cohort)
    assert [each.objective.told for each in cohort] == [[]] * 2


# -- time, words


def test_seconds_are_ones_own_and_an_equal_share_of_the_rest():
    def slow(net: nn.Module) -> None:
        time.sleep(0.01)

    class SlowTeacher(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = images_net(0)

        def forward(self, inputs: Tensor) -> Tensor:
            time.sleep(0.02)
            return self.net(inputs)

    cohort = [member("labels", after_step=slow), member("soft"), member("own weights")]
    started = time.perf_counter()
    slowed, *others = (history.seconds for history in together(cohort, teacher=SlowTeacher()))
    wall = time.perf_counter() - started
    steps = EPOCHS * STEPS
    assert slowed + sum(others) <= wall
    # All bear a third of the teacher's time, and nobody bears it all.
    for seconds in others:
        assert seconds >= steps * 0.02 / 3
        assert slowed >= seconds - others[0] + steps * 0.01
    assert slowed + sum(others) >= steps * (0.02 + 0.01)


def test_the_progress_of_each_is_said_by_its_label(capsys):
    together([member("labels"), member("soft")], progress="seed 3", epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" loss ")[0] for line in lines] == [
        f"seed 3 {name}: epoch {epoch}/2" for epoch in (1, 2) for name in ("labels", "soft")
    ]
