"""Data without labels, for objectives that read none, and labels for some examples only."""

from types import SimpleNamespace

import pytest
import torch
from doctor_findings import codes
from small_networks import WithFeatures, network, snapshot
from small_trainings import batches, train
from torch import nn

from kdrepro import (
    Batch,
    Batches,
    BornAgain,
    Distiller,
    FitNetKD,
    HintonKD,
    HintStage,
    LabelSmoothing,
    Outputs,
    Supervised,
    cache_teacher,
    check,
)
from kdrepro.caching import CachedTranslator
from kdrepro.training.cuda_graphs import _parts, _whole
from kdrepro.training.members import share_of

SOFT = HintonKD(temperature=4.0, soft_weight=1.0)
MASK = torch.arange(50) % 3 > 0


class MixedLabels(nn.Module):
    def forward(self, student, teacher, batch):
        return {"hard": nn.functional.cross_entropy(student.logits, batch.targets)}


def test_targets_that_are_no_classes_reach_an_objective_that_reads_such():
    plain, student, mixed = batches(), network(1), network(1)
    shares = nn.functional.one_hot(plain.targets, network(1)(plain.inputs[:2]).shape[-1]).float()
    found = train(mixed, objective=MixedLabels(), batches=batches(targets=shares), teacher=None)
    expected = train(student, objective=Supervised(), batches=plain, teacher=None)
    assert found.curves["loss"] == pytest.approx(expected.curves["loss"], rel=1e-5)
    with pytest.raises(TypeError, match=r"targets: got torch\.float32.*, expected integer class numbers"):
        train(network(1), objective=Supervised(), batches=batches(targets=shares), teacher=None)


@pytest.mark.parametrize("objective", [SOFT, BornAgain()], ids=["hinton", "born_again"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("cached", [False, True])
def test_training_without_labels_is_that_with_labels_that_nobody_reads(objective, mask, cached):
    found = []
    for targets in (batches().targets, None):
        data, student, teacher = batches(targets=targets, mask=mask), network(1), network(0)
        asked = cache_teacher(teacher, data, device="cpu", precision="fp32") if cached else teacher
        history = train(student, objective=objective, batches=data, teacher=asked)
        found.append((history.curves, snapshot(student)["bytes"]))
    assert found[0] == found[1]


def test_hints_need_no_labels_and_a_killed_training_of_them_goes_on(tmp_path):
    def trained(epochs: int, file) -> list[float]:
        torch.manual_seed(0)
        objective = HintStage(nn.Linear(8, 12), student_tap="hidden", teacher_tap="hidden")
        teacher, student = WithFeatures(width=12), WithFeatures()
        options = {"batches": batches(targets=None), "teacher": teacher, "epochs": epochs, "checkpoint": file}
        return train(student, objective=objective, **options).curves["loss"]

    assert trained(3, tmp_path / "hints.pt") == trained(3, tmp_path / "hints.pt") == trained(3, None)


@pytest.mark.parametrize(
    "objective",
    [
        HintonKD(temperature=4.0, soft_weight=0.9),
        BornAgain(label_weight=1.0),
        Supervised(),
        LabelSmoothing(smoothing=0.1),
        FitNetKD(temperature=3.0, soft_weight=4.0, final_soft_weight=1.0, decay_epochs=3),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_an_objective_that_reads_labels_says_so_before_training(objective):
    student = network(1)
    before = snapshot(student)
    with pytest.raises(
        TypeError, match=r"targets: got None, expected class numbers, .* HintonKD\(..., soft_weight=1\)"
    ):
        train(student, objective=objective, batches=batches(targets=None))
    assert snapshot(student)["bytes"] == before["bytes"]
    with pytest.raises(TypeError, match="targets: got None, expected class numbers"):
        Distiller(network(0), student, objective)(batches().inputs)


def test_a_mask_of_the_wrong_shape_is_found_before_training():
    student = network(1)
    before = snapshot(student)
    data = batches(targets=None, mask=torch.ones(50, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask: got shape \(2, 2\), expected \(2,\) like the values"):
        train(student, objective=SOFT, batches=data)
    assert snapshot(student)["bytes"] == before["bytes"]


def test_a_mask_without_targets_is_boolean():
    with pytest.raises(
        ValueError, match=r"mask: got torch.int64 of shape .* expected torch.bool of .*, one for each pos"
    ):
        batches(targets=None, mask=MASK.long())


def test_each_example_of_a_batch_is_counted_without_targets():
    inputs = {"tokens": torch.zeros(6, 3), "for_all": torch.zeros(1, 3), "flag": torch.tensor(1.0)}
    assert Batch(inputs, None).size == 6
    assert Batch(torch.zeros(7, 2), None).size == 7
    assert Batch(torch.zeros(7, 2), torch.zeros(5)).size == 5
    assert Batch({}, None).size == 0
    part = Batch(torch.arange(7), None, torch.ones(7, dtype=torch.bool)).every(3, first=1)
    assert part.targets is None
    assert part.size == 2


@pytest.mark.parametrize("targets", [None, torch.zeros(5).long()])
def test_a_process_weighs_its_share_by_the_examples(targets):
    run = SimpleNamespace(num_processes=2, process_index=0)
    part, weight = share_of(Batch(torch.zeros(5, 2), targets), run)
    assert (len(part.inputs), weight) == (3, 3 * 2 / 5)


def test_a_recorded_step_gets_no_targets_where_there_are_none():
    batch, taught = _whole(_parts(Batch(torch.ones(2, 3), None), Outputs(torch.zeros(2, 4))))
    assert batch.targets is None
    assert taught.logits.shape == (2, 4)


def test_check_looks_at_a_batch_without_labels():
    teacher, student = network(0).eval().requires_grad_(False), network(1)
    batch = Batch(batches().inputs, None)
    assert codes(check(teacher, student, batch, objective=SOFT)) == []
    assert codes(check(teacher, student, batch, objective=Supervised())) == ["objective_fails"]


def test_a_translators_cached_outputs_are_found_by_the_targets():
    cached = CachedTranslator(torch.zeros(5, 7), torch.tensor([2, 3]))
    with pytest.raises(ValueError, match=r"batch.targets: got None, expected those of the text"):
        cached.look_up(Batch(torch.zeros(2), None, index=torch.tensor([0, 1])))


class SomeLabels(nn.Module):
    """What the page about a loop of one's own shows: soft targets for all, labels for those that have one."""

    def __init__(self) -> None:
        super().__init__()
        self.soft, self.hard = SOFT, Supervised()

    def forward(self, student, teacher, batch):
        soft = self.soft(student, teacher, Batch(batch.inputs, None))["soft"]
        hard = self.hard(student, teacher, batch)["hard"]
        return {"soft": 0.9 * soft, "hard": 0.1 * hard}


def test_labels_for_some_are_the_soft_term_of_all_and_the_hard_term_of_those():
    inputs, targets = batches().inputs, batches().targets
    some = targets.masked_fill(~MASK, -100)
    teacher, student = network(0), network(1).eval()
    out = Distiller(teacher, student, SomeLabels())(inputs, some, some != -100)
    every = HintonKD(temperature=4.0, soft_weight=0.9)
    expected = Distiller(teacher, student, every)(inputs, targets)
    torch.testing.assert_close(out.terms["soft"], expected.terms["soft"])
    hard = nn.functional.cross_entropy(student(inputs)[MASK], targets[MASK])
    torch.testing.assert_close(out.terms["hard"], 0.1 * hard)
    data = Batches(inputs, some, batch_size=16, seed=3, mask=some != -100)
    assert sorted(train(student, objective=SomeLabels(), batches=data, teacher=teacher).curves) == [
        "learning_rate",
        "loss",
        "loss/hard",
        "loss/soft",
    ]


def test_no_term_is_dropped_where_a_label_is_missing_and_no_mask_says_so():
    some = batches().targets.masked_fill(~MASK, -100)
    with pytest.raises(ValueError, match="targets: got values from -100"):
        Distiller(network(0), network(1), HintonKD(temperature=4.0, soft_weight=0.9))(batches().inputs, some)
