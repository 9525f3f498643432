"""Steps that are recorded on a GPU and replayed: without one, on a recorder that repeats the work itself."""

import contextlib
from typing import ClassVar

import pytest
import torch
from small_networks import network
from small_trainings import train
from torch import Tensor, nn

from kdrepro.training.cuda_graphs import Replay, _parts, _whole, copied
from kdrepro.types import Batch, Outputs


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
        (own,) = (each for each in Recorder.replay_of.recordings.values() if each.graph is self)
        own.found.copy_(Recorder.replay_of.work(*_whole(own.given)))


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
        "mem_get_info": lambda _: (1, 1),
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


def test_each_shape_that_comes_twice_has_a_recording(recorder):
    replay = replay_of(total)
    sizes = (4, 4, 4, 3, 4, 3, 5, 4, 3, 3)
    found = [(replay(examples(1.0 + step, size), None).item()) for step, size in enumerate(sizes)]
    assert found == [2 * size * (1 + step) for step, size in enumerate(sizes)]
    assert {shapes[0][1][0] for shapes in replay.recordings} == {4, 3}
    # All in the memory of the first.
    assert recorder.pools == [None, 1]


def test_without_memory_left_further_shapes_are_worked_through(recorder, monkeypatch):
    replay = replay_of(total)
    counts = []
    for size, free in ((2, 2), (2, 2), (2, 2), (2, 2), (3, 2), (3, 1), (2, 1), (3, 1), (3, 2)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10))
        assert replay(examples(1.0, size), None).item() == 2 * size
        counts.append(recorder.recorded)
    assert counts == [0, 0, 0, 1, 1, 1, 1, 1, 2]


def test_what_comes_in_is_put_into_room_for_all_that_grows(recorder):
    replay = replay_of(total)
    for size in (4, 4, 4, 4, 3, 3, 6, 6, 7, 7):
        replay(examples(1.0, size), None)
    rooms = [recording.given["inputs"] for recording in replay.recordings.values()]
    assert [len(room) for room in rooms] == [4, 3, 6, 7]
    places = [room.data_ptr() for room in rooms]
    # The room for six is twice as large, so that seven find theirs.
    assert (places[0] == places[1], places[1] == places[2], places[2] == places[3]) == (True, False, True)


def test_room_has_the_order_in_memory_of_what_comes_in(recorder):
    replay = replay_of(lambda batch, _: batch.inputs.sum())
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    for factor in range(5):
        batch = Batch(images * factor, torch.zeros(2, dtype=torch.int64))
        assert replay(batch, None).item() == pytest.approx((images * factor).sum().item())
    (recording,) = replay.recordings.values()
    assert recording.given["inputs"].stride() == images.stride()


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
    for inputs in (batch.inputs, {"source": batch.inputs, "previous": batch.targets}):
        bare = Batch(inputs, batch.targets)
        assert _whole(_parts(bare, None)) == (bare, None)


def test_inputs_by_name_are_replayed(recorder):
    replay = replay_of(lambda batch, taught: batch.inputs["a"].sum() - batch.inputs["b"].sum())
    for step in range(6):
        inputs = {"a": torch.full((2,), float(step)), "b": torch.ones(3)}
        assert replay(Batch(inputs, torch.zeros(2, dtype=torch.int64)), None).item() == 2 * step - 3
    assert recorder.recorded == 1


def test_gradients_are_copied_to_one_place_but_for_those_that_are_none():
    rooms = [torch.zeros(2), torch.zeros(3), torch.zeros(1)]
    found = copied([torch.ones(2), None, torch.full((1,), 2.0)], into=rooms)
    assert found[1] is None
    assert (found[0] is rooms[0], found[2] is rooms[2]) == (True, True)
    assert [room.tolist() for room in rooms] == [[1, 1], [0, 0, 0], [2]]


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
