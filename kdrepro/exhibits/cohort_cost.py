"""What a student costs in a cohort and alone: seconds of runs that shared a teacher, beside those that had their own.

A cohort is shown each batch once and asks its teacher once for all; the rest of the work is each student's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from kdrepro.exhibits.run_tables import NOT_RUN
from kdrepro.judging.intervals import ratio_interval
from kdrepro.judging.readings import rows_shown
from kdrepro.judging.wording import number
from kdrepro.ledger import Ledger, Row


def saving_table(
    recipe: str, ledger: Ledger, pairs: Mapping[str, tuple[str, str]], *, protocol: str = "paper"
) -> pd.DataFrame:
    """Seconds a student, of an arm that trained in a cohort and of one that trained alone, and the share that is saved.

    `pairs` are named by what they are trained on: (the arm in a cohort, the arm alone). Only seeds at which both were
    trained that way on one device count, and are compared with each other. What else ran on the machine meanwhile is
    in the seconds of both.
    """
    rows = rows_shown(ledger, recipe, protocol)
    return pd.DataFrame([_record(name, rows, cohort, alone) for name, (cohort, alone) in pairs.items()])


def _record(name: str, rows: list[Row], cohort: str, alone: str) -> dict[str, Any]:
    together = {row.seed: row for row in rows if row.arm == cohort and len(_cohort(row)) > 1}
    single = {row.seed: row for row in rows if row.arm == alone and len(_cohort(row)) <= 1}
    seeds = [
        seed for seed in sorted(together) if seed in single and together[seed].device == single[seed].device
    ]
    record: dict[str, Any] = {"Trained on": name}
    record |= dict.fromkeys(("Students at once", "Seconds each", "Seconds alone", "Saved"), NOT_RUN)
    record["Pairs"] = len(seeds)
    if not seeds:
        return record
    shared, own = ([some[seed].seconds for seed in seeds] for some in (together, single))
    mean, low, high = ratio_interval([a - b for a, b in zip(own, shared, strict=True)], own)
    interval = f" ({number(100 * low)} to {number(100 * high)})" if math.isfinite(low) else ""
    sizes = sorted({len(_cohort(together[seed])) for seed in seeds})
    return record | {
        "Students at once": " or ".join(map(str, sizes)),
        "Seconds each": number(sum(shared) / len(seeds)),
        "Seconds alone": number(sum(own) / len(seeds)),
        "Saved": f"{number(100 * mean)}{interval} %",
    }


def _cohort(row: Row) -> list[str]:
    cohort = row.config.get("cohort")
    return cohort if isinstance(cohort, list) else []
