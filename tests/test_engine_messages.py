"""What the training loop says: what it refuses, where a training breaks, and how far it has come."""

import io
import sys

import pytest
import torch
from small_networks import batch, network, snapshot
from small_trainings import batches, train, without_batch_norm
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from kdrepro import Batches, Supervised, cache_teacher, hard_target_loss
from kdrepro.caching import CachedTeacher

# What it refuses, and where it breaks.


def test_a_student_among_several_teachers_is_refused():
    student = network(9)
    with pytest.raises(ValueError, match="student: got the same object as the teacher"):
        train(student, teacher=[student, network(1)])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batches": [batch(8)]}, "batches: got list, without seed, .*; expected kdrepro.Batches"),
        ({"objective": cross_entropy}, "objective: got function, expected an nn.Module"),
        ({"optimizer": SGD([torch.zeros(1)], lr=0.1)}, "optimizer: got SGD, expected a callable"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(changes, says):
    with pytest.raises(TypeError, match=says):
        train(network(1), **changes)


def test_a_last_batch_of_one_is_refused_where_the_student_cannot_train_on_it():
    data = batches(49, batch_size=16)
    student = network(1)
    before = snapshot(student)
    with pytest.raises(
        ValueError, match="batch_size: got 16 for 49 examples, which leaves one for the last batch"
    ):
        train(student, batches=data)
    assert snapshot(student) == before
    # Without BatchNorm it can.
    train(without_batch_norm(1), batches=data, epochs=1)


@pytest.mark.parametrize(
    ("terms", "kind", "says"),
    [
        (lambda loss: loss.mean(), TypeError, "objective: it returned Tensor, expected a dict"),
        (
            lambda loss: {"soft": loss},
            ValueError,
            r"objective: its term 'soft' has shape \(2,\), expected a scalar",
        ),
        (lambda loss: {"soft": 1.0}, TypeError, "objective: its term 'soft' is 1.0"),
    ],
)
def test_terms_of_the_wrong_kind_are_named(terms, kind, says):
    class Objective(nn.Module):
        def forward(self, student, teacher, batch):
            return terms(student.logits.mean(-1))

    with pytest.raises(kind, match=says):
        train(network(1), objective=Objective())


class NaNOn(nn.Module):
    """A teacher that breaks on one example."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.net, self.number = network(0), number

    def forward(self, inputs):
        return self.net(inputs).masked_fill((inputs[:, :1] == self.number), float("nan"))


@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_that_breaks_is_named_with_step_and_terms(cached):
    # More steps than losses are looked at together, and an example that comes late.
    data = batches(150, batch_size=2)
    order = [int(place) for part in data.epoch(0) for place in part.index]
    late = next(place for place in order[124:] if place > 2)
    step = order.index(late) // 2
    teacher = NaNOn(data.inputs[late, 0].item())
    asked = cache_teacher(teacher, data, device="cpu", precision="fp32") if cached else teacher
    with pytest.raises(FloatingPointError) as caught:
        train(network(1), batches=data, teacher=asked)
    message = str(caught.value)
    assert message.startswith(f"step {step} (epoch 0, batch {step}): the loss is not finite (soft nan, hard ")
    assert "the teacher's logits are not finite on this batch" in message


def test_a_student_that_diverges_is_named_with_the_first_step_that_was_not_finite():
    by_hand, losses = without_batch_norm(1), []
    optimizer = SGD(by_hand.parameters(), lr=1e12)
    for epoch in range(3):
        for part in batches().epoch(epoch):
            losses.append(cross_entropy(by_hand(part.inputs), part.targets))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
    first = next(step for step, loss in enumerate(losses) if not loss.isfinite())
    with pytest.raises(
        FloatingPointError, match=rf"step {first} \(epoch {first // 4}, batch {first % 4}\)"
    ) as caught:
        train(
            without_batch_norm(1),
            objective=Supervised(),
            teacher=None,
            optimizer=lambda parameters: SGD(parameters, lr=1e12),
        )
    assert "the student's weights are no longer finite" in str(caught.value)
    assert "learning rate" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gradient_clip": 0.0}, "gradient_clip: got 0.0, expected a finite number above 0"),
        ({"gradient_clip": float("nan")}, "gradient_clip: got nan"),
        ({"patience": 2}, "patience: got 2 without validate"),
        (
            {"patience": 0, "validate": lambda net: 0.0},
            "patience: got 0, expected a whole number of at least 1",
        ),
        (
            {"teacher": CachedTeacher(torch.zeros(40, 5))},
            "teacher: got cached outputs of 40 examples, expected 50",
        ),
        (
            {
                "batches": batches(augment=lambda inputs, _: inputs),
                "teacher": CachedTeacher(torch.zeros(50, 5)),
            },
            "views",
        ),
        (
            {"teacher": CachedTeacher(torch.zeros(50, 7))},
            "teacher_logits: got 7 classes, expected the student's 5",
        ),
        ({"batches": batches(targets=torch.full((50,), 5))}, "targets: got values from 5 to 5"),
        (
            {"batches": batches(mask=torch.arange(50) < 20, batch_size=1)},
            r"mask: got False for all of batch \d",
        ),
        (
            {"teacher": NaNOn(batches().inputs[0, 0].item())},
            "teacher: its logits on the first examples are not finite",
        ),
    ],
)
def test_what_cannot_work_fails_before_the_first_step(changes, says, tmp_path):
    student = network(1)
    before = snapshot(student)["bytes"]
    with pytest.raises(ValueError, match=says):
        train(student, checkpoint=tmp_path / "state.pt", checkpoint_seconds=0, **changes)
    assert snapshot(student)["bytes"] == before
    assert list(tmp_path.iterdir()) == []


class OwnOrder(Batches):
    """Of which nobody knows beforehand what comes."""

    def epoch(self, number):
        yield from super().epoch(number)


def test_a_batch_of_which_nothing_counts_is_named_when_it_comes_where_that_was_not_to_be_known():
    counts = torch.zeros(50, dtype=torch.bool)
    (first, *_) = batches().epoch(0)
    counts[first.index] = True
    inputs, targets = batch(50)
    with pytest.raises(ValueError, match="mask: got False everywhere") as caught:
        train(network(1), batches=OwnOrder(inputs, targets, batch_size=16, seed=3, mask=counts))
    assert getattr(caught.value, "__notes__", []) in ([], ["in batch 1 of epoch 0, both counted from 0"])
    assert sys.version_info < (3, 11) or caught.value.__notes__


def test_a_batch_that_cannot_be_augmented_is_named():
    seen = []

    def augment(inputs, generator):
        seen.append(len(inputs))
        if len(seen) == 2:
            raise RuntimeError("no room")
        return inputs

    with pytest.raises(RuntimeError, match="no room") as caught:
        train(network(1), batches=batches(augment=augment))
    assert getattr(caught.value, "__notes__", []) in ([], ["in batch 1 of epoch 0, both counted from 0"])
    assert sys.version_info < (3, 11) or caught.value.__notes__


def test_a_refused_student_is_in_the_mode_that_it_came_in():
    student = network(1)
    with torch.no_grad():
        next(student.parameters()).fill_(torch.nan)
    before = snapshot(student)
    with pytest.raises(ValueError, match="student: its logits on the first examples are not finite"):
        train(student)
    assert student.training
    assert snapshot(student) == before


class MeanWhere(nn.Module):
    """Counts as on a GPU, where nobody looks whether anything does."""

    def forward(self, student, teacher, batch):
        mask = torch.ones_like(batch.targets, dtype=torch.bool) if batch.mask is None else batch.mask
        values = hard_target_loss(student.logits, batch.counted_targets)
        return {"hard": torch.where(mask, values, 0.0).sum() / mask.sum()}


def test_a_mean_over_nothing_is_no_mistake_of_the_students():
    inputs, targets = batch(50)
    data = OwnOrder(inputs, targets, batch_size=16, seed=3, mask=torch.zeros(50, dtype=torch.bool))
    with pytest.raises(
        FloatingPointError, match=r"batch 0.*mask is False everywhere, so nothing of the batch"
    ):
        train(network(1), objective=MeanWhere(), batches=data)


# How far it has come.


def test_off_a_terminal_progress_is_one_line_an_epoch(capsys):
    train(network(1), progress="student seed 1", validate=lambda net: 0.25)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split(" loss ")[0] for line in lines] == [f"student seed 1: epoch {n}/3" for n in (1, 2, 3)]
    assert all("loss/soft " in line and "validation 0.25" in line for line in lines)
    assert err == ""


def test_without_a_label_it_is_silent(capsys):
    train(network(1))
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_progress_is_a_bar(capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    train(network(1), progress="student seed 1")
    assert "student seed 1: 100%" in terminal.getvalue()
    assert capsys.readouterr().out == ""
