"""Runs in a folder that has seen others: nets that come out otherwise, lost weights, other processes."""

from __future__ import annotations

import dataclasses
import threading
import time
import warnings
from pathlib import Path

import pytest
from made_up_runs import RECIPE, SEEN, load, make_runner, train

from kdrepro.arms import Arm, Recipe, Result
from kdrepro.checkpoints import save_weights
from kdrepro.ledger import Ledger, Row
from kdrepro.run import Run
from kdrepro.runner import Runner


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return make_runner(tmp_path)


def trained_again(runner: Runner, *, rate: float) -> Row:
    """Train `first` with seed 0 again, for `second`, after its weights were lost and its learning rate changed."""
    runner.weights("first", 0).unlink()
    arm = dataclasses.replace(RECIPE.arm("first"), overrides={"learning_rate": rate})
    runner.recipe = dataclasses.replace(RECIPE, arms=RECIPE.arms | {"first": arm})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*recorded with other settings")
        runner.run(runner.plan(["second"], [1]))
    return runner.ledger.get(runner.run_id("first", 0))


def test_a_net_that_comes_out_otherwise_when_it_is_trained_again_gets_its_own_row(runner):
    (before,) = runner.run(runner.plan(["first"], [0]))
    assert trained_again(runner, rate=0.1) == before
    runner.ledger = Ledger(runner.work / "other")
    runner.ledger.write(before)
    after = trained_again(runner, rate=0.2)
    assert (after.config["learning_rate"], after.curves != before.curves) == (0.2, True)


def test_the_row_of_a_net_that_others_learned_from_stays_and_says_so(runner):
    runner.run(runner.plan(["second"], [0]))
    before = runner.ledger.get(runner.run_id("first", 0))
    with pytest.warns(
        RuntimeWarning, match=r"first\.s0: trained again .* made_up\.quick\.second\.s0 learned"
    ):
        assert trained_again(runner, rate=0.2) == before


def changed(name: str, **changes: object) -> Recipe:
    return dataclasses.replace(
        RECIPE, arms=RECIPE.arms | {name: dataclasses.replace(RECIPE.arm(name), **changes)}
    )


def test_rows_of_other_settings_are_told_of_before_others_stand_beside_them(runner):
    runner.run(runner.plan(["first"], [0, 1]))
    runner.run(runner.plan(["second"], [0]))
    runner.recipe = changed("first", overrides={"learning_rate": 0.3, "momentum": 0.9})
    with pytest.warns(RuntimeWarning) as told:
        runner.run(runner.plan(["faster"], [0]))
    (message,) = [str(each.message) for each in told]
    assert message == (
        "made_up.quick.first.s0, made_up.quick.first.s1: recorded with other settings than the recipe has "
        "(learning_rate 0.1, now 0.3); delete these rows to train anew"
    )
    # Nothing that is done beside them, and nothing that needs their data.
    runner.run(runner.plan(["faster"], [0]))
    runner.recipe = dataclasses.replace(
        runner.recipe,
        arms=runner.recipe.arms | {"mean": dataclasses.replace(RECIPE.arm("mean"), load=load)},
    )
    runner.run(runner.plan(["mean"]))
    runner.protocol = "smoke"
    runner.run(runner.plan(["faster"], [0]))


def test_the_precision_that_a_device_allows_is_no_other_setting(runner):
    runner.run(runner.plan(["first"], [0]))
    row = runner.ledger.get(runner.run_id("first", 0))
    runner.ledger.write(dataclasses.replace(row, config=row.config | {"precision": "bf16"}), replace=True)
    runner.run(runner.plan(["first"], [1]))


def test_among_what_is_tried_it_stays_as_well(runner):
    runner.split = "select"
    runner.run(runner.plan(["second"], [0]))
    before = runner.ledger.get(runner.run_id("first", 0))
    with pytest.warns(RuntimeWarning, match=r"first\.s0\.select: trained again .*second\.s0\.select learned"):
        assert trained_again(runner, rate=0.2) == before


def test_what_another_process_has_done_is_not_done_again_and_an_ensemble_has_no_weights(runner):
    plan = runner.plan(["mean"])
    runner.run(plan)
    SEEN.clear()
    assert runner.run(plan) == []
    assert SEEN == []


def test_what_another_process_trains_is_left_for_later_and_not_done_again(runner, tmp_path):
    elsewhere = make_runner(tmp_path)
    begun, order = threading.Event(), []

    def slow(run: Run) -> Result:
        begun.set()
        time.sleep(1.0)
        return train(run)

    elsewhere.recipe = dataclasses.replace(
        RECIPE, arms=RECIPE.arms | {"first": dataclasses.replace(RECIPE.arm("first"), train=slow)}
    )
    thread = threading.Thread(target=lambda: elsewhere.run([("first", 0)]))
    thread.start()
    assert begun.wait(20)
    for row in runner.each([("first", 0), ("second", 0), ("first", 1)]):
        order.append((row.arm, row.seed))
    thread.join()
    # The second learns from the first, which the other trains.
    assert order == [("first", 1), ("second", 0)]
    assert SEEN.count(("first", 0)) == 1


def test_the_row_of_a_net_that_others_went_on_from_stays_too(runner):
    on = Arm("goes on", train, start="first")
    runner.recipe = dataclasses.replace(RECIPE, arms=RECIPE.arms | {"on": on})
    runner.run(runner.plan(["first"], [0]))
    row = runner.ledger.get(runner.run_id("first", 0))
    later = dataclasses.replace(row, arm="on", config=row.config | {"starts_from": row.run})
    runner.ledger.write(later)
    with pytest.warns(RuntimeWarning, match=r"first\.s0: trained again .* made_up\.quick\.on\.s0 learned"):
        assert trained_again(runner, rate=0.2) == row


def test_nothing_is_recorded_under_a_net_that_came_out_otherwise(runner):
    runner.run(runner.plan(["second"], [0]))
    before = runner.ledger.get(runner.run_id("first", 0))
    runner.recording = True
    with pytest.raises(
        RuntimeError, match=r"first\.s0: trained again .* what learns now has another teacher"
    ):
        trained_again(runner, rate=0.2)
    assert runner.ledger.get(runner.run_id("second", 1)) is None
    assert runner.ledger.get(before.run) == before
    # Nor the next time, when its weights would be there.
    assert not runner.weights("first", 0).exists()


def test_nobody_learns_from_a_net_that_was_trained_on_other_data(runner, tmp_path):
    runner.run([("first", 0), ("first", 1)])
    other = dataclasses.replace(
        RECIPE, load=lambda protocol: dataclasses.replace(load(protocol), digest="sha256:11")
    )
    later = make_runner(tmp_path, other)
    with pytest.raises(
        ValueError,
        match=r"^made_up\.quick\.first\.s0: was trained on made_up with digest sha256:00, here it is ",
    ):
        later.run([("mean", 0)])


def test_what_is_recorded_learns_from_no_net_but_that_of_the_row(runner: Runner) -> None:
    runner.run([("first", 0), ("first", 1)])
    runner.recording = True
    row = runner.ledger.get(runner.run_id("first", 0))
    assert row is not None
    # The row of another machine in its place, as after a pull.
    runner.ledger.write(dataclasses.replace(row, curves={"loss": [9.0, 8.0]}), replace=True)
    with pytest.raises(
        ValueError, match=r"first.s0.safetensors: these weights are of another training than its row"
    ):
        runner.run(runner.plan(["mean"]))
    runner.ledger.write(row, replace=True)
    assert [row.arm for row in runner.run(runner.plan(["mean"]))] == ["mean"]
    # A row that was withdrawn: its weights are no teacher.
    (runner.ledger.folders[0] / "made_up" / "quick.first.s0.json").unlink()
    assert runner.plan(["second"], [1]) == [("first", 0), ("second", 1)]


def test_weights_from_before_they_said_where_they_are_from_still_teach(runner: Runner) -> None:
    runner.run([("first", 0)])
    save_weights(
        runner.trained("first", 0), runner.weights("first", 0), metadata={"run": "made_up.quick.first.s0"}
    )
    runner.run([("first", 1)])
    runner.recording = True
    assert len(runner.run(runner.plan(["mean"]))) == 1


def test_what_another_process_has_done_meanwhile_is_not_done_again(runner: Runner) -> None:
    plan = runner.plan(["first"])
    runner.run(runner.plan(["first"], [1]))
    assert [row.seed for row in runner.run(plan)] == [0, 2]
    assert SEEN == [("first", 1), ("first", 0), ("first", 2)]
