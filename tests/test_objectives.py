"""What objectives are told, however they are wrapped, and how one is told from a network."""

from functools import partial

import pytest
import torch
from small_networks import batch, network
from small_trainings import train
from torch import nn
from torch.optim import SGD

from kdrepro import Distiller, FitNetKD, HintStage, JointFitNet, Supervised, check, fit
from kdrepro.objectives import check_network, check_objective, depends_on_epoch, tell_epoch
from kdrepro.teacher import members_of


def soft_targets() -> FitNetKD:
    return FitNetKD(temperature=3.0, soft_weight=4.0, final_soft_weight=1.0, decay_epochs=3)


class Around(nn.Module):
    """A wrapper that knows nothing of epochs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, student, teacher, batch):
        return self.inner(student, teacher, batch)


class Told(nn.Module):
    """Notes what it is told."""

    def __init__(self, notes: list, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.note = notes.append

    def start_epoch(self, epoch: int) -> None:
        self.note((self.inner is not None, epoch))


def joint(objective: nn.Module) -> JointFitNet:
    return JointFitNet(HintStage(nn.Identity(), student_tap="h", teacher_tap="h"), objective, hint_weight=1.0)


@pytest.mark.parametrize("wrapped", [Around, lambda inner: Around(Around(inner)), joint])
def test_a_part_is_told_the_epoch_whatever_is_around_it(wrapped):
    inner = soft_targets()
    tell_epoch(wrapped(inner), 2)
    assert inner.weight_now == pytest.approx(2.0)


def test_the_outermost_is_told_first_and_each_once():
    notes: list = []
    inner = Told(notes)
    objective = nn.ModuleList([Told(notes, inner), inner, Around(inner)])
    tell_epoch(objective, 7)
    assert notes == [(True, 7), (False, 7)]


def test_in_training_a_wrapper_changes_nothing():
    curves = [train(network(1), objective=each).curves for each in (soft_targets(), Around(soft_targets()))]
    assert curves[0] == curves[1]


def test_a_run_that_was_killed_goes_on_with_a_part_that_has_moved_on(tmp_path):
    inner = soft_targets()
    whole = train(network(1), objective=Around(inner), checkpoint=tmp_path / "state.pt")
    assert inner.weight_now == pytest.approx(2.0)
    # The objective that has been through its epochs begins anew.
    again = train(network(1), objective=Around(inner), checkpoint=tmp_path / "state.pt")
    assert again.curves == whole.curves


def test_the_distiller_passes_the_epoch_on():
    inner = soft_targets()
    distiller = Distiller(network(0), network(1), Around(inner))
    distiller.start_epoch(1)
    assert inner.weight_now == pytest.approx(3.0)
    Distiller(network(0), network(1), Supervised()).start_epoch(1)


def test_what_asks_for_the_epoch_is_found_inside():
    assert depends_on_epoch(Around(soft_targets()))
    assert not depends_on_epoch(Around(Supervised()))


# An objective in the place of a network, and the other way round.


@pytest.mark.parametrize(
    "call",
    [
        lambda net, kd: Distiller(network(0), kd, net),
        lambda net, kd: fit(kd, net, None, optimizer=partial(SGD, lr=0.1), epochs=1),
        lambda net, kd: check(network(0), kd, batch()),
    ],
)
@pytest.mark.parametrize("kd", [Supervised(), Around(Supervised()), soft_targets()])
def test_an_objective_for_a_student_is_refused(call, kd):
    with pytest.raises(
        TypeError, match=f"student: got {type(kd).__name__}, an objective .* expected a network"
    ):
        call(network(1), kd)


@pytest.mark.parametrize("teacher", [Supervised(), [network(0), Supervised()]])
def test_an_objective_for_a_teacher_is_refused(teacher):
    with pytest.raises(TypeError, match=r"teacher(\[1\])?: got Supervised, an objective"):
        members_of(teacher)


@pytest.mark.parametrize(
    "call",
    [
        lambda net: Distiller(network(0), network(1), net),
        lambda net: fit(network(1), net, None, optimizer=partial(SGD, lr=0.1), epochs=1),
        lambda net: check(network(0), network(1), batch(), objective=net),
    ],
)
def test_a_network_for_an_objective_is_refused(call):
    with pytest.raises(
        TypeError, match=r"objective: got Sequential, which cannot be called with .student, teacher"
    ):
        call(network(2))


class Anything(nn.Module):
    """Takes whatever it is given."""

    def forward(self, *given, **named):
        return given


@pytest.mark.parametrize(
    "made",
    [Anything, nn.Module, lambda: torch.jit.script(nn.Linear(2, 2)), lambda: torch.compile(Anything())],
)
def test_what_cannot_be_told_is_taken(made):
    check_network("student", made())
    if not isinstance(made(), torch.jit.ScriptModule):
        check_objective("objective", made())


def test_a_compiled_objective_is_one():
    check_objective("objective", torch.compile(Around(Supervised())))
