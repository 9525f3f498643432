"""Objectives to try the Distiller with: soft targets, and hints through a layer of their own."""

from torch import nn

from kdrepro import HintonKD

OBJECTIVE = HintonKD(temperature=4.0, soft_weight=0.9)


class Hints(nn.Module):
    """An objective with a layer of its own, between features of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.regressor = nn.Linear(8, 12)

    def forward(self, student, teacher, batch):
        apart = self.regressor(student.features["hidden"]) - teacher.features["hidden"]
        return {"hint": apart.square().mean()}
