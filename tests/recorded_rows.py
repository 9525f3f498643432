"""Rows made up for the tests: single ones, and a ledger in which Hinton's paper comes out as it should."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from kdrepro.ledger import Ledger, Row

TEMPERATURES = ("1", "2", "2.5", "3", "4", "6", "8", "10", "14", "20", "30")


def make_row(arm: str, seed: int, errors: float = 100.0, **changes: Any) -> Row:
    """A row of the arm with so many test errors; `changes` replace its fields, or add to metrics and config."""
    fields: dict[str, Any] = {
        "recipe": "hinton_kd",
        "arm": arm,
        "protocol": "paper",
        "seed": seed,
        "teacher": None,
        "parameters": 1276810,
        "seconds": 720.0,
        "device": "cpu",
        "versions": {"python": "3.11.0", "torch": "2.9.0"},
        "commit": "0123456789abcdef",
        "dirty": False,
        "data": {"name": "mnist", "digest": "sha256:00"},
        "started": "2025-03-01T12:00:00+00:00",
    }
    metrics = {"test_errors": errors, "test_accuracy": 1 - errors / 10000, "test_error_rate": errors / 10000}
    config = {"epochs": 40, "learning_rate": 0.001, "batch_size": 128, "jitter": 2 if arm == "teacher" else 0}
    fields["metrics"] = metrics | changes.pop("metrics", {})
    fields["config"] = config | changes.pop("config", {})
    return Row(**(fields | changes))


def make_rows(arm: str, values: list[float], **changes: Any) -> list[Row]:
    """One row a seed."""
    return [make_row(arm, seed, value, **changes) for seed, value in enumerate(values)]


def teacher_run(seed: int) -> str:
    """The run id of a teacher."""
    return f"hinton_kd.paper.teacher.s{seed}"


def _curve(last: float, chance: random.Random) -> dict[str, list[float]]:
    return {"loss": [last + 2.3 * math.exp(-epoch / 6) + abs(chance.gauss(0, 0.01)) for epoch in range(40)]}


def _sweep(units: int, temperature: float, chance: random.Random) -> float:
    if units == 300:
        return 150 + chance.gauss(0, 3) + 25 * (temperature < 3)
    return 480 + 60 * (math.log(temperature) - math.log(3.1)) ** 2 + chance.gauss(0, 4)


def hinton_rows() -> list[Row]:
    """All arms of Hinton's recipe with the paper's figures and a spread, at protocol `paper`."""
    chance = random.Random(0)
    rows = [make_row("teacher", s, 67 + chance.gauss(0, 3), curves=_curve(0.05, chance)) for s in range(5)]
    for seed in range(10):
        soft = {"teacher": teacher_run(seed // 2), "config": {"temperature": 20.0, "soft_weight": 0.9}}
        rows.append(make_row("student_alone", seed, 146 + chance.gauss(0, 6), curves=_curve(0.0, chance)))
        rows.append(
            make_row("soft_targets_T20", seed, 76 + chance.gauss(0, 4), curves=_curve(0.2, chance), **soft)
        )
    for seed in range(5):
        taught = {"teacher": teacher_run(seed)}
        for units in (300, 30):
            rows.append(
                make_row(f"units{units}_alone", seed, {300: 190, 30: 560}[units] + chance.gauss(0, 4))
            )
            for name in TEMPERATURES:
                errors = _sweep(units, float(name), chance)
                rows.append(make_row(f"units{units}_T{name}", seed, errors, **taught))
        threes = {
            "test_errors_on_3": 133 + chance.gauss(0, 5),
            "test_errors_bias_test": 109 + chance.gauss(0, 3),
            "test_errors_on_3_bias_test": 14 + chance.gauss(0, 1),
            "test_errors_bias_train": 112 + chance.gauss(0, 3),
            "test_errors_on_3_bias_train": 18 + chance.gauss(0, 1),
            "bias_test": 3.4,
            "bias_train": 3.1,
        }
        rows.append(make_row("no_threes", seed, 206 + chance.gauss(0, 6), metrics=threes, **taught))
        rates = {
            "test_error_rate_bias_test": 0.132 + chance.gauss(0, 0.004),
            "test_error_rate_bias_train": 0.16 + chance.gauss(0, 0.004),
        }
        rows.append(make_row("sevens_eights", seed, 4730 + chance.gauss(0, 90), metrics=rates, **taught))
        rows.append(
            make_row(
                "ensemble_student", seed, 126 + chance.gauss(0, 2), teacher="hinton_kd.paper.ensemble.s0"
            )
        )
        rows.append(make_row("few_digits_hard", seed, 700 + chance.gauss(0, 15)))
        rows.append(make_row("few_digits_soft", seed, 260 + chance.gauss(0, 10), **taught))
    members = [f"hinton_kd.paper.student_alone.s{seed}" for seed in range(10)]
    rows.append(make_row("ensemble", 0, 122, teacher=members, parameters=12768100))
    rows.append(make_row("teacher", 0, 71, split="select", config={"learning_rate": 0.01}))
    return rows


def write_ledger(folder: Path, rows: list[Row]) -> Ledger:
    """A ledger in the folder that holds the rows."""
    ledger = Ledger(folder)
    for row in rows:
        ledger.write(row)
    return ledger
