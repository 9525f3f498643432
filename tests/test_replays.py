"""Steps that are recorded on a GPU and replayed: without one, on a recorder that repeats the work itself."""

import contextlib
from typing import ClassVar

import pytest
import torch
from small_networks import WithFeatures, network
from small_trainings import batches, train
from torch import Tensor, nn

from kdrepro import AttentionTransfer, Batches, Supervised, Taps, cache_teacher, fit
from kdrepro.data.batches import CropFlip
from kdrepro.engine import fit_cohort
from kdrepro.members import Member
from kdrepro.methods.fitnets import FitNetKD, HintStage, JointFitNet
from kdrepro.models.wide_resnet import WideResNet
from kdrepro.replays import Replay, _parts, _whole
from kdrepro.teacher import FrozenTeacher
from kdrepro.types import Batch, Outputs

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Recorder:
    """In the place of a CUDA graph: holds the work on its own copies, and does it again."""

    replay_of: Replay
    recorded = 0
    pools: ClassVar[list] = []

    def capture_begin(self, pool=None):
        Recorder.recorded += 1
        Recorder.pools.append(pool)

    def pool(self):
        return Recorder.recorded

    def capture_end(self):
        pass

    def replay(self):
        replay = Recorder.replay_of
        taught = Outputs(replay.given["logits"]) if "logits" in replay.given else None
        replay.found.copy_(replay.work(Batch(replay.given["inputs"], replay.given["targets"]), taught))


class Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


@pytest.fixture
def recorder(monkeypatch):
    for name, value in {
        "CUDAGraph": Recorder,
        "Stream": Stream,
        "stream": lambda _: contextlib.nullcontext(),
        "current_stream": Stream,
        "synchronize": lambda _: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(Recorder, "recorded", 0)
    monkeypatch.setattr(Recorder, "pools", [])
    return Recorder


def replay_of(work, **state) -> Replay:
    Recorder.replay_of = Replay(work, torch.device("cpu"), **state)
    return Recorder.replay_of


def examples(value: float, count: int = 4) -> Batch:
    return Batch(torch.full((count, 2), value), torch.arange(count))


def total(batch: Batch, taught: Outputs | None) -> Tensor:
    return batch.inputs.sum() + (0 if taught is None else taught.logits.sum())


def test_the_first_batches_are_worked_through_and_then_one_is_recorded(recorder):
    replay = replay_of(total)
    for step in range(6):
        assert replay(examples(step), None).item() == 8 * step
        assert recorder.recorded == (step >= 3)


def test_what_is_replayed_is_the_batch_and_the_teacher_that_it_is_given(recorder):
    replay = replay_of(total)
    for step in range(6):
        assert replay(examples(step), Outputs(torch.full((4, 3), 10.0 + step))).item() == 20 * step + 120


def test_a_batch_of_another_shape_is_worked_through(recorder):
    replay = replay_of(total)
    sizes = (4, 4, 4, 3, 4, 3, 4)
    found = [(replay(examples(1.0, size), None).item(), recorder.recorded) for size in sizes]
    assert found == [(2 * size, step > 3) for step, size in enumerate(sizes)]


def test_what_was_forgotten_is_recorded_anew(recorder):
    factor = 1.0
    replay = replay_of(lambda batch, taught: batch.inputs.sum() * factor)
    for _ in range(5):
        replay(examples(1.0), None)
    factor = 2.0
    replay.forget()
    assert replay(examples(1.0), None).item() == 16
    # The second recording takes the memory of the first, so that their number costs none.
    assert recorder.pools == [None, 1]


def test_weights_that_were_moved_are_recorded_anew(recorder):
    weight = torch.tensor(1.0)
    replay = replay_of(lambda batch, taught: batch.inputs.sum() * weight, fixed=[weight])
    for _ in range(5):
        replay(examples(1.0), None)
    weight.copy_(2.0)
    replay(examples(1.0), None)
    assert recorder.recorded == 1
    weight.data = torch.tensor(3.0)
    assert replay(examples(1.0), None).item() == 24
    assert recorder.recorded == 2


def test_a_step_that_puts_a_new_tensor_in_the_place_of_a_buffer_is_refused(recorder):
    net = nn.BatchNorm1d(2)

    def work(batch, taught):
        net.running_mean = net.running_mean + 1
        return batch.inputs.sum()

    replay = replay_of(work, state=net.buffers)
    for _ in range(3):
        replay(examples(1.0), None)
    with pytest.raises(RuntimeError, match="cuda_graphs: a step puts new tensors in the place of"):
        replay(examples(1.0), None)


def test_what_is_taken_apart_is_put_together_again():
    mask, index = torch.tensor([True, False]), torch.tensor([4, 2])
    batch = Batch(torch.rand(2, 3), torch.tensor([0, 1]), mask, index)
    taught = Outputs(torch.rand(2, 5), {"a": torch.rand(2, 4), "b.c": torch.rand(2, 1)})
    for given in (taught, None):
        assert _whole(_parts(batch, given)) == (batch, given)
    bare = Batch(batch.inputs, batch.targets)
    assert _whole(_parts(bare, None)) == (bare, None)


def test_inputs_by_name_are_worked_through(recorder):
    replay = replay_of(lambda batch, taught: batch.inputs["a"].sum())
    for step in range(6):
        batch = Batch({"a": torch.full((2,), float(step))}, torch.zeros(2, dtype=torch.int64))
        assert replay(batch, None).item() == 2 * step
    assert recorder.recorded == 0


def test_work_that_cannot_be_recorded_is_an_error_that_says_so(recorder, monkeypatch):
    def end(self):
        raise RuntimeError("operation failed due to a previous error during capture")

    def waits(batch, taught):
        if recorder.recorded:
            raise RuntimeError("operation not permitted when stream is capturing")
        return total(batch, taught)

    replay = replay_of(waits)
    for _ in range(3):
        replay(examples(1.0), None)
    monkeypatch.setattr(Recorder, "capture_end", end)
    with pytest.raises(
        RuntimeError, match=r"cuda_graphs: .* not be recorded \(operation not permitted .*Train without"
    ):
        replay(examples(1.0), None)


def test_on_a_cpu_it_does_nothing():
    students = [network(1), network(1)]
    curves = [
        train(student, cuda_graphs=graphs).curves
        for student, graphs in zip(students, (False, True), strict=True)
    ]
    assert curves[0] == curves[1]
    assert all(
        torch.equal(one, other) for one, other in zip(*(each.parameters() for each in students), strict=True)
    )


def trained_alike(made, *, exact: bool = True) -> None:
    """`made(cuda_graphs)` trains and returns histories and students; both ways have to give the same."""
    replayed = 0
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph):
        nonlocal replayed
        replayed += 1
        replay(graph)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda.CUDAGraph, "replay", counted)
        histories, students = made(False)
        assert replayed == 0
        others, other_students = made(True)
        assert replayed > 5
    for one, other in zip(histories, others, strict=True):
        for name, curve in one.curves.items():
            assert other.curves[name] == (curve if exact else pytest.approx(curve, rel=1e-3))
    for one, other in zip(students, other_students, strict=True):
        for (name, value), found in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(
                found, value, rtol=0 if exact else 1e-2, atol=0 if exact else 1e-3, msg=name
            )


@needs_cuda
def test_dropout_batchnorm_and_a_rest_give_the_same_numbers():
    def made(graphs):
        student = network(1)
        history = train(student, device="cuda", batches=batches(150), cuda_graphs=graphs, gradient_clip=0.5)
        return [history], [student]

    trained_alike(made)


@needs_cuda
def test_an_objective_that_changes_from_epoch_to_epoch_gives_the_same_numbers():
    def made(graphs):
        student, data = network(1), batches(150)
        objective = FitNetKD(temperature=3.0, soft_weight=4.0, final_soft_weight=1.0, decay_epochs=2)
        taught = cache_teacher(FrozenTeacher(network(0)), data, device="cuda")
        history = train(
            student, objective=objective, teacher=taught, device="cuda", batches=data, cuda_graphs=graphs
        )
        return [history], [student]

    trained_alike(made)


@needs_cuda
def test_a_cohort_under_a_tapped_teacher_on_augmented_images_gives_the_same_numbers():
    random = torch.Generator().manual_seed(0)
    images, classes = (
        torch.randn(200, 3, 32, 32, generator=random),
        torch.randint(10, (200,), generator=random),
    )
    groups = {name: name for name in ("group0", "group1", "group2")}

    def net(seed, width=1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return WideResNet(10, width, in_channels=3)

    def made(graphs):
        students = [net(1), net(2)]
        objectives = [AttentionTransfer(list(groups), attention_weight=100.0, form="code"), Supervised()]
        histories = fit_cohort(
            [
                Member(
                    student=Taps(student, groups),
                    objective=objective,
                    optimizer=lambda each: torch.optim.SGD(each, lr=0.05, momentum=0.9, fused=True),
                )
                for student, objective in zip(students, objectives, strict=True)
            ],
            Batches(images, classes, batch_size=32, seed=0, augment=CropFlip()),
            teacher=FrozenTeacher(Taps(net(0, 2), groups)),
            epochs=3,
            device="cuda",
            precision="fp32",
            cuda_graphs=graphs,
        )
        return histories, students

    torch.backends.cudnn.deterministic, before = True, torch.backends.cudnn.deterministic
    try:
        trained_alike(made, exact=False)
    finally:
        torch.backends.cudnn.deterministic = before


@needs_cuda
def test_an_objective_that_waits_for_a_value_is_refused():
    class Waits(nn.Module):
        def forward(self, student, teacher, batch):
            loss = student.logits.square().mean()
            return {"loss": loss if loss.item() > 0 else 2 * loss}

    with pytest.raises(RuntimeError, match="cuda_graphs: a step could not be recorded"):
        train(network(1), objective=Waits(), device="cuda", batches=batches(150), cuda_graphs=True)


@needs_cuda
def test_features_of_a_network_itself_are_replayed_too():
    def made(graphs):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            teacher, student, bridge = WithFeatures(), WithFeatures(), nn.Linear(8, 8)
        hints = HintStage(bridge, student_tap="hidden", teacher_tap="hidden")
        history = fit(
            student,
            JointFitNet(hints, Supervised(), hint_weight=1.0),
            batches(150),
            teacher=teacher,
            optimizer=lambda each: torch.optim.RMSprop(each, lr=0.01),
            epochs=3,
            device="cuda",
            precision="fp32",
            cuda_graphs=graphs,
        )
        return [history], [student]

    trained_alike(made)
