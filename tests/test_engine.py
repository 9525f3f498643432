"""The training loop: what it computes, what it leaves alone, and what it refuses."""

import io
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_networks import LanguageModel, WithFeatures, batch, network, snapshot
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

from kdrepro import Batches, HintonKD, Supervised, cache_teacher, fit, predict
from kdrepro.caching import CachedTeacher
from kdrepro.data.batches import Jitter
from kdrepro.models.mlp import max_norm_
from kdrepro.teacher import FrozenTeacher
from kdrepro.types import Batch, Outputs

OBJECTIVE = HintonKD(temperature=4.0, soft_weight=0.9)


def batches(count: int = 50, **changes) -> Batches:
    inputs, targets = batch(count)
    return Batches(**{"inputs": inputs, "targets": targets, "batch_size": 16, "seed": 3, **changes})


def sgd(parameters) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.9)


def train(student: nn.Module, **changes):
    """Three epochs of soft targets on the CPU in float32, with the `changes` of a test."""
    arguments = {
        "objective": OBJECTIVE,
        "batches": batches(),
        "teacher": network(0),
        "optimizer": sgd,
        "epochs": 3,
        "device": "cpu",
        "precision": "fp32",
    }
    return fit(student, **(arguments | changes))


def without_dropout(seed: int) -> nn.Sequential:
    net = network(seed)
    net[3].p = 0.0
    return net


def without_batch_norm(seed: int) -> nn.Sequential:
    net = without_dropout(seed)
    return nn.Sequential(net[0], net[2], net[4])


def hand_written(student: nn.Module, teacher: nn.Module, data: Batches, *, epochs: int, clip=None):
    """Hinton's soft targets as anybody would write them, without this package's losses and loop."""
    optimizer = sgd(student.parameters())
    steps, step = epochs * len(data), 0
    student.train()
    teacher.eval()
    terms: list[list[tuple[float, float]]] = []
    for epoch in range(epochs):
        terms.append([])
        for part in data.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - step / steps)
            logits = student(part.inputs)
            with torch.no_grad():
                wanted = log_softmax(teacher(part.inputs) / 4, dim=-1)
            soft = (
                0.9 * 16 * kl_div(log_softmax(logits / 4, -1), wanted, log_target=True, reduction="batchmean")
            )
            hard = (1 - 0.9) * cross_entropy(logits, part.targets)
            optimizer.zero_grad()
            (soft + hard).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(student.parameters(), clip)
            optimizer.step()
            terms[-1].append((soft.item(), hard.item()))
            step += 1
    return [[sum(each) / len(data) for each in zip(*epoch, strict=True)] for epoch in terms]


def falling(optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 1 - step / (3 * len(batches())))


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


@pytest.mark.parametrize("members", [1, 3])
def test_a_cached_teacher_teaches_as_the_teacher_itself(members):
    teacher = FrozenTeacher([network(seed) for seed in range(members)])
    students = [network(9), network(9)]
    cached = cache_teacher(teacher, batches(), temperature=4.0, device="cpu", precision="fp32")
    assert cached.logits.shape == (50, 5)
    curves = [
        train(student, teacher=each).curves for student, each in zip(students, (teacher, cached), strict=True)
    ]
    assert set(curves[0]) == set(curves[1])
    for name, curve in curves[0].items():
        assert curve == pytest.approx(curves[1][name], rel=1e-5)
    torch.testing.assert_close(students[0].state_dict(), students[1].state_dict())


def test_a_cache_is_looked_up_by_the_examples_positions():
    teacher = network(0).eval()
    cached = cache_teacher(teacher, batches(), device="cpu", precision="fp32")
    for part in batches().epoch(1):
        torch.testing.assert_close(cached.look_up(part).logits, teacher(part.inputs))
    with pytest.raises(ValueError, match=r"batch.index: got None"):
        cached.look_up(Batch(*batch(4)))


def test_a_student_among_several_teachers_is_refused():
    student = network(9)
    with pytest.raises(ValueError, match="student: got the same object as the teacher"):
        train(student, teacher=[student, network(1)])


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


class Watching(nn.Module):
    """Says what kinds of number pass through the objective."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[torch.dtype, ...]] = set()

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch):
        terms = OBJECTIVE(student, teacher, batch)
        if student.logits.requires_grad:
            self.seen.add(
                (student.logits.dtype, teacher.logits.dtype, *(each.dtype for each in terms.values()))
            )
        return terms


def test_in_bf16_the_nets_are_and_the_losses_and_weights_are_not():
    objective, student = Watching(), network(1)
    history = train(student, objective=objective, precision="bf16")
    assert objective.seen == {(torch.bfloat16, torch.bfloat16, torch.float32, torch.float32)}
    assert {value.dtype for value in student.parameters()} == {torch.float32}
    full = train(network(1)).curves["loss"]
    assert history.curves["loss"] != full
    assert history.curves["loss"] == pytest.approx(full, rel=0.05)


def convolutional() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
        )


def test_a_student_of_images_runs_with_channels_last_and_learns_the_same():
    random_numbers = torch.Generator().manual_seed(0)
    images = torch.randn(50, 3, 6, 6, generator=random_numbers)
    data = batches(inputs=images)
    ours, by_hand = convolutional(), convolutional()
    train(ours, batches=data, schedule=falling, teacher=nn.Sequential(nn.Flatten(), network(0, inputs=108)))
    assert ours[0].weight.is_contiguous(memory_format=torch.channels_last)
    hand_written(by_hand, nn.Sequential(nn.Flatten(), network(0, inputs=108)), data, epochs=3)
    torch.testing.assert_close(ours.state_dict(), by_hand.state_dict(), rtol=1e-4, atol=1e-5)


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


def test_predictions_are_those_of_eval_mode_and_leave_the_modes_as_they_were():
    net, (inputs, _) = network(0).train(), batch(25)
    net[1].eval()
    before = snapshot(net)
    logits = predict(net, inputs, batch_size=7, device="cpu")
    assert snapshot(net) == before
    assert (logits.dtype, logits.device.type, logits.requires_grad) == (torch.float32, "cpu", False)
    torch.testing.assert_close(logits, net.eval()(inputs))
    torch.testing.assert_close(predict(FrozenTeacher(net), inputs, device="cpu"), logits)
    half = predict(net, inputs, device="cpu", precision="bf16")
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, logits, rtol=0.05, atol=0.05)


def test_a_net_that_fails_has_its_mode_back():
    net = network(0).train()
    with pytest.raises(RuntimeError, match="shape"):
        predict(net, torch.zeros(3, 9), device="cpu")
    assert net.training


PROCESSES = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from accelerate import PartialState
from test_engine import batches, falling, train, without_batch_norm
student = without_batch_norm(1)
history = train(student, schedule=falling, gradient_clip=0.5, checkpoint=sys.argv[2] + "/state.pt")
state = PartialState()
assert state.num_processes == 2
torch.save(student.state_dict(), f"{sys.argv[2]}/{state.process_index}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    alone = without_batch_norm(1)
    train(alone, schedule=falling, gradient_clip=0.5)
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    # `accelerate launch` starts this for several GPUs; for several processes on one CPU it wants MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), os.path.dirname(__file__), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for process in range(2):
        shared = torch.load(tmp_path / f"{process}.pt", weights_only=True)
        torch.testing.assert_close(shared, alone.state_dict(), rtol=1e-5, atol=1e-6)


def test_other_optimizers_work_as_they_are():
    student, by_hand = without_dropout(1), without_dropout(1)
    train(student, objective=Supervised(), teacher=None, optimizer=lambda p: AdamW(p, lr=0.01), epochs=1)
    optimizer = AdamW(by_hand.parameters(), lr=0.01)
    for part in batches().epoch(0):
        optimizer.zero_grad()
        cross_entropy(by_hand(part.inputs), part.targets).backward()
        optimizer.step()
    torch.testing.assert_close(student.state_dict(), by_hand.state_dict())
