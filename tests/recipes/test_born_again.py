"""The program of the born-again paper on digits, whole, at its smallest: its rows, generations and cohorts."""

from __future__ import annotations

import pytest
import torch
from born_again_runs import ENSEMBLES, FEW, FIRST, FOUND, GENERATIONS, settings
from smoke_runs import runner
from torch import nn

from kdrepro import metrics, predict
from kdrepro.recipes import born_again
from kdrepro.recipes.born_again import RECIPE
from kdrepro.run import Run
from kdrepro.runner import Runner

TAUGHT = {*GENERATIONS[1:], "few_ban_l", "few_cwtm", "few_dkpp"}
FIRST_LAYER = "layers.0.weight"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Every arm on few digits with seed 0, those of the first generation as a cohort."""
    its = runner(tmp_path_factory.mktemp("runs"), RECIPE)
    its.run(its.plan(FEW, [0]))
    return its


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


# The rows.


def test_every_arm_leaves_a_row_with_its_metrics_and_settings(rows):
    assert set(rows) == set(FEW)
    measured = {"test_errors", "test_accuracy", "test_error_rate", "test_nll", "test_ece", "train_accuracy"}
    for name, row in rows.items():
        assert measured <= set(row.metrics), name
        assert ("teacher_agreement" in row.metrics) == (name in TAUGHT), name
        assert settings(name, "smoke").items() <= row.config.items(), name
        assert set(row.config) - set(settings(name)) <= FOUND, name
        assert row.metrics["test_errors"] == round(200 * row.metrics["test_error_rate"]), name
        assert (row.data["name"], row.config["train_size"]) == ("mnist5k", 400), name
        assert row.seconds > 0, name


def test_generations_are_linked_by_run_ids(rows):
    before = None
    for name in GENERATIONS:
        assert rows[name].teacher == before
        before = rows[name].run
    for name in ("few_ban_l", "few_cwtm", "few_dkpp"):
        assert rows[name].teacher == rows["few_teacher"].run
    for name in ("few_again", "few_smoothing"):
        assert rows[name].teacher is None
    for name, members in ENSEMBLES.items():
        assert rows[name].teacher == [rows[member].run for member in members]


def test_the_curves_are_those_of_the_terms(rows):
    for name, row in rows.items():
        soft = name in TAUGHT - {"few_cwtm"}
        hard = not soft or name == "few_ban_l"
        terms = {"loss/soft"} if soft else set()
        terms |= {"loss/hard"} if hard else set()
        expected = set() if name in ENSEMBLES else {"loss", "learning_rate"} | terms
        assert set(row.curves) == expected, name
        assert all(len(curve) == row.config["epochs_run"] == 1 for curve in row.curves.values()), name


def test_the_recorded_numbers_are_those_of_the_weights(done, rows):
    test = done.data(RECIPE.arm("few_ban2")).test
    for name in ("few_teacher", "few_ban2", "few_smoothing"):
        logits = predict(done.trained(name, 0), test.inputs, device="cpu")
        assert metrics.classification("test", logits, test.targets).items() <= rows[name].metrics.items()
    student, teacher = (
        predict(done.trained(name, 0), test.inputs, device="cpu") for name in ("few_ban2", "few_ban1")
    )
    assert rows["few_ban2"].metrics["teacher_agreement"] == metrics.agreement(student, teacher)


def test_what_is_done_is_not_planned_again(done):
    assert done.plan(FEW, [0]) == []
    assert done.plan(["few_ban2"], [1]) == [("few_teacher", 1), ("few_ban1", 1), ("few_ban2", 1)]


@pytest.mark.parametrize("name", list(ENSEMBLES))
def test_an_ensemble_averages_the_probabilities_of_its_members(name, done, rows):
    test = done.data(RECIPE.arm(name)).test
    members = [done.trained(member, 0) for member in ENSEMBLES[name]]
    shares = [predict(net, test.inputs, device="cpu").softmax(dim=1) for net in members]
    mean = torch.stack(shares).mean(dim=0)
    found = metrics.classification("test", mean.log(), test.targets)
    assert {key: rows[name].metrics[key] for key in found} == pytest.approx(found, rel=1e-5)
    # Neither a member nor the mean of the logits.
    logits = torch.stack([predict(net, test.inputs, device="cpu") for net in members]).mean(dim=0)
    others = [logits, *(each.log() for each in shares)]
    nlls = [metrics.classification("test", each, test.targets)["test_nll"] for each in others]
    assert all(abs(each - found["test_nll"]) > 1e-5 for each in nlls)
    assert rows[name].parameters == sum(each.numel() for net in members for each in net.parameters())
    assert rows[name].config["epochs_run"] == 0
    assert not done.weights(name, 0).exists()


# Teacher and student.


class Watched:
    """The trainings of a recipe: teacher and students of each, with their weights before and after."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[dict[str, object]] = []
        plain = born_again.fit_runs

        def watched(runs, members, batches, *, teacher, **options):
            students = {member.label: member.student for member in members}
            record = {
                "students": students,
                "teacher": teacher,
                "first": {name: state(net) for name, net in students.items()},
                "before": state(teacher.modules[0]) if teacher else None,
            }
            histories = plain(runs, members, batches, teacher=teacher, **options)
            record["after"] = state(teacher.modules[0]) if teacher else None
            self.seen.append(record)
            return histories

        patch.setattr(born_again, "fit_runs", watched)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    its = runner(tmp_path_factory.mktemp("watched"), RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        record = Watched(patch)
        its.run(its.plan(FEW, [0]))
    return its, record.seen


def test_every_generation_is_a_new_net_and_leaves_its_teacher_bitwise_as_it_was(watched):
    its, seen = watched
    assert [list(each["students"]) for each in seen] == [
        ["few_teacher"],
        FIRST,
        *([name] for name in GENERATIONS[2:]),
    ]
    earlier = []
    for generation, record in enumerate(seen):
        students = list(record["students"].values())
        assert len({id(net) for net in students}) == len(students)
        if generation == 0:
            assert record["teacher"] is None
        else:
            (teacher,) = record["teacher"].modules
            assert all(net is not teacher for net in students)
            own = {value.data_ptr() for value in teacher.parameters()}
            assert own.isdisjoint(value.data_ptr() for net in students for value in net.parameters())
            assert same(record["before"], record["after"])
            assert not any(module.training for module in teacher.modules())
            assert all(value.grad is None for value in teacher.parameters())
            # It is the student of the generation before, whose own weights lie in its file.
            assert same(record["before"], state(its.trained(GENERATIONS[generation - 1], 0)))
        for net, first in zip(students, record["first"].values(), strict=True):
            assert not same(state(net), first), "it has learned"
        first = next(iter(record["first"].values()))
        assert all(not torch.equal(first[FIRST_LAYER], other) for other in earlier), "new initial weights"
        if generation:
            assert not torch.equal(first[FIRST_LAYER], record["before"][FIRST_LAYER])
        earlier.append(first[FIRST_LAYER])


def test_students_that_are_compared_start_from_the_same_weights_and_other_seeds_from_others(watched):
    its, seen = watched
    states = list(seen[1]["first"].values())
    assert all(same(states[0], other) for other in states[1:])
    firsts = {}
    for name in ("few_teacher", "few_ban1", "few_ban2"):
        for seed in range(3):
            generation = settings(name)["generation"]
            weights = Run(its, name, RECIPE.arm(name), seed).build(1000 * generation + seed).state_dict()
            firsts[name, seed] = next(iter(weights.values()))
    values = list(firsts.values())
    assert all(not torch.equal(a, b) for place, a in enumerate(values) for b in values[:place])
    assert torch.equal(firsts["few_ban1", 0], states[0][FIRST_LAYER])


def test_a_student_does_not_depend_on_how_its_teacher_came_about(watched, tmp_path):
    """Another teacher of the same name is learned from instead: the weights in the file are what counts."""
    its, _ = watched
    other = runner(tmp_path, RECIPE)
    other.trained = lambda name, seed: its.trained("few_smoothing", 0)
    (row,) = other.run([("few_ban1", 0)])
    assert row.metrics != its.ledger.get(row.run).metrics


# Cohorts.


@pytest.mark.parametrize("name", FIRST)
def test_in_a_cohort_or_alone_the_numbers_are_the_same(name, done, rows, tmp_path):
    its = runner(tmp_path, RECIPE)
    its.trained = done.trained
    (row,) = its.run([(name, 0)])
    assert (row.metrics, row.curves) == (rows[name].metrics, rows[name].curves)
    assert rows[name].config == row.config | {"cohort": FIRST}
    assert its.weights(name, 0).read_bytes() == done.weights(name, 0).read_bytes()


def test_a_cohort_of_labels_alone_asks_for_no_teacher(tmp_path):
    its = runner(tmp_path, RECIPE)
    rows = its.run([("few_again", 0), ("few_smoothing", 0)])
    assert [row.arm for row in rows] == ["few_again", "few_smoothing"]
    assert not its.weights("few_teacher", 0).exists()
