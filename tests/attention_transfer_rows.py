"""Rows of the recipe of attention transfer, made up for the tests of its figures and answer."""

from __future__ import annotations

import random

from recorded_rows import make_row

from kdrepro.recipes.attention_transfer import ARMS

LEVELS = {
    "teacher_wrn16_2": 1219,
    "teacher_wrn40_1": 1190,
    "student_alone": 1500,
    "at": 1420,
    "at_10": 1490,
    "at_norm_0.1": 1495,
    "at_norm_by_group": 1425,
    "at_norm_1000": 1800,
    "f_at": 1480,
    "kd": 1400,
    "at_kd": 1390,
    "at_sum1": 1430,
    "at_sum4": 1440,
    "at_max1": 1450,
    "at_from40": 1430,
    "f_at_from40": 1490,
    "kd_from40": 1450,
    "at_kd_from40": 1410,
}


def row(arm: str, seed: int, errors: float, protocol: str = "reduced", **changes):
    """A row with the settings that the recipe gives the arm."""
    needs = ARMS[arm].needs(seed) if arm in ARMS else [("teacher_wrn16_2", seed)]
    teacher = f"attention_transfer.{protocol}.{needs[0][0]}.s{needs[0][1]}" if needs else None
    config = (ARMS[arm].overrides if arm in ARMS else {}) | changes.pop("config", {})
    return make_row(
        arm, seed, errors, recipe="attention_transfer", protocol=protocol, teacher=teacher, config=config, **changes
    )  # fmt: skip


def rows(protocol: str = "reduced", seeds: int = 5, spread: float = 6.0, **levels: float):
    chance = random.Random(0)
    return [
        row(arm, seed, level + chance.gauss(0, spread), protocol)
        for arm, level in (LEVELS | levels).items()
        for seed in range(seeds)
        if level
    ]
