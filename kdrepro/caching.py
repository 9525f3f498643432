"""A teacher asked once for all: its outputs on a whole data set, looked up instead of computed again."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor, nn

from kdrepro import checks, devices, digests, tensor_checks
from kdrepro.checkpoints import load_tensors, save_tensors
from kdrepro.data.batches import Batches
from kdrepro.data.text import SentenceBatches
from kdrepro.teacher import FrozenTeacher
from kdrepro.types import Batch, Inputs, Outputs, TrainingData, in_parts, moved


class CachedTeacher:
    """A teacher's logits (N, K) and features on a whole data set, looked up by `batch.index`. See `cache_teacher`.

    `temperature` is the one at which an ensemble's classes were averaged, `None` for one network, for which it does not
    matter; `precision` is that of the pass, `fp32` or `bf16`; `teacher` is the digest of its weights and `inputs` that
    of some of its inputs. They are empty if they are not known, and then not compared with what `fit` asks for.
    """

    def __init__(
        self,
        logits: Tensor,
        features: Mapping[str, Tensor] | None = None,
        *,
        temperature: float | None = None,
        teacher: str = "",
        inputs: str = "",
        precision: str = "",
    ) -> None:
        self.logits = tensor_checks.logits("logits", logits)
        self.features = dict(features or {})
        self.temperature, self.teacher, self.inputs = temperature, teacher, inputs
        self.precision = _known_precision(precision)

    def save(self, file: Path | str) -> None:
        """Write the outputs to a safetensors file, atomically."""
        tensors = {f"features.{name}": value for name, value in self.features.items()}
        if self.temperature is not None:
            tensors["temperature"] = torch.tensor(self.temperature, dtype=torch.float64)
        for name, text in self._texts().items():
            tensors[name] = torch.tensor(list(text.encode()), dtype=torch.uint8)
        save_tensors({"logits": self.logits} | tensors, Path(file), metadata={})

    @classmethod
    def load(cls, file: Path | str) -> CachedTeacher:
        """Read what `save` wrote. Raises `ValueError` naming the file when it is truncated or holds anything else.

        Files used not to say the precision: there logits in bf16 tell it, and those in float32 leave it open.
        """
        tensors = load_tensors(Path(file))
        if "logits" not in tensors:
            raise ValueError(f"{file}: got no logits, expected a teacher's outputs; name another file")
        features = {
            name.removeprefix("features."): value
            for name, value in tensors.items()
            if name.startswith("features.")
        }
        temperature = float(tensors["temperature"]) if "temperature" in tensors else None
        texts = {
            name: bytes(tensors[name].tolist()).decode()
            for name in ("teacher", "inputs", "precision")
            if name in tensors
        }
        if tensors["logits"].dtype == torch.bfloat16:
            texts.setdefault("precision", "bf16")
        return cls(tensors["logits"], features, temperature=temperature, **texts)

    def to(self, device: torch.device | str) -> CachedTeacher:
        """Return the same cache on `device`."""
        return CachedTeacher(
            self.logits.to(device),
            {name: value.to(device) for name, value in self.features.items()},
            temperature=self.temperature,
            **self._texts(),
        )

    def without_features(self) -> CachedTeacher:
        """Return the same cache with the logits alone."""
        return CachedTeacher(self.logits, None, temperature=self.temperature, **self._texts())

    def _texts(self) -> dict[str, str]:
        return {"teacher": self.teacher, "inputs": self.inputs, "precision": self.precision}

    def check_fits(self, batches: TrainingData) -> None:
        """Raise `ValueError` or `TypeError` if the outputs cannot be those of the inputs that `batches` gives."""
        if not isinstance(batches, Batches):
            raise TypeError(f"teacher: got cached outputs with {type(batches).__name__}, expected Batches")
        if _augments(batches):
            raise ValueError("teacher: got cached outputs with augmented batches: they belong to other views")
        if len(self.logits) != batches.examples:
            raise ValueError(
                f"teacher: got cached outputs of {len(self.logits)} examples, expected {batches.examples}"
            )
        if self.inputs and self.inputs != _some(batches.inputs):
            raise ValueError(
                "teacher: got cached outputs of other inputs than those of the batches, or of the same in another order"
            )

    def look_up(self, batch: Batch | Tensor) -> Outputs:
        """Return the logits and features of the examples of `batch`, or of those at an index (B,).

        Raises `TypeError` for an index that holds no whole numbers, `ValueError` for one of another shape, or none.
        """
        index = _index(batch)
        features = {name: value[index] for name, value in self.features.items()}
        return Outputs(self.logits[index], features, self.temperature)


class CachedTranslator:
    """A teacher's logits at every word of the targets of a text, looked up by `batch.index`. See `cache_teacher`.

    `logits` (P, V) are those of all predictions, one pair behind the other, of which each has so many (N,).
    `temperature`, `teacher` and `precision` are as in `CachedTeacher`; `text` is the digest of the pairs, empty if it
    is not known.
    """

    def __init__(
        self,
        logits: Tensor,
        predictions: Tensor,
        *,
        temperature: float | None = None,
        teacher: str = "",
        text: str = "",
        precision: str = "",
    ) -> None:
        self.logits, self.predictions = tensor_checks.logits("logits", logits), predictions
        self.temperature, self.teacher, self.text = temperature, teacher, text
        self.precision = _known_precision(precision)
        if int(predictions.sum()) != len(logits):
            raise ValueError(f"predictions: got {int(predictions.sum())} in all, expected {len(logits)}")
        self.starts = (predictions.cumsum(0) - predictions).to(logits.device)

    def to(self, device: torch.device | str) -> CachedTranslator:
        """Return the same cache on `device`."""
        return CachedTranslator(
            self.logits.to(device),
            self.predictions,
            temperature=self.temperature,
            teacher=self.teacher,
            text=self.text,
            precision=self.precision,
        )

    def check_fits(self, batches: TrainingData) -> None:
        """Raise `ValueError` or `TypeError` if the logits cannot be those of the pairs that `batches` gives."""
        if not isinstance(batches, SentenceBatches):
            raise TypeError(
                f"teacher: got a translator's cached outputs with {type(batches).__name__}, expected SentenceBatches"
            )
        if not torch.equal(self.predictions, batches.predictions):
            raise ValueError(
                f"teacher: got the cached outputs of another text ({len(self.predictions)} pairs, "
                f"{len(self.logits)} predictions), expected {batches.examples} and {int(batches.predictions.sum())}"
            )
        if self.text and self.text != batches.digest():
            raise ValueError("teacher: got the cached outputs of another text, as many words long")

    def look_up(self, batch: Batch) -> Outputs:
        """Return the logits of the pairs of `batch` (B, L, V); where it has padding they are somebody else's."""
        if batch.targets is None:
            raise ValueError(
                "batch.targets: got None, expected those of the text, which say how many predictions"
            )
        places = self.places(_index(batch), width=batch.targets.shape[1])
        return Outputs(self.logits[places.clamp_(max=len(self.logits) - 1)], temperature=self.temperature)

    def places(self, index: Tensor, *, width: int) -> Tensor:
        """Return where the predictions of the pairs at `index` (B,) are, from the first on: (B, `width`)."""
        return self.starts[index][:, None] + torch.arange(width, device=index.device)


def check_asked_for(
    cached: CachedTeacher | CachedTranslator, *, temperatures: set[float], precision: str
) -> None:
    """Raise `ValueError` unless outputs were cached at the objectives' temperature and in the precision of `fit`."""
    if cached.temperature is not None and temperatures != {cached.temperature}:
        raise ValueError(
            f"teacher: got an ensemble's outputs cached at temperature {cached.temperature:g}, expected "
            f"{', '.join(f'{each:g}' for each in sorted(temperatures))}, the objective's: its classes are averaged "
            "at it"
        )
    if cached.precision and cached.precision != precision:
        raise ValueError(
            f"teacher: got outputs cached in {cached.precision}, expected {precision}, in which fit runs: "
            f"cache_teacher(..., precision={precision!r}) asks in that, "
            f"fit(..., precision={cached.precision!r}) trains in theirs"
        )


def _known_precision(precision: str) -> str:
    """Return the precision, empty where it is not known."""
    return precision and checks.choice("precision", precision, ("fp32", "bf16"))


def _index(batch: Batch | Tensor) -> Tensor:
    if isinstance(batch, Tensor):
        if batch.is_floating_point() or batch.is_complex() or batch.dtype == torch.bool:
            raise TypeError(f"index: got {batch.dtype}, expected the examples' positions (torch.int64)")
        if batch.ndim != 1:
            raise ValueError(f"index: got shape {tuple(batch.shape)}, expected (B,)")
        return batch
    if not isinstance(batch, Batch):
        raise TypeError(
            f"index: got {type(batch).__name__}, expected a tensor of the examples' positions, or a Batch that has them"
        )
    if batch.index is None:
        raise ValueError(
            "batch.index: got None, expected the examples' positions (a cached teacher looks them up)"
        )
    return batch.index


@overload
def cache_teacher(
    teacher: nn.Module | FrozenTeacher | Sequence[nn.Module],
    batches: Batches,
    *,
    temperature: float = 1.0,
    device: torch.device | str = "auto",
    precision: str = "auto",
) -> CachedTeacher: ...


@overload
def cache_teacher(
    teacher: nn.Module | FrozenTeacher | Sequence[nn.Module],
    batches: SentenceBatches,
    *,
    temperature: float = 1.0,
    device: torch.device | str = "auto",
    precision: str = "auto",
) -> CachedTranslator: ...


def cache_teacher(
    teacher: nn.Module | FrozenTeacher | Sequence[nn.Module],
    batches: Batches | SentenceBatches,
    *,
    temperature: float = 1.0,
    device: torch.device | str = "auto",
    precision: str = "auto",
) -> CachedTeacher | CachedTranslator:
    """Run the teacher once over the data of `batches`: right only where student and teacher see the same view.

    `temperature` matters to an ensemble only (the members are averaged after softening), and has to be the objective's:
    `fit` refuses another. The precision has to be that of the `fit` the cache is for, which refuses another, so that
    the cached loss equals the uncached one. Of a text it holds a logit for each word of the vocabulary at each word of
    the targets, in the precision of the teacher's: gigabytes, soon. Raises `ValueError` when `batches` augments, or has
    an `epoch` of its own, which may: the cached outputs would belong to other inputs; `TypeError` for what is no
    batches. `device` is as in `fit`; the teacher stays there, in eval mode.
    """
    if not isinstance(batches, Batches | SentenceBatches):
        raise TypeError(f"batches: got {type(batches).__name__}, expected kdrepro.Batches or SentenceBatches")
    if isinstance(batches, Batches) and _augments(batches):
        raise ValueError(
            "batches: got augmented batches, expected none: cached outputs would belong to other views"
        )
    frozen = teacher if isinstance(teacher, FrozenTeacher) else FrozenTeacher(teacher)
    where = devices.place(device)
    frozen.to(where)
    precision = devices.precision_for(precision, where)
    with devices.autocast(precision, where):
        if isinstance(batches, SentenceBatches):
            return _cache_translator(frozen, batches.to(where), temperature=temperature, precision=precision)
        parts = [
            frozen(moved(part, where), temperature=temperature)
            for part in in_parts(batches.inputs, batches.batch_size)
        ]
    features = {name: torch.cat([part.features[name] for part in parts]) for name in parts[0].features}
    return CachedTeacher(
        torch.cat([part.logits for part in parts]),
        features,
        temperature=_averaged_at(frozen, temperature),
        teacher=digests.of_modules(*frozen.modules),
        inputs=_some(batches.inputs),
        precision=precision,
    )


def _augments(batches: Batches) -> bool:
    """Say whether batches may hold other inputs than the data set: one that makes them in its own way may mix them."""
    return batches.augment is not None or type(batches).epoch is not Batches.epoch


def _some(inputs: Inputs) -> str:
    """The digest of examples from all over, so that others, others' order or another scale are told at once."""
    some = {}
    for name, values in (inputs if isinstance(inputs, Mapping) else {"inputs": inputs}).items():
        places = torch.linspace(0, len(values) - 1, min(len(values), 256), dtype=torch.float64)
        some[name] = values[places.round().long().to(values.device)]
    return digests.of_tensors(some)


def _averaged_at(teacher: FrozenTeacher, temperature: float) -> float | None:
    return float(temperature) if len(teacher.modules) > 1 else None


def _outside_the_heap(shape: tuple[int, int], *, like: Tensor) -> Tensor:
    """Return an empty tensor on the device of `like`, whose memory the system has back once nothing refers to it.

    Gigabytes from the allocator of a program that keeps what it frees (`devices.keep_freed_memory`) would stay in its
    heap, and as soon as something small lies among them the next cache needs as many more.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    pages = mmap.mmap(-1, math.prod(shape) * like.element_size())
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


def _cache_translator(
    teacher: FrozenTeacher, batches: SentenceBatches, *, temperature: float, precision: str
) -> CachedTranslator:
    cached: CachedTranslator | None = None
    # In the batches of the first epoch: of similar length, and the same ones whenever the cache is made again.
    for batch in batches.epoch(0):
        found = teacher(batch.inputs, temperature=temperature).logits
        if cached is None:
            total = int(batches.predictions.sum())
            room = _outside_the_heap((total, found.shape[-1]), like=found)
            cached = CachedTranslator(
                room,
                batches.predictions,
                temperature=_averaged_at(teacher, temperature),
                teacher=digests.of_modules(*teacher.modules),
                text=batches.digest(),
                precision=precision,
            )
        assert batch.mask is not None
        places = cached.places(_index(batch), width=found.shape[1])
        cached.logits[places[batch.mask]] = found[batch.mask]
    assert cached is not None
    return cached
