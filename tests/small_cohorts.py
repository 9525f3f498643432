"""Students that have nothing in common but their batches, trained together and alone."""

from __future__ import annotations

import torch
from small_pictures import IMAGES, TARGETS, images_net
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

from kdrepro import Batches, HintonKD, Outputs, Supervised, fit
from kdrepro.data.batches import Jitter
from kdrepro.engine import fit_cohort
from kdrepro.training.members import Member
from kdrepro.training.resume import History

EPOCHS, STEPS = 4, 4
SETTINGS = {"epochs": EPOCHS, "device": "cpu", "precision": "fp32", "checkpoint_seconds": 0.0}


def batches(**changes) -> Batches:
    return Batches(
        **{
            "inputs": IMAGES,
            "targets": TARGETS,
            "batch_size": 8,
            "seed": 7,
            "augment": Jitter(pixels=1),
            **changes,
        }
    )


def sgd(parameters) -> SGD:
    return SGD(parameters, lr=0.2, momentum=0.9)


def falling(optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 1 - step / (EPOCHS * STEPS))


class Regressed(nn.Module):
    """Squared distance of logits through a weight of its own that is learnt, and dropout on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.dropout = nn.Parameter(torch.ones(5)), nn.Dropout(0.5)

    def forward(self, student: Outputs, teacher: Outputs, batch) -> dict[str, Tensor]:
        return {"apart": mse_loss(self.dropout(self.scale * student.logits), teacher.logits)}


def member(name: str, **changes) -> Member:
    """One of several students that have nothing in common but their batches: nets, objectives, optimisers differ."""
    soft = HintonKD(temperature=4.0, soft_weight=0.9)
    made: dict[str, dict[str, object]] = {
        "labels": {
            "student": images_net(1),
            "objective": Supervised(),
            "optimizer": lambda each: SGD(each, lr=0.1),
        },
        "soft": {"student": images_net(1), "objective": soft, "optimizer": sgd, "schedule": falling},
        "wide": {
            "student": images_net(2, width=20),
            "objective": soft,
            "optimizer": sgd,
            "gradient_clip": 0.5,
            # The best epoch is not the last, so what is kept is not what comes out of the loop.
            "validate": lambda net: abs(net[1][4].bias.sum().item() + 0.43),
        },
        "own weights": {
            "student": images_net(3),
            "objective": Regressed(),
            "optimizer": lambda each: AdamW(each, lr=0.05),
        },
    }
    return Member(**(made[name] | {"label": name} | changes))


NAMES = ("labels", "soft", "wide", "own weights")


def weights(some: Member) -> dict[str, Tensor]:
    return {
        f"{side}.{name}": value
        for side in ("student", "objective")
        for name, value in getattr(some, side).state_dict().items()
    }


def together(members: list[Member], data: Batches | None = None, **changes) -> list[History]:
    return fit_cohort(members, data or batches(), **({"teacher": images_net(0)} | SETTINGS | changes))


def alone(some: Member, data: Batches | None = None, **changes) -> History:
    """What `fit` makes of one member."""
    own = {name: value for name, value in vars(some).items() if name not in ("student", "objective", "label")}
    arguments = {"teacher": images_net(0)} | SETTINGS | own | changes
    return fit(some.student, some.objective, data or batches(), **arguments)


def same(one: Member, other: Member, histories: tuple[History, History]) -> None:
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)
    first, second = histories
    assert first.curves == second.curves
    assert (first.epochs, first.best_epoch) == (second.epochs, second.best_epoch)
