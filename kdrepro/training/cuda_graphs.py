"""Work that is the same for every batch, recorded on a GPU as CUDA graphs and replayed from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from kdrepro.types import Batch, Outputs

T = TypeVar("T")
Work = Callable[[Batch, "Outputs | None"], T]
# Of each part of a batch its name, shape and type.
Shapes = tuple[tuple[str, torch.Size, torch.dtype], ...]

# What torch and CUDA's libraries set up when they are first used cannot be recorded.
_FIRST_STEPS = 3
# A recording takes some kilobytes of the GPU's memory for each kernel. Where less than this part of it is left free,
# batches of further shapes are worked through.
_LEFT_FREE = 1 / 8


@dataclass
class _Recording(Generic[T]):
    """A graph, what it reads and what it writes."""

    graph: torch.cuda.CUDAGraph
    given: dict[str, Tensor]
    found: T


class Replay(Generic[T]):
    """`work(batch, taught)`, whose kernels are launched one by one for the first batches, and at once after them.

    Batches of each shape have a recording of their own, made when there is a second one of it and memory left for it.
    Only what is on the GPU is repeated: numbers and choices of Python's are those of the batch that was recorded, until
    `forget`. `state` are the tensors that the work reads and changes in place, `fixed` those of them that are looked at
    before each replay: where one lies elsewhere than at the recording, the work is recorded anew. What it returns is
    overwritten by the next call. All recordings compute in the same memory, but each keeps what the work returns.

    Raises `RuntimeError` where the work cannot be recorded: where it waits for a value from the GPU, for instance, or
    puts a new tensor in the place of one of its state.
    """

    def __init__(
        self,
        work: Work[T],
        device: torch.device,
        *,
        state: Callable[[], Iterable[Tensor]] = tuple,
        fixed: Sequence[Tensor] = (),
    ) -> None:
        self.work, self.device, self.state, self.fixed = work, device, state, fixed
        # One for all: parts of autograd stay on the stream that they were made on.
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.worked = 0
        self.seen: set[Shapes] = set()
        self.recordings: dict[Shapes, _Recording[T]] = {}
        self.places: list[int] = []
        # Of every part of a batch, room for the largest so far, and one graph, whose memory the next ones share.
        self.rooms: dict[str, Tensor] = {}
        self.latest: torch.cuda.CUDAGraph | None = None

    def forget(self) -> None:
        """Drop what is recorded: it is recorded anew."""
        self.recordings = {}

    def __call__(self, batch: Batch, taught: Outputs | None) -> T:
        given = _parts(batch, taught)
        shapes = _shapes(given)
        if self.recordings and self.places != _places(self.fixed):
            self.forget()
        self.worked += 1
        recording = self.recordings.get(shapes)
        if recording is None:
            known = shapes in self.seen
            self.seen.add(shapes)
            if self.worked <= _FIRST_STEPS or not known or not self._has_room():
                return self._work(batch, taught)
            recording = self.recordings[shapes] = self._record(given)
        for name, value in recording.given.items():
            value.copy_(given[name])
        recording.graph.replay()
        return recording.found

    def _work(self, batch: Batch, taught: Outputs | None) -> T:
        before = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(before)
        with torch.cuda.stream(self.stream):
            found = self.work(batch, taught)
        before.wait_stream(self.stream)
        return found

    def _record(self, given: dict[str, Tensor]) -> _Recording[T]:
        inside = {name: self._room(name, value) for name, value in given.items()}
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        before = _places(self.state())
        try:
            with torch.cuda.stream(self.stream):
                # In the memory of the last one, which is not at work at the same time.
                graph.capture_begin(pool=self.latest.pool() if self.latest is not None else None)
                try:
                    found = self.work(*_whole(inside))
                finally:
                    graph.capture_end()
            # The state of the random numbers, which all recordings share, is written on both streams.
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        except RuntimeError as error:
            raise RuntimeError(
                f"cuda_graphs: a step could not be recorded ({error.__context__ or error}); expected a student, a "
                "teacher and an objective that never wait for a value from the GPU or copy one there (item, nonzero, "
                "an index by a mask, torch.tensor). Train without it, in a new process"
            ) from error
        if _places(self.state()) != before:
            raise RuntimeError(
                "cuda_graphs: a step puts new tensors in the place of parameters or buffers, expected one that changes "
                "them in place (value.copy_(new) for self.value = new). Train without it"
            )
        self.latest, self.places = graph, _places(self.fixed)
        return _Recording(graph, inside, found)

    def _has_room(self) -> bool:
        free, total = torch.cuda.mem_get_info(self.device)
        return free >= _LEFT_FREE * total

    def _room(self, name: str, value: Tensor) -> Tensor:
        """Return a tensor like `value` in the room for all of that name, which grows where it is too small."""
        room = self.rooms.get(name)
        if room is None:
            room = value.new_empty(value.numel())
        elif room.numel() < value.numel():
            # Recordings of before keep theirs.
            room = value.new_empty(2 * value.numel())
        self.rooms[name] = room
        # The order in memory stays: images may have their channels last.
        return room.as_strided(value.shape, torch.empty_like(value, device="meta").stride())


def copied(values: Sequence[Tensor | None], *, into: Sequence[Tensor]) -> list[Tensor | None]:
    """Copy values to where they are to lie, in one go, and return them there; those that are None stay so."""
    rooms = [room for room, value in zip(into, values, strict=True) if value is not None]
    torch._foreach_copy_(rooms, [value for value in values if value is not None])
    return [None if value is None else room for room, value in zip(into, values, strict=True)]


def _parts(batch: Batch, taught: Outputs | None) -> dict[str, Tensor]:
    named = batch.inputs if isinstance(batch.inputs, Mapping) else {"": batch.inputs}
    parts = {f"inputs.{name}" if name else "inputs": value for name, value in named.items()}
    parts |= {
        name: value
        for name, value in (("targets", batch.targets), ("mask", batch.mask), ("index", batch.index))
        if value is not None
    }
    if taught is not None:
        parts |= {"logits": taught.logits}
        parts |= {f"features.{name}": value for name, value in taught.features.items()}
    return parts


def _whole(parts: dict[str, Tensor]) -> tuple[Batch, Outputs | None]:
    """Put together again what `_parts` took apart."""
    inputs = parts["inputs"] if "inputs" in parts else _named(parts, "inputs.")
    batch = Batch(inputs, parts.get("targets"), parts.get("mask"), parts.get("index"))
    return batch, Outputs(parts["logits"], _named(parts, "features.")) if "logits" in parts else None


def _named(parts: dict[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(beginning): value for name, value in parts.items() if name.startswith(beginning)
    }


def _shapes(parts: dict[str, Tensor]) -> Shapes:
    return tuple((name, value.shape, value.dtype) for name, value in parts.items())


def _places(values: Iterable[Tensor]) -> list[int]:
    return [value.data_ptr() for value in values]
