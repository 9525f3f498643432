"""The training loop: what it computes, and what it leaves alone."""

import random

import numpy as np
import pytest
import torch
from small_networks import LanguageModel, WithFeatures, network, snapshot
from small_trainings import batches, falling, hand_written, train, without_dropout
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW

from kdrepro import Batches, HintonKD, Supervised, fit
from kdrepro.data.batches import Jitter
from kdrepro.models.mlp import max_norm_
from kdrepro.teacher import FrozenTeacher, mean_of_softened
from kdrepro.types import Batch, Outputs


@pytest.mark.parametrize("clip", [None, 0.5])
def test_it_trains_as_a_loop_written_by_hand(clip):
    ours, by_hand = without_dropout(1), without_dropout(1)
    history = train(ours, schedule=falling, gradient_clip=clip)
    terms = hand_written(by_hand, network(0), batches(), epochs=3, clip=clip)
    torch.testing.assert_close(ours.state_dict(), by_hand.state_dict())
    assert history.curves["loss/soft"] == pytest.approx([soft for soft, _ in terms])
    assert history.curves["loss/hard"] == pytest.approx([hard for _, hard in terms])
    assert history.curves["loss"] == pytest.approx([soft + hard for soft, hard in terms])
    assert history.curves["learning_rate"] == pytest.approx([0.1 * (1 - epoch / 3) for epoch in (1, 2, 3)])
    assert (history.epochs, history.best_epoch) == (3, None)
    assert set(history.curves) == {"loss", "loss/soft", "loss/hard", "learning_rate"}


def test_clipping_at_0_5_makes_a_difference():
    free, clipped = without_dropout(1), without_dropout(1)
    train(free)
    train(clipped, gradient_clip=0.5)
    assert not torch.allclose(free[0].weight, clipped[0].weight)


class Shrinks(nn.Module):
    """Two terms, and a weight of its own that one of them moves."""

    def __init__(self) -> None:
        super().__init__()
        self.regressor = nn.Linear(8, 12)
        with torch.no_grad():
            self.regressor.weight.fill_(0.1)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch):
        apart = self.regressor(student.features["hidden"]) - teacher.features["hidden"]
        return {"hint": apart.square().mean(), "hard": cross_entropy(student.logits, batch.targets)}


def test_the_objectives_own_parameters_train_along_and_none_of_the_teachers():
    torch.manual_seed(0)
    student, teacher, objective = WithFeatures(), WithFeatures(width=12), Shrinks()
    given: list[nn.Parameter] = []

    def remembering(parameters):
        given.extend(parameters)
        return SGD(given, lr=0.1)

    regressor = objective.regressor.weight.detach().clone()
    before = snapshot(teacher)["bytes"]
    history = train(student, objective=objective, teacher=teacher, optimizer=remembering, epochs=6)
    assert {id(each) for each in given} == {
        id(each) for each in [*student.parameters(), *objective.parameters()]
    }
    assert not torch.equal(objective.regressor.weight, regressor)
    assert history.curves["loss/hint"][-1] < history.curves["loss/hint"][0]
    assert snapshot(teacher)["bytes"] == before


def test_frozen_parts_of_the_student_stay():
    student = network(1)
    student[0].requires_grad_(False)
    before = student[0].weight.clone()
    train(student)
    assert torch.equal(student[0].weight, before)


def modes_of(net: nn.Module) -> list[bool]:
    seen: list[bool] = []
    net.register_forward_pre_hook(
        lambda module, _: seen.append(all(each.training for each in module.modules()))
    )
    return seen


@pytest.mark.parametrize("wake", [False, True])
def test_the_teacher_is_asked_in_eval_mode_and_is_bitwise_unchanged(wake):
    teacher = network(0).train()
    before, asked = snapshot(teacher), modes_of(teacher)
    train(network(1), teacher=teacher, after_step=lambda student: teacher.train() if wake else None)
    after = snapshot(teacher)
    assert after["bytes"] == before["bytes"]
    assert after["gradients"] == before["gradients"]
    assert after["requires_grad"] == before["requires_grad"]
    assert len(asked) >= 3 * len(batches())
    assert not any(asked)


def test_the_student_is_in_train_mode_at_every_step_and_in_eval_mode_when_validated():
    student = network(1).eval()
    at_steps: list[bool] = []
    at_validation: list[bool] = []

    def validate(net: nn.Module) -> float:
        at_validation.append(any(each.training for each in net.modules()))
        return 0.0

    def after_step(net: nn.Module) -> None:
        at_steps.append(all(each.training for each in net.modules()))

    train(student, validate=validate, after_step=after_step)
    assert at_steps == [True] * 3 * len(batches())
    assert at_validation == [False] * 3


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([3.0, 1.0, 2.0, 1.5, 1.2], None, 5, 1),
        ([3.0, 1.0, 2.0, 1.5, 0.5], 2, 4, 1),
        ([3.0, 1.0, 2.0, 0.5, 0.7], 2, 5, 3),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 3, 4, 0),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 1, 5, 4),
        ([float("nan"), 4.0, 5.0, float("nan"), 3.0], None, 5, 4),
    ],
)
def test_validation_keeps_the_best_weights_and_patience_stops(values, patience, epochs, best):
    student, seen = network(1), []

    def validate(net: nn.Module) -> float:
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        return values[len(seen) - 1]

    history = train(student, validate=validate, patience=patience, epochs=5)
    assert (history.epochs, history.best_epoch) == (epochs, best)
    assert history.curves["validation"] == pytest.approx(values[:epochs], nan_ok=True)
    torch.testing.assert_close(student.state_dict(), seen[best], rtol=0, atol=0)


def test_after_step_is_called_with_the_student_after_each_step():
    student, called = network(1), []

    def constrain(net: nn.Module) -> None:
        called.append(net is student)
        max_norm_(net, limit=0.3)

    train(student, after_step=constrain)
    assert called == [True] * 3 * len(batches())
    assert student[0].weight.norm(dim=1).max() <= 0.3 + 1e-6


class Drawing(Supervised):
    """An objective that draws numbers, as one that permutes the teacher does."""

    def forward(self, student, teacher, batch):
        return {"hard": super().forward(student, teacher, batch)["hard"] * (1 + torch.rand(()))}


def test_no_random_state_of_the_caller_is_touched_or_used():
    trained = []
    for seed in (1, 2):
        for seeding in (torch.manual_seed, np.random.seed, random.seed):
            seeding(seed)
        student = network(1)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        train(student, objective=Drawing(), validate=lambda net: torch.rand(()).item())
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
        trained.append(student.state_dict())
    torch.testing.assert_close(*trained, rtol=0, atol=0)


def test_another_seed_of_the_batches_is_another_run():
    students = [network(1), network(1)]
    for seed, student in enumerate(students):
        train(student, batches=batches(seed=seed))
    assert not torch.allclose(students[0][0].weight, students[1][0].weight)


def test_augmented_inputs_are_seen_by_student_and_teacher_alike():
    images = torch.randn(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    student = nn.Sequential(nn.Flatten(), network(1, inputs=36))
    teacher = nn.Sequential(nn.Flatten(), network(0, inputs=36))
    seen: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    for name, net in (("student", student), ("teacher", teacher)):
        net.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0].clone()))
    data = Batches(images, torch.zeros(20, dtype=torch.int64), batch_size=5, seed=0, augment=Jitter(pixels=2))
    train(student, batches=data, teacher=teacher, epochs=2)
    student_saw, teacher_saw = (each[-2 * len(data) :] for each in seen.values())
    assert all(torch.equal(one, other) for one, other in zip(student_saw, teacher_saw, strict=True))
    assert not torch.equal(student_saw[0], student_saw[len(data)])


def test_padding_needs_no_class_and_teaches_nothing():
    torch.manual_seed(0)
    words = torch.randint(7, (12, 6), generator=torch.Generator().manual_seed(1))
    targets = words.roll(-1, dims=1)
    mask = torch.arange(6) < torch.randint(2, 6, (12, 1), generator=torch.Generator().manual_seed(2))
    student, same, teacher = LanguageModel(), LanguageModel(), LanguageModel()
    same.load_state_dict(student.state_dict())
    for net, padding in ((student, -100), (same, 3)):
        data = Batches(words, targets.masked_fill(~mask, padding), batch_size=4, seed=0, mask=mask)
        train(net, batches=data, teacher=teacher)
    torch.testing.assert_close(student.state_dict(), same.state_dict(), rtol=0, atol=0)


def test_other_optimizers_work_as_they_are():
    student, by_hand = without_dropout(1), without_dropout(1)
    train(student, objective=Supervised(), teacher=None, optimizer=lambda p: AdamW(p, lr=0.01), epochs=1)
    optimizer = AdamW(by_hand.parameters(), lr=0.01)
    for part in batches().epoch(0):
        optimizer.zero_grad()
        cross_entropy(by_hand(part.inputs), part.targets).backward()
        optimizer.step()
    torch.testing.assert_close(student.state_dict(), by_hand.state_dict())


class Viewing(nn.Module):
    """Flattens as the classic LeNet does, which a tensor with its channels last refuses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4 * 4 * 4, 3)

    def forward(self, inputs):
        seen = self.conv(inputs).relu()
        return self.head(seen.view(len(inputs), -1))


class Volumes(Viewing):
    """Holds a weight of five dimensions, which has no such order."""

    def __init__(self):
        super().__init__()
        self.extra = nn.Conv3d(1, 1, 3)

    def forward(self, inputs):
        return super().forward(inputs) + 0 * self.extra(inputs[:, :, None].expand(-1, -1, 3, -1, -1)).mean()


@pytest.mark.parametrize("make", [Viewing, Volumes])
def test_a_net_that_wants_its_channels_first_trains_as_by_hand(make):
    inputs, targets = torch.randn(8, 1, 6, 6), torch.randint(3, (8,))
    student, by_hand = make(), make()
    optimizer = SGD(by_hand.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(by_hand(inputs), targets).backward()
        optimizer.step()
    fit(
        student,
        Supervised(),
        Batches(inputs, targets, batch_size=8, seed=0),
        optimizer=lambda parameters: SGD(parameters, lr=0.1),
        epochs=3,
        device="cpu",
        precision="fp32",
    )
    for name, value in student.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name], msg=name)
    assert student(inputs).shape == (8, 3)


@pytest.mark.parametrize("fails", [False, True])
def test_weights_come_back_in_the_order_in_memory_that_they_had(fails):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))
    orders = []

    def after_step(net):
        orders.append(net[0].weight.is_contiguous())
        if fails:
            raise KeyboardInterrupt

    def run():
        fit(
            student,
            Supervised(),
            Batches(torch.randn(8, 2, 6, 6), torch.randint(3, (8,)), batch_size=8, seed=0),
            optimizer=lambda parameters: SGD(parameters, lr=0.1),
            epochs=1,
            device="cpu",
            precision="fp32",
            after_step=after_step,
        )

    if fails:
        with pytest.raises(KeyboardInterrupt):
            run()
    else:
        run()
    assert orders == [False]
    assert all(value.is_contiguous() for value in student.state_dict().values())


class Annealed(HintonKD):
    """Falls from temperature 8 to 1 in the second epoch, and notes what an ensemble says."""

    def __init__(self):
        super().__init__(temperature=8.0, soft_weight=1.0)
        self.told = []

    def start_epoch(self, epoch):
        self.temperature = 8.0 if epoch == 0 else 1.0

    def forward(self, student, teacher, batch):
        # Not of the trial of the first two examples.
        if len(batch.targets) > 2:
            self.told.append((self.temperature, batch.inputs, teacher.logits))
        return super().forward(student, teacher, batch)


def test_an_ensemble_is_averaged_at_the_temperature_of_the_epoch():
    teachers = [network(seed, classes=3).eval() for seed in (1, 2)]
    objective = Annealed()
    fit(
        network(3, classes=3),
        objective,
        Batches(5 * torch.randn(8, 4), torch.randint(3, (8,)), batch_size=8, seed=0),
        optimizer=lambda parameters: SGD(parameters, lr=0.1),
        epochs=2,
        teacher=FrozenTeacher(teachers),
        device="cpu",
        precision="fp32",
    )
    assert [temperature for temperature, *_ in objective.told] == [8.0, 1.0]
    for temperature, inputs, logits in objective.told:
        expected = mean_of_softened([each(inputs) for each in teachers], temperature=temperature)
        torch.testing.assert_close(logits, expected.detach())
