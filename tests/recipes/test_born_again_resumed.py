"""The program of the born-again paper, killed and started again, and its rate over several epochs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from smoke_runs import runner
from stopped_trainings import Stopped, stops_at
from torch import nn

from kdrepro.recipes import born_again
from kdrepro.recipes.born_again import RECIPE, config
from kdrepro.runner import Runner

CHAIN = ["few_ban1", "few_cwtm", "few_ban2", "few_ban3", "few_ens3"]


@pytest.fixture(scope="module")
def longer():
    """The recipe with three epochs of four steps."""
    return dataclasses.replace(RECIPE, config=lambda base, protocol: config(base, protocol) | {"epochs": 3})


@pytest.fixture(scope="module")
def undisturbed(longer, tmp_path_factory) -> Runner:
    its = runner(tmp_path_factory.mktemp("undisturbed"), longer)
    its.run(its.plan(CHAIN, [0]))
    return its


def stop(patch: pytest.MonkeyPatch, at: int) -> None:
    """Stop at that step, counted over all generations by their first members."""
    members = born_again.Member
    after_step = stops_at(at)

    def watched(*, label: str, **arguments):
        return members(label=label, after_step=None if label == "few_cwtm" else after_step, **arguments)

    patch.setattr(born_again, "Member", watched)


# Twelve steps a generation: in the first teacher; at the first step of a generation, in its middle, at its last; and in
# the last of all.
@pytest.mark.parametrize("moment", [5, 12, 18, 23, 24, 31, 47])
def test_killed_between_or_inside_generations_it_ends_with_the_same_rows(
    moment, longer, undisturbed, monkeypatch, tmp_path
):
    its = runner(tmp_path, longer, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        stop(patch, moment)
        with pytest.raises(Stopped):
            its.run(its.plan(CHAIN, [0]))
    finished = {row.arm for row in its.ledger.rows()}
    order = [{"few_teacher"}, {"few_ban1", "few_cwtm"}, {"few_ban2"}, {"few_ban3"}]
    assert finished == set().union(*order[: moment // 12])
    files = {file.name for file in (tmp_path / "checkpoints").glob("*.pt")}
    training = order[moment // 12] if moment % 12 > 3 else set()
    assert files == {f"{its.run_id(name, 0)}.pt" for name in training}
    # A new process, whose random state is another.
    torch.rand(moment)
    again = runner(tmp_path, longer)
    again.run(again.plan(CHAIN, [0]))
    expected = {row.arm: row for row in undisturbed.ledger.rows()}
    found = {row.arm: row for row in again.ledger.rows()}
    assert set(found) == set(expected) == {"few_teacher", *CHAIN}
    for name, row in found.items():
        other = expected[name]
        assert (row.metrics, row.curves, row.config) == (other.metrics, other.curves, other.config), name
        assert row.teacher == other.teacher
        if name != "few_ens3":
            assert again.weights(name, 0).read_bytes() == undisturbed.weights(name, 0).read_bytes()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_teacher_whose_weights_are_gone_is_trained_again_with_the_same_numbers(
    undisturbed, longer, tmp_path
):
    its = runner(tmp_path, longer)
    its.run(its.plan(["few_ban2"], [0]))
    for name in ("few_teacher", "few_ban1"):
        its.weights(name, 0).unlink()
    plan = its.plan(["few_ban2", "few_dkpp"], [0])
    assert plan == [("few_teacher", 0), ("few_dkpp", 0)]
    its.run(plan)
    files = [each.weights("few_teacher", 0).read_bytes() for each in (its, undisturbed)]
    assert files[0] == files[1]


# The rate.


def test_the_rate_falls_to_nothing_on_digits_and_at_its_steps_on_pictures(undisturbed):
    for row in undisturbed.ledger.rows():
        if row.curves:
            assert row.curves["learning_rate"] == pytest.approx([0.0666667, 0.0333333, 0.0])
    weight = nn.Parameter(torch.zeros(1))
    settings = {"epochs": 10, "rate_steps": [0.3, 0.6], "rate_factor": 0.2}
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = born_again._schedule(settings, 2)(optimizer)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.1] * 6 + [0.02] * 6 + [0.004] * 8)
