"""Attention: Zagoruyko & Komodakis (2017), Paying More Attention to Attention, section 3.1.

Features come from `kdrepro.Taps`, or from nets that return `Outputs` with features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kdrepro import checks, tensor_checks
from kdrepro.losses.attention import FORMS, POOLS, attention_transfer_loss, checked_power
from kdrepro.losses.features import hint_loss
from kdrepro.losses.logits import hard_target_loss, soft_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.types import Batch, Outputs, tapped


class AttentionTransfer(nn.Module):
    """Learn the classes, and look where the teacher looks; with `soft_weight`, match its softened classes too.

    Σ_j attention_weight_j · D(Q_S^j, Q_T^j) + soft_weight · T² KL(teacher_T ‖ student_T) + (1 − soft_weight) · CE

    `pairs` names the features j: a list of names that both nets give, or a mapping from the student's names to the
    teacher's. D is `attention_transfer_loss` in its `form`, `power` and `pool`, averaged over the batch; `temperature`
    is T (4 in the authors' program). `attention_weight` is the whole factor in either form, one number for all features
    or a mapping from the student's names to one each. With the paper's β it is

    * form="code": β itself, 1000 in the authors' program, whose mean of squares is D;
    * form="paper": β/2, because Eq. 2 carries ½. The paper gives β as about 0.1, namely 1000 over the number of
      positions and of samples, for each feature. Whether it then sums or averages over the batch is not said; this
      class averages, so a sum over B samples is a weight of B · β/2, which is 500 / (H·W) for each.

    Departs: the paper lowers β over time where soft targets are added and publishes no schedule; here it stays.

    Returns `{"attention": (), "soft": (), "hard": ()}`, already weighted, without the terms of weight 0. Samples that
    `batch.mask` leaves out count nowhere; with one value for each position of a sample, those of which none counts.
    The teacher gets no gradient.
    Raises `TypeError` or `ValueError` for arguments out of range, no teacher, or a feature that is not there (an
    ensemble and cached logits have none).

    >>> student = Outputs(torch.randn(2, 10), {"stage": torch.randn(2, 16, 8, 8)})
    >>> teacher = Outputs(torch.randn(2, 10), {"stage": torch.randn(2, 32, 8, 8)})
    >>> objective = AttentionTransfer(["stage"], attention_weight=1000.0)
    >>> sorted(objective(student, teacher, Batch(torch.zeros(2), torch.tensor([3, 7]))))
    ['attention', 'hard']
    """

    def __init__(
        self,
        pairs: Sequence[str] | Mapping[str, str],
        *,
        attention_weight: float | Mapping[str, float],
        form: str = "code",
        power: float = 2,
        pool: str = "sum",
        temperature: float = 4.0,
        soft_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.pairs = _checked_pairs(pairs)
        self.attention_weight = _checked_weight(attention_weight, self.pairs)
        self.form = checks.choice("form", form, FORMS)
        self.power = checked_power(power)
        self.pool = checks.choice("pool", pool, POOLS)
        self.temperature = checks.positive("temperature", temperature)
        self.soft_weight = checks.fraction("soft_weight", soft_weight)

    def extra_repr(self) -> str:
        return (
            f"{self.pairs}, attention_weight={self.attention_weight}, form={self.form!r}, power={self.power}, "
            f"pool={self.pool!r}, temperature={self.temperature}, soft_weight={self.soft_weight}"
        )

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        student, teacher = batch.counted(student), batch.counted_teacher(teacher)
        weight = self.attention_weight
        distances = [
            (weight[ours] if isinstance(weight, dict) else weight)
            * attention_transfer_loss(
                tapped("student", student, ours),
                tapped("teacher", teacher, theirs),
                form=self.form,
                power=self.power,
                pool=self.pool,
            )
            for ours, theirs in self.pairs.items()
        ]
        mask = batch.mask_of_samples(tapped("student", student, next(iter(self.pairs))))
        terms = {"attention": masked_mean(torch.stack(distances).sum(dim=0), mask)}
        if self.soft_weight > 0:
            soft = soft_target_loss(student.logits, teacher.logits, temperature=self.temperature)
            tensor_checks.targets_agree(batch.targets, student.logits)
            terms["soft"] = self.soft_weight * masked_mean(soft, batch.mask)
        if self.soft_weight < 1:
            hard = hard_target_loss(student.logits, batch.counted_targets)
            terms["hard"] = (1 - self.soft_weight) * masked_mean(hard, batch.mask)
        return terms


class FullActivationTransfer(nn.Module):
    """Learn the classes, and regress the teacher's whole activations: what attention maps are compared with (F-AT).

    CE + activation_weight · Σ_j ½ ‖adapt_j(A_S^j) − A_T^j‖² / (C·H·W), averaged over the batch

    `pairs` as in `AttentionTransfer`. `channels` maps a student's feature to (its channels, the teacher's) where the
    two differ: there adapt is a 1×1 convolution, otherwise the identity. It is the student's side that is adapted:
    an adapted teacher could be mapped to a constant, which a student that sees nothing would match. The adapters are
    parameters of this objective, train with the student's, and are no part of it afterwards.

    Departs: the paper leaves open which side is adapted, how the adapter starts and how the loss is scaled. Here it is
    the student's, with a bias and torch's own start, and the sum is divided by the C·H·W elements of A_T.

    Returns `{"activation": (), "hard": ()}`, already weighted. `batch.mask` and errors as `AttentionTransfer`; features
    whose shapes differ after the adapter are a `ValueError`.

    >>> objective = FullActivationTransfer(["stage"], channels={"stage": (16, 32)}, activation_weight=1.0)
    >>> [tuple(value.shape) for value in objective.parameters()]
    [(32, 16, 1, 1), (32,)]
    """

    def __init__(
        self,
        pairs: Sequence[str] | Mapping[str, str],
        *,
        activation_weight: float,
        channels: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.pairs = _checked_pairs(pairs)
        self.activation_weight = checks.positive("activation_weight", activation_weight)
        channels = dict(channels or {})
        for name in channels:
            checks.choice("channels", name, self.pairs)
        # A list in the order of the pairs: a name with a dot in it cannot be a submodule's.
        self.adapters = nn.ModuleList(
            _adapter(name, channels[name]) if name in channels else nn.Identity() for name in self.pairs
        )

    def extra_repr(self) -> str:
        return f"{self.pairs}, activation_weight={self.activation_weight}"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        student, teacher = batch.counted(student), batch.counted_teacher(teacher)
        distances, targets = [], []
        for (ours, theirs), adapter in zip(self.pairs.items(), self.adapters, strict=True):
            feature, target = tapped("student", student, ours), tapped("teacher", teacher, theirs)
            if isinstance(adapter, nn.Conv2d):
                feature = _adapted(ours, feature, adapter)
            if feature.shape != target.shape:
                raise ValueError(
                    f"student feature {ours!r}: got shape {tuple(feature.shape)} to compare with the teacher's "
                    f"{tuple(target.shape)}, expected the same; channels can name other numbers of channels"
                )
            distances.append(hint_loss(feature, target) / target[0].numel())
            targets.append(target)
        distance = torch.stack(distances).sum(dim=0)
        # A row of positions among them is told apart by its dimensions.
        mask = batch.mask_of_samples(max(targets, key=lambda each: each.ndim == 3))
        hard = hard_target_loss(student.logits, batch.counted_targets)
        return {
            "activation": self.activation_weight * masked_mean(distance, mask),
            "hard": masked_mean(hard, batch.mask),
        }


def _checked_pairs(pairs: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    expected = "a list of feature names, or a mapping from the student's to the teacher's"
    if isinstance(pairs, str) or not isinstance(pairs, Mapping | Sequence):
        raise TypeError(f"pairs: got {pairs!r} ({type(pairs).__name__}), expected {expected}")
    for name in (*pairs, *(pairs.values() if isinstance(pairs, Mapping) else ())):
        if not isinstance(name, str):
            raise TypeError(f"pairs: got {name!r} ({type(name).__name__}) in it, expected {expected}")
    named = dict(pairs) if isinstance(pairs, Mapping) else {name: name for name in pairs}
    if not named:
        raise ValueError(f"pairs: got none, expected {expected}")
    if len(named) < len(pairs):
        raise ValueError(f"pairs: got {list(pairs)}, expected each name once")
    return named


def _checked_weight(
    weight: float | Mapping[str, float], pairs: Mapping[str, str]
) -> float | dict[str, float]:
    if not isinstance(weight, Mapping):
        return checks.positive("attention_weight", weight)
    if weight.keys() != pairs.keys():
        raise ValueError(
            f"attention_weight: got weights for {sorted(weight)}, expected one for each of {sorted(pairs)}"
        )
    return {name: checks.positive(f"attention_weight[{name!r}]", weight[name]) for name in pairs}


def _adapter(name: str, channels: tuple[int, int]) -> nn.Conv2d:
    if not isinstance(channels, tuple | list) or len(channels) != 2:
        raise TypeError(f"channels[{name!r}]: got {channels!r}, expected (the student's, the teacher's)")
    into, out = (checks.whole(f"channels[{name!r}]", value, least=1) for value in channels)
    return nn.Conv2d(into, out, kernel_size=1)


def _adapted(name: str, feature: Tensor, adapter: nn.Conv2d) -> Tensor:
    if feature.ndim != 4 or feature.shape[1] != adapter.in_channels:
        raise ValueError(
            f"student feature {name!r}: got shape {tuple(feature.shape)}, expected (B, {adapter.in_channels}, H, W) "
            "as channels says"
        )
    # Losses are computed in float32, where the net may have run in bfloat16.
    adapted: Tensor = adapter(feature.to(adapter.weight.dtype))
    return adapted
