"""What is computed another way ends the same, or in bfloat16 nearly: cached teachers, channels last, two processes."""

import os
import subprocess
import sys

import pytest
import torch
from small_networks import batch, network, snapshot
from small_objectives import OBJECTIVE
from small_trainings import (
    batches,
    falling,
    hand_written,
    train,
    train_translator,
    translator,
    without_batch_norm,
)
from torch import nn

from kdrepro import cache_teacher, predict
from kdrepro.teacher import FrozenTeacher
from kdrepro.types import Batch, Outputs

# Training.


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
    orders = set()
    train(
        ours,
        batches=data,
        schedule=falling,
        teacher=nn.Sequential(nn.Flatten(), network(0, inputs=108)),
        after_step=lambda net: orders.add(net[0].weight.is_contiguous(memory_format=torch.channels_last)),
    )
    assert orders == {True}
    hand_written(by_hand, nn.Sequential(nn.Flatten(), network(0, inputs=108)), data, epochs=3)
    torch.testing.assert_close(ours.state_dict(), by_hand.state_dict(), rtol=1e-4, atol=1e-5)


PROCESSES = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from accelerate import PartialState
from small_trainings import falling, train, train_translator, translator, without_batch_norm
student, writer = without_batch_norm(1), translator()
from kdrepro.methods.fitnets import HintStage
from kdrepro.taps import Taps
from small_networks import network
from small_trainings import batches
judge = {"validate": lambda net: net(batches().inputs).square().mean().item(), "patience": 1, "epochs": 6}
judged = train(network(2), batches=batches(48), **judge)
teacher, guided = (Taps(without_batch_norm(seed), {"hidden": "0"}) for seed in (0, 1))
hint = HintStage(torch.nn.Linear(8, 8), student_tap="hidden", teacher_tap="hidden")
train(guided, objective=hint, teacher=teacher)
history = train(student, schedule=falling, gradient_clip=0.5, checkpoint=sys.argv[2] + "/state.pt")
words = train_translator(writer)
state = PartialState()
assert state.num_processes == 2
for name, net in {"student": student, "translator": writer}.items():
    torch.save(net.state_dict(), f"{sys.argv[2]}/{name}{state.process_index}.pt")
torch.save([history.curves, words.curves], f"{sys.argv[2]}/curves{state.process_index}.pt")
torch.save([judged.curves["validation"], judged.best_epoch], f"{sys.argv[2]}/judged{state.process_index}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    alone = {"student": without_batch_norm(1), "translator": translator()}
    curves = [
        train(alone["student"], schedule=falling, gradient_clip=0.5).curves,
        train_translator(alone["translator"]).curves,
    ]
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
    judged = [torch.load(tmp_path / f"judged{process}.pt", weights_only=True) for process in range(2)]
    assert judged[0] == judged[1]
    for process in range(2):
        for name, net in alone.items():
            shared = torch.load(tmp_path / f"{name}{process}.pt", weights_only=True)
            torch.testing.assert_close(shared, net.state_dict(), rtol=1e-5, atol=1e-6)
        told = torch.load(tmp_path / f"curves{process}.pt", weights_only=True)
        assert told == [
            {name: pytest.approx(curve, rel=1e-4) for name, curve in each.items()} for each in curves
        ]


# Predictions.


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
