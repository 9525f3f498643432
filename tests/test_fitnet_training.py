"""The optimisers and schedules of FitNets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdrepro.fitnet_training import optimizer_of, schedule_of
from kdrepro.recipes.fitnets import RECIPE, config


def settings(name: str, protocol: str) -> dict[str, object]:
    arm = RECIPE.arm(name)
    return config(arm.base or name, protocol) | arm.overrides


def test_convolutions_have_a_part_of_the_rate_and_the_regressor_all_of_it():
    its = settings("depth5_hint", "reduced")
    net, regressor = RECIPE.build(its), nn.Conv2d(2, 2, 1)
    optimizer = optimizer_of(its, net)([*net.parameters(), *regressor.parameters()])
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rate = 0.005 * (0.05 if isinstance(layer, nn.Conv2d) else 1)
            assert [rates[id(each)] for each in layer.parameters()] == pytest.approx([rate, rate])
    assert {rates[id(each)] for each in regressor.parameters()} == {0.005}


def test_the_teachers_rate_and_momentum_end_where_the_whole_schedule_ends():
    for protocol, epochs in (("reduced", 25), ("paper", 500)):
        its = settings("cifar_teacher", protocol)
        assert its["epochs"] // its["shorter"] == epochs
        weight = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=0.17, momentum=0.5)
        schedule = schedule_of(its, 3)(optimizer)
        found = []
        for _ in range(3 * epochs):
            optimizer.step()
            schedule.step()
            found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        assert found[-1] == pytest.approx((0.0017, 0.65))
        # Half way the momentum has risen, and the rate has fallen by half of what it falls.
        half = 3 * epochs // 2
        assert found[half - 1] == pytest.approx((0.17 * (1 - 0.99 * half / (3 * epochs)), 0.65))
