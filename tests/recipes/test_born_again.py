"""The program of the born-again paper on digits, whole, at its smallest."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from kdrepro import engine, metrics, predict
from kdrepro.claims import Side, paper
from kdrepro.ledger import Ledger, Row
from kdrepro.methods.born_again import BornAgain, ConfidenceWeighted, LabelSmoothing, PermutedDarkKnowledge
from kdrepro.methods.supervised import Supervised
from kdrepro.models.densenet import DenseNet
from kdrepro.models.mlp import MLP
from kdrepro.models.wide_resnet import WideResNet
from kdrepro.recipes import born_again
from kdrepro.recipes.born_again import ARMS, RECIPE, config
from kdrepro.runs import Run, Runner

FEW = [name for name in ARMS if name.startswith("few_")]
GENERATIONS = ["few_teacher", *(f"few_ban{generation}" for generation in range(1, 6))]
FIRST = ["few_ban1", "few_again", "few_ban_l", "few_cwtm", "few_dkpp", "few_smoothing"]
TAUGHT = {*GENERATIONS[1:], "few_ban_l", "few_cwtm", "few_dkpp"}
# Larger nets of the paper's Table 1, each with one generation, for a GPU.
WIDER = ("wrn28_2_", "densenet_")
FIRST_LAYER = "layers.0.weight"
ENSEMBLES = {"few_ens2": GENERATIONS[1:3], "few_ens3": GENERATIONS[1:4]}
# What a run finds out, beside its settings.
FOUND = {"train_size", "epochs_run", "precision", "cohort"}


def runner(folder: Path, recipe=RECIPE, **changes) -> Runner:
    arguments = {"protocol": "smoke", "ledger": Ledger(folder), "work": folder, "device": "cpu"}
    return Runner(recipe, **(arguments | {"progress": False, "precision": "fp32"} | changes))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Every arm on few digits with seed 0, those of the first generation as a cohort."""
    its = runner(tmp_path_factory.mktemp("runs"))
    its.run(its.plan(FEW, [0]))
    return its


@pytest.fixture(scope="module")
def rows(done: Runner) -> dict[str, Row]:
    return {row.arm: row for row in done.ledger.rows()}


def settings(name: str, protocol: str = "paper") -> dict[str, object]:
    arm = RECIPE.arm(name)
    return config(arm.base, protocol) | arm.overrides


def base(name: str) -> str:
    """The beginning of an arm's name that says what it is trained on; that of pictures is empty."""
    return next((prefix for prefix in (*WIDER, "mnist_", "few_") if name.startswith(prefix)), "")


def state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


# The arms, and what the claims say of them.


def test_the_arms_are_those_that_the_claims_name():
    named: set[str] = set()
    for claim in paper("furlanello2018").claims:
        compared = [*claim.comparisons, *([claim.direction] if claim.direction else [])]
        assert all(isinstance(side, Side) for each in compared for side in (each.lower, each.higher))
        named |= set(claim.needs)
    assert named <= set(ARMS)
    # These stand between the generations that the claims compare, or are asked about on pictures only.
    assert set(ARMS) - named <= {"few_teacher", "mnist_teacher", "few_ban4", "mnist_ban4"}


def test_the_settings_that_the_deviations_show_are_there():
    shown = re.findall(
        r"\{(\w+)\.(\w+)\}", " ".join(each.ours for each in paper("furlanello2018").deviations)
    )
    assert len(shown) > 10
    assert [f"{arm}.{key}" for arm, key in shown if key not in settings(arm).keys() | FOUND] == []


@pytest.mark.parametrize(("prefix", "generations", "seeds"), [("", 3, 3), ("mnist_", 5, 20), ("few_", 5, 20)])
def test_each_generation_learns_from_the_one_before_it(prefix, generations, seeds):
    before = f"{prefix}teacher"
    assert list(ARMS[before].needs(7)) == []
    for generation in range(1, generations + 1):
        name = f"{prefix}ban{generation}"
        assert list(ARMS[name].needs(7)) == [(before, 7)]
        before = name
    assert f"{prefix}ban{generations + 1}" not in ARMS
    for name in ("ban_l", "cwtm", "dkpp"):
        assert list(ARMS[f"{prefix}{name}"].needs(7)) == [(f"{prefix}teacher", 7)]
    for name in ("again", "smoothing"):
        assert list(ARMS[f"{prefix}{name}"].needs(7)) == []
    for count in (2, 3):
        members = [(f"{prefix}ban{generation}", 7) for generation in range(1, count + 1)]
        assert list(ARMS[f"{prefix}ens{count}"].needs(7)) == members
    assert {arm.seeds for name, arm in ARMS.items() if name.startswith(prefix) and base(name) == prefix} == {
        seeds
    }


@pytest.mark.parametrize("prefix", WIDER)
def test_larger_nets_are_born_again_once_as_in_the_paper(prefix):
    own = {name: arm for name, arm in ARMS.items() if name.startswith(prefix)}
    assert list(own) == [f"{prefix}teacher", f"{prefix}ban1"]
    assert [list(arm.needs(7)) for arm in own.values()] == [[], [(f"{prefix}teacher", 7)]]
    assert {(arm.seeds, tuple(arm.protocols)) for arm in own.values()} == {(3, ("paper",))}


def test_those_that_are_compared_within_a_generation_are_a_cohort():
    for name in FEW:
        generation = settings(name)["generation"]
        single = name == "few_teacher" or name in ENSEMBLES
        assert ARMS[name].cohort == ("" if single else f"few_generation{generation}"), name
    assert [name for name in FEW if ARMS[name].cohort == "few_generation1"] == FIRST


# The settings.


@pytest.mark.parametrize(
    ("protocol", "net", "epochs", "steps", "dropout"),
    [("paper", (28, 1), 200, [60, 120, 160], 0.3), ("reduced", (16, 1), 15, [4, 9, 12], 0.0)],
)
def test_the_settings_on_pictures_are_those_of_wide_residual_networks(protocol, net, epochs, steps, dropout):
    expected = {"learning_rate": 0.1, "rate_factor": 0.2, "weight_decay": 0.0005, "batch_size": 128}
    expected |= {"epochs": epochs, "dropout": dropout, "optimizer": "SGD, Nesterov momentum 0.9"}
    for name in ("teacher", "ban3", "again", "smoothing"):
        found = settings(name, protocol)
        assert (expected | {"depth": net[0], "width": net[1]}).items() <= found.items(), name
        assert [round(share * epochs) for share in found["rate_steps"]] == steps


@pytest.mark.parametrize("prefix", WIDER)
def test_the_settings_of_larger_nets_are_those_of_the_smallest_but_for_the_net(prefix):
    own, smallest = settings(f"{prefix}ban1"), settings("ban1")
    differing = {key for key in own.keys() | smallest if own.get(key) != smallest.get(key)}
    assert differing <= {"net", "depth", "width", "growth", "dropout"}
    assert own.get("dropout") == (None if prefix == "densenet_" else 0.3)


def test_teacher_and_students_have_the_same_net_and_schedule():
    for prefix in ("", *WIDER, "mnist_", "few_"):
        own = [name for name in ARMS if base(name) == prefix]
        differing = {"objective", "generation", "smoothing"}
        common = [
            {key: value for key, value in settings(each).items() if key not in differing} for each in own
        ]
        assert len(own) == 2 if prefix in WIDER else len(own) > 4
        assert all(each == common[0] for each in common), prefix


def test_the_nets_are_those_of_the_settings():
    net = RECIPE.build(settings("teacher"))
    assert isinstance(net, WideResNet)
    assert sum(each.numel() for each in net.parameters()) == 369_498
    drops = [part.probability for part in net.modules() if hasattr(part, "probability")]
    assert set(drops) == {0.3}
    assert sum(each.numel() for each in RECIPE.build(settings("teacher", "reduced")).parameters()) == 175_066
    net = RECIPE.build(settings("wrn28_2_ban1"))
    assert sum(each.numel() for each in net.parameters()) == 1_467_610
    assert {part.probability for part in net.modules() if hasattr(part, "probability")} == {0.3}
    with torch.device("meta"):
        net = RECIPE.build(settings("densenet_ban1"))
    assert isinstance(net, DenseNet)
    assert sum(each.numel() for each in net.parameters()) == 6_892_786
    for name in ("mnist_teacher", "few_ban5"):
        net = RECIPE.build(settings(name))
        assert isinstance(net, MLP)
        assert sum(each.numel() for each in net.parameters()) == 1_276_810


@pytest.mark.parametrize(
    ("name", "kind", "weights"),
    [
        ("few_teacher", Supervised, {}),
        ("few_again", Supervised, {}),
        ("few_ban1", BornAgain, {"label_weight": 0.0}),
        ("few_ban4", BornAgain, {"label_weight": 0.0}),
        ("few_ban_l", BornAgain, {"label_weight": 1.0}),
        ("few_cwtm", ConfidenceWeighted, {}),
        ("few_dkpp", PermutedDarkKnowledge, {}),
        ("few_smoothing", LabelSmoothing, {"smoothing": 0.1}),
    ],
)
def test_the_arms_differ_in_their_objectives(name, kind, weights):
    objective = born_again._OBJECTIVES[settings(name)["objective"]]()
    assert type(objective) is kind
    assert {key: getattr(objective, key) for key in weights} == weights
    assert settings(name).get("smoothing") == weights.get("smoothing")


def test_the_data_of_each_protocol(monkeypatch):
    asked = []
    monkeypatch.setattr(born_again.cifar, "load", lambda name: asked.append(name))
    for protocol in ("paper", "reduced"):
        ARMS["ban2"].load(protocol)
    assert asked == ["cifar10", "cifar10-jpeg"]
    sizes = {
        protocol: tuple(len(part) for part in (data.train, data.test))
        for protocol in ("smoke", "quick", "paper")
        for data in [ARMS["few_ban2"].load(protocol)]
    }
    assert sizes == {"smoke": (400, 200), "quick": (4000, 1000), "paper": (4000, 1000)}


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
        plain = born_again.fit_cohort

        def watched(members, batches, *, teacher, **options):
            students = {member.label: member.student for member in members}
            record = {
                "students": students,
                "teacher": teacher,
                "first": {name: state(net) for name, net in students.items()},
                "before": state(teacher.modules[0]) if teacher else None,
            }
            histories = plain(members, batches, teacher=teacher, **options)
            record["after"] = state(teacher.modules[0]) if teacher else None
            self.seen.append(record)
            return histories

        patch.setattr(born_again, "fit_cohort", watched)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    its = runner(tmp_path_factory.mktemp("watched"))
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
        assert all(not torch.equal(first[FIRST_LAYER], other) for other in earlier), "new first weights"
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
    other = runner(tmp_path)
    other.trained = lambda name, seed: its.trained("few_smoothing", 0)
    (row,) = other.run([("few_ban1", 0)])
    assert row.metrics != its.ledger.get(row.run).metrics


# Cohorts and kills.


@pytest.mark.parametrize("name", FIRST)
def test_in_a_cohort_or_alone_the_numbers_are_the_same(name, done, rows, tmp_path):
    its = runner(tmp_path)
    its.trained = done.trained
    (row,) = its.run([(name, 0)])
    assert (row.metrics, row.curves) == (rows[name].metrics, rows[name].curves)
    assert rows[name].config == row.config | {"cohort": FIRST}
    assert its.weights(name, 0).read_bytes() == done.weights(name, 0).read_bytes()


def test_a_cohort_of_labels_alone_asks_for_no_teacher(tmp_path):
    its = runner(tmp_path)
    rows = its.run([("few_again", 0), ("few_smoothing", 0)])
    assert [row.arm for row in rows] == ["few_again", "few_smoothing"]
    assert not its.weights("few_teacher", 0).exists()


class Stopped(Exception):
    """Ends a run."""


@pytest.fixture(scope="module")
def longer():
    """The recipe with three epochs of four steps."""
    return dataclasses.replace(RECIPE, config=lambda base, protocol: config(base, protocol) | {"epochs": 3})


CHAIN = ["few_ban1", "few_cwtm", "few_ban2", "few_ban3", "few_ens3"]


@pytest.fixture(scope="module")
def undisturbed(longer, tmp_path_factory) -> Runner:
    its = runner(tmp_path_factory.mktemp("undisturbed"), longer)
    its.run(its.plan(CHAIN, [0]))
    return its


def stop(patch: pytest.MonkeyPatch, at: int) -> None:
    """Stop at that step, counted over all generations by their first members."""
    members = born_again.Member
    steps = iter(range(10_000))

    def after_step(net: nn.Module) -> None:
        if next(steps) == at:
            raise Stopped

    def watched(*, label: str, **arguments):
        return members(label=label, after_step=None if label == "few_cwtm" else after_step, **arguments)

    patch.setattr(born_again, "Member", watched)


# Twelve steps a generation: in the first teacher; at the first step of a generation, in its middle, at its last; and in
# the last of all.
@pytest.mark.parametrize("moment", [5, 12, 18, 23, 24, 31, 47])
def test_killed_between_or_inside_generations_it_ends_with_the_same_rows(
    moment, longer, undisturbed, monkeypatch, tmp_path
):
    monkeypatch.setitem(engine.fit_cohort.__kwdefaults__, "checkpoint_seconds", 0.0)
    its = runner(tmp_path, longer)
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
