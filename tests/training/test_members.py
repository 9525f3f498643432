"""Several students under one teacher: each ends as if it had been alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from small_cohorts import (
    EPOCHS,
    NAMES,
    STEPS,
    alone,
    batches,
    member,
    same,
    sgd,
    together,
    weights,
)
from small_networks import snapshot
from small_pictures import images_net
from torch import Tensor, nn

from kdrepro import AttentionTransfer, HintonKD, Outputs, Supervised
from kdrepro.teacher import FrozenTeacher
from kdrepro.training.members import Member


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
