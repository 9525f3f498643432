"""Plain training on the true classes: what every distilled student is compared with."""

from __future__ import annotations

from torch import Tensor, nn

from kdrepro.losses.logits import hard_target_loss
from kdrepro.losses.reduce import masked_mean
from kdrepro.types import Batch, Outputs


class Supervised(nn.Module):
    """Mean cross-entropy with the true classes, over the positions that `batch.mask` counts.

    The teacher is not looked at. Returns `{"hard": ()}`.
    """

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        hard = hard_target_loss(batch.counted(student).logits, batch.counted_targets)
        return {"hard": masked_mean(hard, batch.mask)}
