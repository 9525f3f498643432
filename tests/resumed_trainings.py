"""A small training with everything that has a state, which can be stopped at any step."""

import torch
from small_pictures import IMAGES, TARGETS, images_net
from stopped_trainings import Stopped, stops_at
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from kdrepro import Batches, HintonKD, fit
from kdrepro.data.batches import Jitter

EPOCHS, STEPS = 4, 4


class WithOwnWeights(nn.Module):
    """Soft targets with a temperature of their own for each class, which is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.soft = HintonKD(temperature=4.0, soft_weight=0.9)

    def forward(self, student, teacher, batch):
        terms = self.soft(student, teacher, batch)
        return terms | {"scale": (self.scale * student.logits).square().mean() * 0.01}


def train(checkpoint=None, *, kill_at: int | None = None, validate_fails: bool = False, **changes):
    """Everything that has a state: dropout, BatchNorm, jitter, momentum, a schedule, validation, learnt weights."""
    student, objective = changes.pop("student", images_net(1)), WithOwnWeights()

    def validate(net: nn.Module) -> float:
        if validate_fails:
            raise Stopped
        # The best epoch is the second, and lies before most of the moments at which a run is stopped.
        return abs(net[1][4].bias.sum().item() + 0.4317)

    batches = Batches(
        changes.pop("inputs", IMAGES),
        changes.pop("targets", TARGETS),
        batch_size=changes.pop("batch_size", 8),
        seed=changes.pop("seed", 7),
        augment=changes.pop("augment", Jitter(pixels=1)),
        mask=changes.pop("mask", None),
    )
    arguments = {
        "objective": objective,
        "teacher": images_net(0),
        "optimizer": lambda parameters: SGD(parameters, lr=0.2, momentum=0.9),
        "schedule": lambda optimizer: LambdaLR(optimizer, lambda step: 1 - step / (EPOCHS * STEPS)),
        "epochs": EPOCHS,
        "validate": validate,
        "after_step": stops_at(kill_at),
        "device": "cpu",
        "precision": "fp32",
        "checkpoint_seconds": 0.0,
    }
    history = fit(student, batches=batches, checkpoint=checkpoint, **(arguments | changes))
    return {**student.state_dict(), "scale": objective.scale.detach()}, history


def same(one, other) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=0)
    assert one[1].curves == other[1].curves
    assert (one[1].epochs, one[1].best_epoch) == (other[1].epochs, other[1].best_epoch)
