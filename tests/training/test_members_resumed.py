"""Several students under one teacher are killed and resumed as one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_cohorts import EPOCHS, NAMES, STEPS, member, same, together
from stopped_trainings import Stopped, stops_at
from torch import nn

from kdrepro import Supervised
from kdrepro.training.members import Member
from kdrepro.training.resume import History


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


@pytest.mark.parametrize("who", ["labels", "own weights"])
@pytest.mark.parametrize("moment", [0, 3, 4, 9, 15])
def test_a_cohort_stopped_at_any_step_ends_with_the_same_numbers(who, moment, tmp_path, undisturbed):
    with pytest.raises(Stopped):
        together(with_files(tmp_path, **{who: {"after_step": stops_at(moment)}}))
    assert len(list(tmp_path.iterdir())) == (len(NAMES) if moment >= STEPS else 0)
    ends_the_same(tmp_path, undisturbed)


@pytest.mark.parametrize("ahead", [["labels", "soft"], ["soft", "own weights"], ["wide"]])
def test_members_that_were_saved_an_epoch_ahead_wait_for_the_others(ahead, tmp_path, undisturbed):
    """A kill between two of the checkpoints of one epoch leaves some of that epoch and some of the last."""
    for epochs, folder in ((2, tmp_path / "early"), (3, tmp_path / "late")):
        folder.mkdir()
        with pytest.raises(Stopped):
            together(with_files(folder, labels={"after_step": stops_at(epochs * STEPS)}))
    for name in ahead:
        shutil.copy(tmp_path / "late" / f"{name}.pt", tmp_path / "early")
    ends_the_same(tmp_path / "early", undisturbed)


def test_a_kill_while_the_checkpoints_of_an_epoch_are_written(tmp_path, undisturbed):
    def fails(net: nn.Module) -> float:
        raise Stopped

    # The third member is validated after the first two are saved.
    with pytest.raises(Stopped):
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
    with pytest.raises(Stopped):
        together(cohort)
    # With 0 before the checkpoint is looked at, whose signature names the settings that an objective begins with.
    assert [each.objective.told for each in cohort] == [[0, 0, 1, 2]] * 2
    cohort = watched()
    together(cohort)
    assert [each.objective.told for each in cohort] == [[0, 2, 3]] * 2
    cohort = watched()
    together(cohort)
    assert [each.objective.told for each in cohort] == [[0]] * 2
