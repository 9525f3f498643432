"""A student and a teacher with features to try attention transfer on, and parts of what they say."""

import torch
from torch import Tensor

from kdrepro.types import Batch, Outputs


def case(samples: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Outputs, Outputs, Batch]:
    """Student and teacher with features `wide` (3 channels and 5) and `deep` (4 and 4)."""
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(samples, *shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_()

    student = Outputs(drawn(7), {"wide": drawn(3, 6, 6), "deep": drawn(4, 3, 3)})
    teacher = Outputs(drawn(7), {"wide": drawn(5, 6, 6), "deep": drawn(4, 3, 3)})
    return student, teacher, Batch(torch.zeros(samples), torch.randint(7, (samples,), generator=random))


def renamed(outputs: Outputs, **names: str) -> Outputs:
    return Outputs(outputs.logits, {names[name]: value for name, value in outputs.features.items()})


def every_tensor(outputs: Outputs) -> list[Tensor]:
    return [outputs.logits, *outputs.features.values()]


def rows_of(outputs: Outputs, rows) -> Outputs:
    return Outputs(outputs.logits[rows], {name: value[rows] for name, value in outputs.features.items()})
