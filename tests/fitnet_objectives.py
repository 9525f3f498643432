"""FitNets' objectives with the settings of their tests, and a student and a teacher to try them on."""

import torch
from torch import Tensor

from kdrepro.methods.fitnets import FitNetKD, HintStage, regressor
from kdrepro.models.maxout import Maxout
from kdrepro.types import Batch, Outputs

STUDENT_MAP, TEACHER_MAP = (3, 6, 5), (4, 4, 4)


def case(samples: int = 6) -> tuple[Outputs, Outputs, Batch]:
    """Student and teacher with the features `guided` and `hint`, in float64."""
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(samples, *shape, generator=random, dtype=torch.float64).requires_grad_()

    student = Outputs(drawn(7), {"guided": drawn(*STUDENT_MAP)})
    teacher = Outputs(drawn(7), {"hint": drawn(*TEACHER_MAP)})
    return student, teacher, Batch(torch.zeros(samples), torch.randint(7, (samples,), generator=random))


def hints(**changes) -> HintStage:
    torch.manual_seed(1)
    fitted = regressor(STUDENT_MAP, TEACHER_MAP, activation=Maxout(pieces=2), pieces=2).double()
    return HintStage(fitted, **{"student_tap": "guided", "teacher_tap": "hint", **changes})


def soft_targets(**changes) -> FitNetKD:
    settings = {"temperature": 3.0, "soft_weight": 4.0, "final_soft_weight": 1.0, "decay_epochs": 10}
    return FitNetKD(**(settings | changes))


def gradients(loss: Tensor, *of: Tensor) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss, of, retain_graph=True, allow_unused=True)
