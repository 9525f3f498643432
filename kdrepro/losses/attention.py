"""Losses between where a student and a teacher look: attention maps of features, and gradients by the input.

Zagoruyko & Komodakis (2017), Paying More Attention to Attention. B samples, C channels, maps of height H and width W.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from kdrepro import checks, tensor_checks
from kdrepro.types import at_least_float32

FORMS = ("paper", "code")
POOLS = ("sum", "max")

_IMAGES = "(B, C, H, W)"


def checked_power(power: object) -> float:
    """Return `power` as a float, or raise if it is below 1, where the gradient at 0 is infinite, or not finite."""
    number = checks.positive("power", power)
    if number < 1:
        raise ValueError(f"power: got {power!r}, expected a finite number of at least 1")
    return number


def _energy(feature: Tensor, power: float, pool: str) -> Tensor:
    """(B, C, H, W) → (B, H, W), up to a factor for each sample."""
    wide = at_least_float32(feature)
    # The map is blind to scale, so the largest value may become 1, and no power of it overflows or vanishes. For the
    # same reason the gradient through this factor is 0 in the end, and it can be left out.
    largest = wide.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
    wide = wide / largest.clamp_min(torch.finfo(wide.dtype).tiny)
    if pool == "max":
        return wide.abs().amax(dim=1).pow(power)
    # A square needs no absolute value, which saves a copy of the feature for the backward pass.
    return (wide.square() if power == 2 else wide.abs().pow(power)).sum(dim=1)


def _places(feature: Tensor) -> str:
    return "×".join(map(str, feature.shape[2:]))


def _unit(energy: Tensor) -> Tensor:
    return normalize(energy.flatten(1), dim=1, eps=1e-12)


def attention_map(feature: Tensor, *, power: float = 2, pool: str = "sum") -> Tensor:
    """Where a layer looks: the size of its activations over the channels, as a map of length 1.

    Q = F / ‖F‖ with F = Σ_c |A_c|^power (`pool="sum"`) or max_c |A_c|^power (`pool="max"`), section 3.1; `power` is
    p in the paper. The absolute value is taken whatever the power, so the map of A is that of −A.

    Shapes: (B, C, H, W) → (B, H·W), rows first, computed in float32 or wider; ‖Q‖ = 1 for each sample. Blind to the
    scale of the feature and to the order of its channels. A feature that is 0 throughout has a map of zeros, with no
    gradient: its length is taken as 10⁻¹², which no other feature's comes near. Channels come second; where a net has
    them last, as Swin has, permute the feature first: a shape does not say which dimension is which.
    Raises `TypeError` for anything but a floating-point tensor, `ValueError` for another shape, a power below 1 or an
    unknown `pool`.

    >>> attention_map(torch.tensor([[[[3.0, 0.0]], [[0.0, -2.0]]]]), power=1)  # (3, 2) / √13
    tensor([[0.8321, 0.5547]])
    """
    tensor_checks.feature("feature", feature, shape=_IMAGES, dimensions=4)
    return _unit(_energy(feature, checked_power(power), checks.choice("pool", pool, POOLS)))


def attention_transfer_loss(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    form: str = "code",
    power: float = 2,
    pool: str = "sum",
) -> Tensor:
    """Look where the teacher looks: the distance between the attention maps Q_S and Q_T of each sample.

    form="paper": ‖Q_S − Q_T‖, not squared (Eq. 2 without its weight β/2).
    form="code": the mean of (Q_S − Q_T)² over the H·W positions, as the authors' program computes it.

    The two are different losses: code = paper² / (H·W). On 8×8 maps at a distance of 0.4 the second is 160 times
    smaller, its gradient 80 times, so a weight does not carry over from one to the other.

    Maps of different size are made equal before they are normalised: the map, not the feature, of the larger side
    is averaged down to the smaller side's height and width (adaptive average pooling, each direction on its own).
    Departs: the paper interpolates there and does not say how.

    Shapes: (B, C, H, W), (B, C', H', W') → (B,), computed in float32 or wider. The teacher gets no gradient. Zero,
    with zero gradient, where the maps are equal: the norm has no derivative there, and 0 is one of its subgradients.
    Errors as `attention_map`; another number of samples, an unknown `form`, or maps that would be compared at a single
    position, where each is 1 whatever the net, is a `ValueError`.

    >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    >>> attention_transfer_loss(student, teacher, form="paper")  # √2
    tensor([1.4142])
    >>> attention_transfer_loss(student, teacher, form="code")  # the mean of 1 and 1
    tensor([1.])
    """
    tensor_checks.feature("student_feature", student_feature, shape=_IMAGES, dimensions=4)
    tensor_checks.feature("teacher_feature", teacher_feature, shape=_IMAGES, dimensions=4)
    checks.choice("form", form, FORMS)
    checks.choice("pool", pool, POOLS)
    if len(student_feature) != len(teacher_feature):
        raise ValueError(
            f"teacher_feature: got {len(teacher_feature)} samples, expected the student's {len(student_feature)}"
        )
    sides = zip(student_feature.shape[2:], teacher_feature.shape[2:], strict=True)
    height, width = (min(side) for side in sides)
    if height * width == 1:
        raise ValueError(
            f"student_feature, teacher_feature: got maps of {_places(student_feature)} and "
            f"{_places(teacher_feature)} positions, expected more than one to compare: a map of one is always 1"
        )
    power = checked_power(power)
    student, teacher = (_energy(each, power, pool) for each in (student_feature, teacher_feature.detach()))
    student, teacher = (
        each if each.shape[1:] == (height, width) else adaptive_avg_pool2d(each, (height, width))
        for each in (student, teacher)
    )
    difference = _unit(student) - _unit(teacher)
    if form == "paper":
        return _norm(difference)
    return difference.square().mean(dim=1)


def gradient_attention_loss(student_input_gradient: Tensor, teacher_input_gradient: Tensor) -> Tensor:
    """Be as sensitive to each pixel as the teacher: ‖J_S − J_T‖ of each sample.

    Section 3.2, without its weight β/2: J is the gradient of a net's cross-entropy with respect to its input. J_S
    has to carry a graph for the student to learn from it (`loss_and_input_gradient(..., create_graph=True)`).

    Shapes: (B, ...), (B, ...) → (B,), computed in float32 or wider. J_T gets no gradient. Zero, with zero gradient,
    where both are equal.
    Raises `TypeError` for anything but floating-point tensors, `ValueError` for shapes that differ.

    >>> gradient_attention_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([5.])
    """
    _check_gradients(
        student_input_gradient=student_input_gradient, teacher_input_gradient=teacher_input_gradient
    )
    return _distance(student_input_gradient, teacher_input_gradient.detach())


def gradient_symmetry_loss(input_gradient: Tensor, mirrored_input_gradient: Tensor) -> Tensor:
    """Be as sensitive to each pixel as to its mirror image: ‖J(x) − flip(J(flip x))‖ of each sample.

    Section 3.2, without its weight β/2. Both are the student's own gradients, by an image and by the image flipped
    left to right; the second comes as it is, the flip back is done here. Both get a gradient.

    Shapes, precision and errors as `gradient_attention_loss`; the last dimension is the width.

    >>> gradient_symmetry_loss(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[2.0, 1.0]]]))
    tensor([0.])
    """
    _check_gradients(input_gradient=input_gradient, mirrored_input_gradient=mirrored_input_gradient)
    return _distance(input_gradient, mirrored_input_gradient.flip(-1))


def _check_gradients(**gradients: Tensor) -> None:
    (first, expected), (second, got) = gradients.items()
    tensor_checks.feature(first, expected)
    tensor_checks.feature(second, got)
    if got.shape != expected.shape:
        raise ValueError(
            f"{second}: got shape {tuple(got.shape)}, expected {tuple(expected.shape)} like {first}"
        )


def _distance(first: Tensor, second: Tensor) -> Tensor:
    return _norm((at_least_float32(first) - at_least_float32(second)).flatten(1))


def _norm(values: Tensor) -> Tensor:
    # Not sqrt(sum of squares), whose gradient at 0 is NaN: this one's is 0, and its value is the same.
    lengths: Tensor = torch.linalg.vector_norm(values, dim=1)
    return lengths
