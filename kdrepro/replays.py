"""Work that is the same for every batch, recorded once on a GPU as a CUDA graph and replayed from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from kdrepro.types import Batch, Outputs

T = TypeVar("T")
Work = Callable[[Batch, "Outputs | None"], T]

# What torch and CUDA's libraries set up when they are first used cannot be recorded.
_FIRST_STEPS = 3


class Replay(Generic[T]):
    """`work(batch, taught)`, whose kernels are launched one by one for the first batches, and at once after them.

    Only what is on the GPU is repeated: numbers and choices of Python's are those of the batch that was recorded, until
    `forget`. Batches of another shape than the first are worked through as ever. `state` are the tensors that the work
    reads and changes in place, `fixed` those of them that are looked at before each replay: where one lies elsewhere
    than at the recording, the work is recorded anew. What it returns is overwritten by the next call.

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
        self.shapes: list[tuple[str, torch.Size, torch.dtype]] = []
        self.graph: torch.cuda.CUDAGraph | None = None
        self.places: list[int] | None = None

    def forget(self) -> None:
        """Drop the recording: the next batch is recorded anew."""
        self.places = None

    def __call__(self, batch: Batch, taught: Outputs | None) -> T:
        if not isinstance(batch.inputs, Tensor):
            return self._work(batch, taught)
        given = _parts(batch, taught)
        self.shapes = self.shapes or _shapes(given)
        self.worked += 1
        if self.worked <= _FIRST_STEPS or _shapes(given) != self.shapes:
            return self._work(batch, taught)
        if self.places is None or self.places != _places(self.fixed):
            self._record(given)
        for name, value in self.given.items():
            value.copy_(given[name])
        assert self.graph is not None
        assert self.found is not None
        self.graph.replay()
        return self.found

    def _work(self, batch: Batch, taught: Outputs | None) -> T:
        before = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(before)
        with torch.cuda.stream(self.stream):
            found = self.work(batch, taught)
        before.wait_stream(self.stream)
        return found

    def _record(self, given: dict[str, Tensor]) -> None:
        self.given = {name: value.clone() for name, value in given.items()}
        self.found: T | None = None
        graph, old = torch.cuda.CUDAGraph(), self.graph
        torch.cuda.synchronize(self.device)
        before = _places(self.state())
        try:
            with torch.cuda.stream(self.stream):
                # In the memory of the old one, which nothing else could use.
                graph.capture_begin(pool=old.pool() if old is not None else None)
                try:
                    self.found = self.work(*_whole(self.given))
                finally:
                    graph.capture_end()
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
        self.graph, self.places = graph, _places(self.fixed)


def _parts(batch: Batch, taught: Outputs | None) -> dict[str, Tensor]:
    assert isinstance(batch.inputs, Tensor)
    parts = {"inputs": batch.inputs, "targets": batch.targets, "mask": batch.mask, "index": batch.index}
    if taught is not None:
        parts |= {"logits": taught.logits}
        parts |= {f"features.{name}": value for name, value in taught.features.items()}
    return {name: value for name, value in parts.items() if value is not None}


def _whole(parts: dict[str, Tensor]) -> tuple[Batch, Outputs | None]:
    """Put together again what `_parts` took apart."""
    batch = Batch(parts["inputs"], parts["targets"], parts.get("mask"), parts.get("index"))
    if "logits" not in parts:
        return batch, None
    features = {
        name.removeprefix("features."): value for name, value in parts.items() if name.startswith("features.")
    }
    return batch, Outputs(parts["logits"], features)


def _shapes(parts: dict[str, Tensor]) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(name, value.shape, value.dtype) for name, value in parts.items()]


def _places(values: Iterable[Tensor]) -> list[int]:
    return [value.data_ptr() for value in values]
