"""The program of the attention-transfer paper, killed and started again, and the schedule of its rate."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from smoke_runs import runner
from stopped_trainings import Stopped, stops_at
from torch import nn
from torch.optim import SGD

from kdrepro.recipes import attention_transfer
from kdrepro.recipes.attention_transfer import RECIPE, config
from kdrepro.runner import Runner

COHORT = ("student_alone", "at", "f_at", "kd")


@pytest.fixture(scope="module")
def longer():
    """The recipe with four epochs, whose rate falls after the first, second and third."""
    return dataclasses.replace(RECIPE, config=lambda base, protocol: config(base, protocol) | {"epochs": 4})


@pytest.fixture(scope="module")
def undisturbed(longer, tmp_path_factory) -> Runner:
    its = runner(tmp_path_factory.mktemp("undisturbed"), longer)
    its.run(its.plan(COHORT, [0]))
    return its


def stop(patch: pytest.MonkeyPatch, who: str, step: int) -> None:
    """Stop the cohort when the member of that label has taken so many steps."""
    members = attention_transfer.Member
    after_step = stops_at(step)

    def watched(*, label: str, **arguments):
        extra = {"after_step": after_step} if label == who else {}
        return members(label=label, **arguments, **extra)

    patch.setattr(attention_transfer, "Member", watched)


# In the first epoch, at its last step, in later ones before and after the rate falls, and by the first and last member.
@pytest.mark.parametrize(("who", "share"), [("student_alone", 0.1), ("kd", 0.25), ("at", 0.6), ("kd", 0.99)])
def test_a_cohort_that_was_killed_ends_with_the_same_rows(
    who, share, longer, undisturbed, monkeypatch, tmp_path
):
    its = runner(tmp_path, longer, checkpoint_seconds=0.0)
    its.trained = undisturbed.trained
    batches = -(-256 // int(config("at", "smoke")["batch_size"]))
    keys = [(name, 0) for name in COHORT]
    with monkeypatch.context() as patch:
        stop(patch, who, int(share * 4 * batches))
        with pytest.raises(Stopped):
            its.run(keys)
    assert its.ledger.rows() == []
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == (len(COHORT) if share >= 0.25 else 0)
    torch.rand(7)
    for row in its.run(keys):
        expected = undisturbed.ledger.get(row.run)
        assert (row.metrics, row.curves, row.config) == (expected.metrics, expected.curves, expected.config)
        files = [each.weights(row.arm, 0).read_bytes() for each in (its, undisturbed)]
        assert files[0] == files[1]
    assert not list((tmp_path / "checkpoints").iterdir())


# The schedule.


def test_the_rate_falls_at_its_steps_and_the_momentum_is_forgotten_there():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    schedule = attention_transfer._schedule({"epochs": 10, "rate_steps": [0.3, 0.6], "rate_factor": 0.2}, 2)
    scheduler = schedule(optimizer)
    rates, momenta = [], []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(1)
        optimizer.step()
        momenta.append(optimizer.state[weight]["momentum_buffer"].item())
        scheduler.step()
    assert rates == pytest.approx([0.1] * 6 + [0.02] * 6 + [0.004] * 8)
    # 1, 1.9, 2.71, ... and from 1 again at each step of the rate.
    grown = [sum(0.9**power for power in range(count + 1)) for count in range(8)]
    assert momenta == pytest.approx(grown[:6] + grown[:6] + grown)


def test_the_rates_of_a_run_are_those_of_the_schedule(undisturbed):
    for row in undisturbed.ledger.rows():
        assert row.curves["learning_rate"] == pytest.approx([0.02, 0.004, 0.0008, 0.0008])


def test_a_schedule_that_is_resumed_does_not_forget_the_momentum_again():
    weight = nn.Parameter(torch.zeros(1))
    settings = {"epochs": 4, "rate_steps": [0.5], "rate_factor": 0.2}
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    scheduler = attention_transfer._schedule(settings, 1)(optimizer)
    for _ in range(3):
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    states = optimizer.state_dict(), scheduler.state_dict()
    fresh = SGD([weight], lr=0.1, momentum=0.9)
    again = attention_transfer._schedule(settings, 1)(fresh)
    fresh.load_state_dict(states[0])
    again.load_state_dict(states[1])
    assert fresh.param_groups[0]["lr"] == pytest.approx(0.02)
    # One step since the rate fell.
    assert fresh.state[weight]["momentum_buffer"].item() == pytest.approx(1)
