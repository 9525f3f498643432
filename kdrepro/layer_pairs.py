"""Which layers of a teacher and a student could be compared, and what regressor would bring the one to the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

from torch import Tensor, nn

from kdrepro.probe import Layer, channels_last, layers_of
from kdrepro.teacher import members_of

# A network whose features keep their size has no stages; it is cut into as many parts.
_PARTS = 3
# A size that has more than this share of the layers is the only one that counts: the others are a stem or a head.
_DOMINANT = 0.75


@dataclass(frozen=True)
class LayerPair:
    """A layer of the teacher and one of the student that may be compared under one `name`.

    `teacher` and `student` are paths for `Taps`; the shapes are those of one example: (C, H, W) for a map, (L, C) for
    tokens, (C, L) for a `sequence`, which is what a one-dimensional convolution gives, (C,) for a vector.
    `teacher_signed` and `student_signed` say whether the feature falls below 0 on the probe: what never does, such as a
    ReLU, cannot reach one that does. `problem` says why no regressor fits, and is empty if one does or none is needed.
    """

    name: str
    teacher: str
    student: str
    teacher_shape: tuple[int, ...]
    student_shape: tuple[int, ...]
    teacher_signed: bool
    student_signed: bool
    problem: str = ""
    sequence: bool = False

    @property
    def regressor_code(self) -> str:
        """What brings the student's feature to the teacher's shape, as code; empty if nothing is needed or fits.

        For maps and sequences the convolution of Romero et al. (2015), section 2.2: no padding, a kernel of side
        N_student − N_teacher + 1. For tokens and vectors, and maps with their channels last, a linear layer.
        """
        layer, sizes = self._regressor()
        return "" if layer is nn.Identity else f"nn.{layer.__name__}({', '.join(map(str, sizes))})"

    def make_regressor(self) -> nn.Module:
        """Return the regressor with new weights; where none is needed, `nn.Identity`.

        Raises `ValueError` where none fits.
        """
        if self.problem:
            raise ValueError(f"{self.name}: no regressor fits, {self.problem}")
        layer, sizes = self._regressor()
        return layer(*sizes)

    def _regressor(self) -> tuple[type[nn.Module], tuple[int | tuple[int, int], ...]]:
        """The class of the regressor and what it is made with."""
        own, other = self.student_shape, self.teacher_shape
        if self.problem or (own == other and not (self.teacher_signed and not self.student_signed)):
            return nn.Identity, ()
        if self.sequence:
            return nn.Conv1d, (own[0], other[0], own[1] - other[1] + 1)
        if len(own) != 3 or channels_last(own):
            return nn.Linear, (own[-1], other[-1])
        height, width = own[1] - other[1] + 1, own[2] - other[2] + 1
        return nn.Conv2d, (own[0], other[0], height if height == width else (height, width))


def suggest_pairs(
    teacher: nn.Module, student: nn.Module, inputs: Tensor | Mapping[str, Any]
) -> list[LayerPair]:
    """Suggest which layers of teacher and student to compare, from what they make of one batch of `inputs`.

    Networks whose maps shrink are paired by stage: the end of each size of the student's with the teacher's
    of equal size, else the next smaller one, which is what a regressor without padding can reach. Networks
    whose features keep their size are cut into thirds and paired by relative depth. Pairs come in order of
    depth; `format_pairs` makes text of them. They are a start: the papers chose theirs by hand.

    Both networks run in eval mode, without gradient; modes, buffers and torch's random state are afterwards what
    they were, and no hook stays. A mapping of inputs becomes keyword arguments.
    Raises `TypeError` for arguments of the wrong kind, `ValueError` for an ensemble, or a network with no layer that
    gives a feature.

    >>> import torch
    >>> teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten())
    >>> student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten())
    >>> for pair in suggest_pairs(teacher, student, torch.randn(2, 3, 8, 8)):
    ...     print(pair.name, pair.teacher, pair.student, pair.regressor_code)
    pair1 1 1 nn.Conv2d(4, 8, 1)
    pair2 3 3 nn.Conv2d(4, 8, 2)
    """
    networks = members_of(teacher)
    if len(networks) > 1:
        raise ValueError(f"teacher: got an ensemble of {len(networks)}, expected one network with features")
    if not isinstance(student, nn.Module):
        raise TypeError(f"student: got {type(student).__name__}, expected an nn.Module")
    if not isinstance(inputs, Tensor | Mapping):
        raise TypeError(f"inputs: got {type(inputs).__name__}, expected a tensor or a mapping of them")
    theirs, ours = _chosen("teacher", networks[0], inputs), _chosen("student", student, inputs)
    return [
        LayerPair(
            f"pair{number}",
            hint.path,
            guided.path,
            hint.shape,
            guided.shape,
            hint.signed,
            guided.signed,
            _between(hint, guided),
            hint.sequence,
        )
        for number, (hint, guided) in enumerate(_paired(theirs, ours), 1)
    ]


def format_pairs(pairs: Sequence[LayerPair]) -> str:
    """The pairs as text, each with its shapes and the regressor that it needs.

    >>> print(format_pairs([LayerPair("pair1", "layer1", "stem", (64, 8, 8), (16, 8, 8), False, True)]))
    pair1  teacher layer1 (64, 8, 8), never below 0
           student stem (16, 8, 8), signed
           regressor nn.Conv2d(16, 64, 1), which may end in a ReLU
    """
    if not pairs:
        return "No pairs found."
    lines = []
    for pair in pairs:
        if pair.problem:
            needed = f"no regressor fits: {pair.problem}"
        elif not pair.regressor_code:
            needed = "no regressor needed"
        else:
            ending = "which must not end in a ReLU" if pair.teacher_signed else "which may end in a ReLU"
            needed = f"regressor {pair.regressor_code}, {ending}"
        signs = (
            "signed" if signed else "never below 0" for signed in (pair.teacher_signed, pair.student_signed)
        )
        lines += [
            f"{pair.name}  teacher {pair.teacher} {pair.teacher_shape}, {next(signs)}",
            f"{'':{len(pair.name)}}  student {pair.student} {pair.student_shape}, {next(signs)}",
            f"{'':{len(pair.name)}}  {needed}",
        ]
    return "\n".join(lines)


def _between(teacher: Layer, student: Layer) -> str:
    """Why no regressor brings the student's feature to the teacher's."""
    hint, guided = teacher.shape, student.shape
    if len(hint) != len(guided) or not (teacher.sequence or student.sequence):
        return _problem(hint, guided)
    if not (teacher.sequence and student.sequence):
        return "one of the two has its channels first, so transpose it"
    return "" if hint[1] <= guided[1] else f"the student's sequence is shorter, {guided[1]} against {hint[1]}"


def _problem(hint: tuple[int, ...], guided: tuple[int, ...]) -> str:
    """Why no regressor brings `guided` to `hint`."""
    if len(hint) != len(guided):
        kinds = {1: "a vector", 2: "tokens", 3: "a map"}
        return f"the teacher gives {kinds[len(hint)]}, the student {kinds[len(guided)]}"
    if hint == guided:
        return ""
    if channels_last(hint) != channels_last(guided):
        return "one map has its channels last, so permute it first"
    if channels_last(hint):
        return (
            ""
            if hint[:2] == guided[:2]
            else "maps of different size have their channels last, so permute them"
        )
    if len(hint) == 3 and any(own < other for own, other in zip(guided[1:], hint[1:], strict=True)):
        return f"the student's map is smaller, {guided[1:]} against {hint[1:]}"
    if len(hint) == 2 and hint[0] != guided[0]:
        return f"the teacher gives {hint[0]} tokens, the student {guided[0]}"
    return ""


def _paired(theirs: Sequence[Layer], ours: Sequence[Layer]) -> list[tuple[Layer, Layer]]:
    """Match in order: sizes less than a factor of 2 apart, else any that a regressor bridges, else by depth alone."""

    def bridged(hint: Layer, guided: Layer) -> bool:
        return not _between(hint, guided)

    def near(hint: Layer, guided: Layer) -> bool:
        sides = zip(guided.size, hint.size, strict=True)
        return bridged(hint, guided) and all(own < 2 * other for own, other in sides)

    rules: list[Callable[[Layer, Layer], bool]] = [near, bridged, lambda hint, guided: True]
    return next(pairs for pairs in (_matched(theirs, ours, rule) for rule in rules) if pairs)


def _matched(
    theirs: Sequence[Layer], ours: Sequence[Layer], may: Callable[[Layer, Layer], bool]
) -> list[tuple[Layer, Layer]]:
    """As many pairs as there can be without crossing, and of those the nearest in size and then in depth."""

    @cache
    def best(i: int, j: int) -> tuple[int, float, tuple[tuple[Layer, Layer], ...]]:
        if i == len(theirs) or j == len(ours):
            return 0, 0.0, ()
        options = [best(i + 1, j), best(i, j + 1)]
        hint, guided = theirs[i], ours[j]
        if may(hint, guided):
            count, nearness, pairs = best(i + 1, j + 1)
            apart = abs(hint.depth - guided.depth) + abs(prod(guided.size) / prod(hint.size) - 1)
            options.append((count + 1, nearness - apart, ((hint, guided), *pairs)))
        return max(options, key=lambda option: option[:2])

    return list(best(0, 0)[2])


def _chosen(side: str, network: nn.Module, inputs: Tensor | Mapping[str, Any]) -> list[Layer]:
    """The layers that end a stage, or a third of a network without stages."""
    layers = layers_of(side, network, inputs)
    if not layers:
        raise ValueError(
            f"{side}: got a network without a module that gives a feature once, expected at least one"
        )
    kind = Counter(len(layer.shape) for layer in layers).most_common(1)[0][0]
    layers = [layer for layer in layers if len(layer.shape) == kind]
    sizes = Counter(layer.size for layer in layers)
    size, count = sizes.most_common(1)[0]
    if count > _DOMINANT * len(layers):
        layers = [layer for layer in layers if layer.size == size]
        alike = _alike([layer for layer in layers if not _repeats(layer, layers)] or layers)
        places = {max(1, round(len(alike) * part / _PARTS)) for part in range(1, _PARTS + 1)}
        return [alike[place - 1] for place in sorted(places)]
    stages = [[layer for layer in layers if layer.size == size] for size in sizes if prod(size) > 1]
    ends = [_alike(stage)[-1] for stage in stages]
    # What holds the end of another stage is more than a stage.
    apart = [[layer for layer in stage if not any(map(layer.around, ends))] or stage for stage in stages]
    ends = [_alike(stage)[-1] for stage in apart]
    # Where most stages are modules with an inside, a size that only single layers have is a stem or a head.
    holding = [layer for layer in ends if layer.holds]
    return sorted(holding if len(holding) > 1 else ends, key=lambda layer: layer.last)


def _repeats(layer: Layer, layers: Sequence[Layer]) -> bool:
    """Whether it is a row of modules of one class, and so a part of the network no more than the row is."""
    inside = [each for each in layers if each.holds and each.path.startswith(f"{layer.path}.")]
    rows: dict[tuple[str, type[nn.Module]], list[int]] = {}
    for each in inside:
        rows.setdefault((each.path.rpartition(".")[0], each.kind), []).append(each.last - each.first)
    return any(len(row) > 1 and 2 * sum(row) > layer.last - layer.first for row in rows.values())


def _alike(layers: Sequence[Layer]) -> list[Layer]:
    """The largest module of one size and its siblings of that size, in order."""
    largest = max(layers, key=lambda layer: (layer.holds, layer.last - layer.first, -layer.path.count(".")))
    siblings = [
        layer
        for layer in layers
        if layer.holds == largest.holds and layer.path.rpartition(".")[0] == largest.path.rpartition(".")[0]
    ]
    # Of single layers those that come last before the next weights: behind normalisation and non-linearity.
    return [
        layer
        for layer, following in zip(siblings, [*siblings[1:], None], strict=True)
        if layer.holds or following is None or following.weighs
    ]
