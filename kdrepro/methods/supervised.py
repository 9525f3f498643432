"""Plain training on the true classes: what every distilled student is compared with."""

from __future__ import annotations

from torch import Tensor, nn

from kdrepro import tensor_checks
from kdrepro.losses.logits import hard_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.types import Batch, Outputs


class Supervised(nn.Module):
    """Mean cross-entropy with the true classes, over the positions that `batch.mask` counts.

    With `class_weights` (K,) each counts with the weight of its class; the mean is over the positions, not divided by
    the sum of their weights, as torch's `CrossEntropyLoss(weight=...)` divides. The teacher is not looked at. Returns
    `{"hard": ()}`. Raises `TypeError` or `ValueError` for weights that are not finite numbers of at least 0, one for
    each class.
    """

    class_weights: Tensor | None

    def __init__(self, *, class_weights: Tensor | None = None) -> None:
        super().__init__()
        weights = (
            None if class_weights is None else tensor_checks.class_weights(class_weights).detach().clone()
        )
        # A setting, which a checkpoint does not bring along.
        self.register_buffer("class_weights", weights, persistent=False)

    def extra_repr(self) -> str:
        return "" if self.class_weights is None else f"class_weights of {len(self.class_weights)}"

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        logits = batch.counted(student).logits
        hard = hard_target_loss(logits, batch.counted_targets, class_weights=self.class_weights)
        return {"hard": masked_mean(hard, batch.mask)}
