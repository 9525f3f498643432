"""Rows of the recipe of born-again networks, made up for the tests of its figures."""

from __future__ import annotations

import random

from recorded_rows import make_row

from kdrepro.ledger import Row

PROTOCOLS = {"": "reduced", "mnist_": "paper", "few_": "paper"}
_COHORT = ("ban1", "again", "ban_l", "cwtm", "dkpp", "smoothing")
# Errors of 1,000, by the end of an arm's name.
LEVELS = {
    "teacher": 52.0,
    "ban1": 46.0,
    "ban2": 43.0,
    "ban3": 41.0,
    "ban4": 44.0,
    "ban5": 55.0,
    "again": 51.0,
    "ban_l": 48.0,
    "cwtm": 50.5,
    "dkpp": 49.0,
    "smoothing": 40.0,
    "ens2": 40.0,
    "ens3": 38.0,
}


def _teachers(prefix: str, arm: str, seed: int, protocol: str) -> str | list[str] | None:
    def run(name: str) -> str:
        return f"born_again.{protocol}.{prefix}{name}.s{seed}"

    if arm.startswith("ens"):
        return [run(f"ban{place}") for place in range(1, int(arm[3:]) + 1)]
    if arm.startswith("ban") and arm[3:] not in ("1", "_l"):
        return run(f"ban{int(arm[3:]) - 1}")
    return run("teacher") if arm in ("ban1", "ban_l", "cwtm", "dkpp") else None


def born_again_row(prefix: str, arm: str, seed: int, errors: float, protocol: str = "", **changes) -> Row:
    """A row of one arm with so many errors of 1,000, and what is measured beside them."""
    protocol = protocol or PROTOCOLS[prefix]
    smoothed = arm == "smoothing"
    measured = {
        "test_error_rate": errors / 1000,
        "test_nll": errors / 250 + 0.1 * smoothed,
        "test_ece": errors / 2000 + 0.1 * smoothed,
        "train_accuracy": 1 - errors / 10_000,
    }
    if arm in ("ban_l", "cwtm", "dkpp") or (arm[3:].isdigit() and arm.startswith("ban")):
        measured["teacher_agreement"] = 0.98 + seed / 1000
    cohort = {"cohort": [f"{prefix}{name}" for name in _COHORT]} if arm in _COHORT else {}
    settings = {
        "recipe": "born_again",
        "protocol": protocol,
        "teacher": _teachers(prefix, arm, seed, protocol),
        "metrics": measured | changes.pop("metrics", {}),
        "config": cohort | changes.pop("config", {}),
        "seconds": 60.0 if cohort else 100.0,
    }
    return make_row(f"{prefix}{arm}", seed, errors, **(settings | changes))


def born_again_rows(
    prefix: str = "few_", *, seeds: int = 20, spread: float = 1.0, protocol: str = "", **levels: float
) -> list[Row]:
    """All arms of a family; a level of 0 leaves an arm out."""
    chance = random.Random(0)
    return [
        born_again_row(prefix, arm, seed, level + chance.gauss(0, spread), protocol)
        for arm, level in (LEVELS | levels).items()
        if not (prefix == "" and arm in ("ban4", "ban5"))
        for seed in range(seeds)
        if level
    ]


def all_born_again_rows() -> list[Row]:
    """All families, that on pictures with three seeds."""
    return [*born_again_rows("few_"), *born_again_rows("mnist_"), *born_again_rows("", seeds=3)]
