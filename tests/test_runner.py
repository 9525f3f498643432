"""The runner: what it plans, what it writes, and where it says its code came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from made_up_runs import RECIPE, SEEN, load, make_runner, train
from small_networks import network

from kdrepro import run as module_of_runs
from kdrepro.arms import Result, candidates
from kdrepro.run import Run
from kdrepro.runner import Runner


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return make_runner(tmp_path)


def test_a_plan_has_what_is_needed_first_and_nothing_twice(runner):
    assert runner.plan(["third"]) == [("first", 0), ("second", 1), ("first", 2), ("third", 0)]
    assert runner.plan() == [
        ("first", 0),
        ("first", 1),
        ("first", 2),
        ("second", 0),
        ("second", 1),
        ("third", 0),
        ("mean", 0),
        *(("faster", seed) for seed in range(5)),
    ]
    assert runner.plan(["first"], [4, 4, 2]) == [("first", 4), ("first", 2)]
    assert runner.plan([]) == runner.plan(["first"], []) == []


def test_a_run_leaves_a_row_weights_and_no_checkpoint(runner, tmp_path):
    (row,) = runner.run([("first", 1)])
    assert row == runner.ledger.get("made_up.quick.first.s1")
    assert row.metrics == {"test_errors": 10}
    expected = {"base": "first", "protocol": "quick", "learning_rate": 0.1, "precision": "fp32"}
    assert row.config == expected | {"found_out": 30, "epochs_run": 2}
    assert row.parameters == sum(each.numel() for each in network().parameters())
    assert (row.teacher, row.data) == (None, {"name": "made_up", "digest": "sha256:00"})
    assert (row.commit, row.dirty) == (runner.commit, runner.dirty)
    assert row.device.startswith("cpu: ")
    assert {"python", "torch", "numpy", "accelerate"} <= set(row.versions)
    assert len(row.curves["loss"]) == 2
    assert [each.name for each in (tmp_path / "weights").iterdir()] == ["made_up.quick.first.s1.safetensors"]
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_only_the_runs_own_checkpoints_are_removed(runner, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    names = ("made_up.quick.first.s1+part.pt", "made_up.quick.first.s10.pt", "made_up.quick.second.s1.pt")
    for name in names:
        (folder / name).write_bytes(b"")
    runner.run([("first", 1)])
    assert sorted(each.name for each in folder.iterdir()) == sorted(names[1:])


def test_what_a_training_took_before_this_process_counts(runner, monkeypatch):
    def long(run: Run) -> Result:
        result = train(run)
        result.history.seconds += 1000.0
        return result

    monkeypatch.setitem(RECIPE.arms, "first", dataclasses.replace(RECIPE.arms["first"], train=long))
    (row,) = runner.run([("first", 0)])
    assert 1000.0 < row.seconds < 1100.0


def test_a_run_that_moved_says_so_in_its_row(runner, monkeypatch):
    trained = dataclasses.replace(RECIPE.arms["first"], train=lambda run: moved(train(run)))

    def moved(result: Result) -> Result:
        result.history.devices[:] = ["cuda: made up", "cpu: made up", "cpu: made up"]
        return result

    monkeypatch.setitem(RECIPE.arms, "first", trained)
    (row,) = runner.run([("first", 0)])
    assert row.device == "cuda: made up, then cpu: made up"


def test_what_trains_nothing_leaves_a_row_and_no_weights(runner, tmp_path):
    *_, row = runner.run(runner.plan(["mean"]))
    assert (row.metrics, row.parameters) == ({"members": 2}, 7)
    assert row.teacher == ["made_up.quick.first.s0", "made_up.quick.first.s1"]
    assert row.config["epochs_run"] == 0
    assert not runner.weights("mean", 0).exists()


def test_another_base_and_other_settings_are_laid_over_the_recipes(runner):
    (row,) = runner.run([("faster", 0)])
    assert (row.config["base"], row.config["learning_rate"]) == ("first", 0.5)


def test_what_is_done_is_skipped_and_lost_weights_are_made_again(runner):
    runner.run(runner.plan(["second"]))
    assert SEEN == [("first", 0), ("second", 0), ("second", 1)]
    assert runner.plan(["first", "second"], [0]) == []
    row = runner.ledger.get("made_up.quick.first.s0")
    runner.weights("first", 0).unlink()
    assert runner.plan(["second"], [0, 1]) == []
    assert runner.plan(["mean"]) == [("first", 0), ("first", 1), ("mean", 0)]
    runner.run([("first", 0)])
    assert runner.ledger.get(row.run) == row


def test_a_seed_fixes_the_initial_weights_and_leaves_the_callers_random_state(runner):
    def first(seed: int) -> torch.Tensor:
        return Run(runner, "first", RECIPE.arm("first"), seed).build()[0].weight

    before = torch.get_rng_state()
    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("asked", "by_settings", "expected"),
    [("auto", "fp32", "fp32"), ("auto", "auto", "bf16"), ("bf16", "fp32", "bf16"), ("fp32", None, "fp32")],
)
def test_an_arm_trains_in_its_own_precision_unless_another_is_asked_for(
    asked, by_settings, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr("kdrepro.devices.has_bf16", lambda device: True)
    own = {} if by_settings is None else {"precision": by_settings}
    recipe = dataclasses.replace(
        RECIPE, arms={"first": dataclasses.replace(RECIPE.arm("first"), overrides=own)}
    )
    used: list[str] = []
    fit = module_of_runs.fit
    monkeypatch.setattr(
        module_of_runs, "fit", lambda *args, precision, **rest: used.append(precision) or fit(*args, **rest)
    )
    (row,) = make_runner(tmp_path, recipe, precision=asked).run([("first", 0)])
    assert (row.config["precision"], used) == (expected, [expected])


def test_held_out_examples_take_the_place_of_the_test_set(tmp_path):
    its = make_runner(tmp_path, split="select")
    (row,) = its.run([("first", 0)])
    assert (row.run, row.split) == ("made_up.quick.first.s0.select", "select")
    assert (len(its.data(its.recipe.arm("first")).train), len(its.data(its.recipe.arm("first")).test)) == (
        20,
        10,
    )
    assert torch.equal(its.data(its.recipe.arm("first")).test.inputs, load("quick").train.inputs[20:])


def test_candidates_are_arms_with_the_settings_laid_over():
    tried = candidates(RECIPE)
    assert set(tried.arms) == {*RECIPE.arms, "first.try0", "first.try1", "faster.try0"}
    assert [tried.arm(f"first.try{n}").overrides["learning_rate"] for n in (0, 1)] == [0.01, 0.3]
    assert tried.arm("faster.try0").overrides == {"learning_rate": 0.5, "extra": 1}
    assert {tried.arm(name).base for name in tried.arms if ".try" in name} == {"first"}
    assert {tried.arm(name).seeds for name in tried.arms if ".try" in name} == {1}


def test_progress_is_labelled_with_arm_and_seed(tmp_path, capsys):
    its = make_runner(tmp_path, progress=True)
    its.run([("first", 2)])
    assert capsys.readouterr().out.startswith("first seed 2: epoch 1/2 loss ")


def test_a_file_in_a_rows_place_that_is_none_is_said_before_anything_is_trained(runner: Runner) -> None:
    file = runner.ledger.folders[0] / "made_up" / "quick.first.s1.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"schema": 2}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"first.s1.json: no row \(.*schema.*\); mend or delete it"):
        runner.plan(["first"])
    assert SEEN == []
