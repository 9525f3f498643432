"""The tables of the book that are made from rows: means with intervals, differences, costs, where it all ran."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdrepro.claims import Comparison, Side
from kdrepro.judging.intervals import Interval, mean_interval
from kdrepro.judging.readings import compare, difference, labelled, reading, rows_shown, summary
from kdrepro.judging.wording import number
from kdrepro.ledger import Ledger, Row
from kdrepro.row import device_kind

NOT_RUN = "not run"


def plus_minus(interval: Interval, n: int) -> str:
    """A mean with the half-width of its interval, to the decimal place of the latter's second digit.

    >>> plus_minus(Interval(67.24, 64.0, 70.48), 5), plus_minus(Interval(67.0, float("-inf"), float("inf")), 1)
    ('67.2 ± 3.2', '67 (1 run)')
    >>> plus_minus(Interval(1773.7, 1736.4, 1811.0), 3), plus_minus(Interval(0.805, 0.8048, 0.8052), 3)
    ('1774 ± 37', '0.80500 ± 0.00020')
    """
    if interval.half == float("inf"):
        return f"{number(interval.mean)} ({n} run{'s' if n > 1 else ''})"
    if not (math.isfinite(interval.mean) and interval.half >= 1e-6):
        return f"{number(interval.mean)} ± {number(interval.half)}"
    places = max(0, 1 - math.floor(math.log10(interval.half)))
    grouped = "," if abs(interval.mean) >= 10_000 else ""
    return f"{interval.mean:{grouped}.{places}f} ± {interval.half:{grouped}.{places}f}"


def result_table(
    recipe: str,
    ledger: Ledger,
    arms: Sequence[str],
    metrics: Sequence[str] | Mapping[str, str],
    *,
    protocol: str = "paper",
) -> pd.DataFrame:
    """Mean ± half the 95 % interval of each metric, and the number of seeds, one row for each arm.

    `metrics` are names, or names with the headings of their columns. An arm without runs reads “not run”; one that has
    runs and not this metric, such as agreement with a teacher that it does not have, “–”. Of `parameters`, where all
    seeds have as many, the number alone.
    """
    rows = rows_shown(ledger, recipe, protocol)
    headings = metrics if isinstance(metrics, Mapping) else {name: name for name in metrics}
    records = []
    for arm in arms:
        found = {heading: summary(rows, Side.of(arm, name)) for name, heading in headings.items()}
        seeds = len({row.seed for row in rows if row.arm == arm})
        nothing = "–" if seeds else NOT_RUN
        cells = {heading: plus_minus(*each) if each else nothing for heading, each in found.items()}
        size = found.get(headings.get("parameters", ""))
        if size and (size[1] == 1 or size[0].half == 0):
            cells[headings["parameters"]] = number(size[0].mean)
        records.append({"Arm": arm, **cells, "Seeds": seeds})
    return pd.DataFrame(records, columns=("Arm", *headings.values(), "Seeds"))


def correction_table(
    recipe: str,
    ledger: Ledger,
    arm: str,
    metrics: Mapping[str, str],
    corrections: Mapping[str, str],
    *,
    protocol: str = "paper",
) -> pd.DataFrame:
    """One arm measured with its biases as they are and corrected: a row for each correction.

    `metrics` are names with their headings, `corrections` suffixes with what they stand for: `_bias_test` reads
    `test_errors_bias_test`, and the shift itself in `bias_test`; the empty suffix is no correction.
    """
    rows = rows_shown(ledger, recipe, protocol)

    def cell(metric: str) -> str:
        found = summary(rows, Side.of(arm, metric))
        return plus_minus(*found) if found else NOT_RUN

    records = [
        {
            "Biases": name,
            "Shift": cell(suffix[1:]) if suffix else "–",
            **{heading: cell(f"{metric}{suffix}") for metric, heading in metrics.items()},
            "Seeds": len({row.seed for row in rows if row.arm == arm}),
        }
        for suffix, name in corrections.items()
    ]
    return pd.DataFrame(records, columns=("Biases", "Shift", *metrics.values(), "Seeds"))


def paired_table(
    recipe: str,
    ledger: Ledger,
    comparisons: Sequence[tuple[str, str]] | Mapping[str, tuple[str, str]],
    *,
    metric: str = "test_errors",
    protocol: str = "paper",
    one_run: Collection[str] = (),
) -> pd.DataFrame:
    """The difference first minus second of each pair of arms, paired as in the verdicts, with its 95 % interval.

    A comparison may have a name of its own, and an arm its own metric as "arm:metric"; `one_run` names arms that
    exist once and are compared with every run of the other.
    """
    rows = rows_shown(ledger, recipe, protocol)
    records = []
    for name, (first, second) in labelled(comparisons).items():
        pairs = compare(rows, Comparison(Side.of(first, metric), Side.of(second, metric)), one_run=one_run)
        found = difference(pairs)
        known = found is not None and len(pairs) > 1
        records.append(
            {
                "Difference of": name,
                "Mean": number(found.mean) if found else NOT_RUN,
                "95 % interval": f"{number(found.low)} to {number(found.high)}" if found and known else "–",
                "Pairs": len(pairs),
            }
        )
    return pd.DataFrame(records, columns=("Difference of", "Mean", "95 % interval", "Pairs"))


def _seeds(rows: Iterable[Row]) -> str:
    """The seeds in short: runs of neighbours as a range.

    >>> _seeds([])
    '–'
    """
    seeds = sorted({row.seed for row in rows})
    starts = [seed for seed in seeds if seed - 1 not in seeds]
    ends = [seed for seed in seeds if seed + 1 not in seeds]
    return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True)) or "–"


def _device(row: Row) -> str:
    return re.sub(r"\b1 threads\b", "1 thread", row.device)


def cost_table(recipe: str, ledger: Ledger, *, protocol: str = "paper") -> pd.DataFrame:
    """What the runs cost: hours in all and minutes a run, by arm and device, and the sum for each device."""
    groups: dict[tuple[str, str], list[Row]] = {}
    rows = rows_shown(ledger, recipe, protocol)
    for row in rows:
        groups.setdefault((row.arm, _device(row)), []).append(row)

    def record(arm: str, device: str, some: Sequence[Row]) -> dict[str, Any]:
        seconds = sum(row.seconds for row in some)
        return {
            "Arm": arm,
            "Device": device,
            "Seeds": _seeds(some),
            "Runs": len(some),
            "Hours": number(seconds / 3600),
            "Minutes a run": number(seconds / 60 / len(some)),
        }

    records = [record(arm, device, some) for (arm, device), some in groups.items()]
    for device in sorted({_device(row) for row in rows}):
        own = [row for row in rows if _device(row) == device]
        records.append(record("all", device, own) | {"Seeds": "–"})
    return pd.DataFrame(records, columns=("Arm", "Device", "Seeds", "Runs", "Hours", "Minutes a run"))


def cost_words(recipe: str, ledger: Ledger, *protocols: str) -> str:
    """How many runs of each protocol there are, and how long they took on which device, in a sentence each."""
    sentences = []
    for protocol in protocols:
        costs = cost_table(recipe, ledger, protocol=protocol)
        parts = [
            f"{each['Runs']} run{'s' * (each['Runs'] > 1)}, "
            f"{each['Hours']} hour{'s' * (each['Hours'] != '1')} on {each['Device']}"
            for each in costs[costs["Arm"] == "all"].to_dict("records")
        ]
        sentences += [f"At protocol {protocol} {'; '.join(parts)}."] if parts else []
    return " ".join(sentences) or "Not run yet."


def machine_table(
    recipe: str,
    ledger: Ledger,
    arms: Sequence[str],
    headings: Mapping[str, str],
    *,
    protocol: str = "paper",
) -> pd.DataFrame:
    """Of each arm, what its runs on each device come to: seeds, and the least and the greatest value of each metric.

    For what depends on the machine. `headings` are the metrics, with what stands above them; an arm without runs has no
    line.
    """
    records = []
    for arm in arms:
        rows = [row for row in rows_shown(ledger, recipe, protocol) if row.arm == arm]
        for device in sorted({_device(row) for row in rows}):
            here = [row for row in rows if _device(row) == device]
            record = {"Arm": arm, "Net trained on": device, "Seeds": _seeds(here)}
            for metric, heading in headings.items():
                values = [value for row in here if (value := reading(row, metric)) is not None]
                ends = dict.fromkeys(f"{end:.1f}" for end in (min(values), max(values))) if values else ()
                record[heading] = " to ".join(ends) or "–"
            records.append(record)
    return pd.DataFrame(records, columns=("Arm", "Net trained on", "Seeds", *headings.values()))


def setting(value: object) -> str:
    """A value of a configuration as text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        # A bound such as √15 is a float of which :g shows digits that mean nothing.
        root = round(value**2) if 1 < value < 1e3 and not value.is_integer() else 0
        return f"√{root} (about {value:.3g})" if math.isclose(value**2, root) else f"{value:g}"
    if isinstance(value, list):
        return ", ".join(setting(each) for each in value)
    return str(value)


def _family(arm: str) -> str:
    """The arm whose settings are tried: "teacher" of "teacher.try3"."""
    return arm.partition(".try")[0]


def _differing(rows: Sequence[Row]) -> list[str]:
    """The settings in which rows of one arm differ; what a run finds out by itself is none."""
    keys = dict.fromkeys(key for row in rows for key in row.config if key != "epochs_run")
    return [key for key in keys if len({setting(row.config.get(key)) for row in rows}) > 1]


def selection_table(
    recipe: str, ledger: Ledger, *, metric: str = "test_errors", higher_is_better: bool = False
) -> pd.DataFrame:
    """What was tried on the held-out part of the training set, best first: the settings that differ, and the metric."""
    families: dict[str, list[Row]] = {}
    for row in ledger.rows(recipe=recipe, split="select"):
        families.setdefault(_family(row.arm), []).append(row)
    records = []
    for family, rows in families.items():
        groups: dict[str, list[Row]] = {}
        for row in rows:
            own = [f"{key.replace('_', ' ')} {setting(row.config.get(key))}" for key in _differing(rows)]
            groups.setdefault(", ".join(own) or "–", []).append(row)
        tried = []
        for words, some in groups.items():
            values = [value for row in some if (value := reading(row, metric)) is not None]
            mean = mean_interval(values) if values else None
            shown = plus_minus(mean, len(values)) if mean else "not recorded"
            record = {"Arm": family, "Settings": words, metric: shown, "Runs": len(some)}
            worth = (-mean.mean if higher_is_better else mean.mean) if mean else float("inf")
            tried.append((worth, record))
        records += [record for _, record in sorted(tried, key=lambda each: each[0])]
    return pd.DataFrame(records, columns=("Arm", "Settings", metric, "Runs"))


def stamp(recipe: str, ledger: Ledger, *, protocol: str = "paper") -> pd.DataFrame:
    """Where the numbers come from: protocol, seeds, devices, hours, versions, commits, data and dates of the rows."""
    rows = rows_shown(ledger, recipe, protocol)
    left_out = len(ledger.rows(recipe=recipe, protocol=protocol)) - len(rows)
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row.versions.items():
            versions.setdefault(name, set()).add(version)

    def listed(values: Iterable[str]) -> str:
        return ", ".join(sorted(set(values))) or NOT_RUN

    lines = {
        "Protocol": protocol,
        "Runs": f"{len(rows)} of {len({row.arm for row in rows})} arms",
        "Seeds": _seeds(rows),
        "Devices": listed(map(_device, rows)),
        "Hours": number(sum(row.seconds for row in rows) / 3600),
        "Versions": listed(f"{name} {' / '.join(sorted(several))}" for name, several in versions.items())
        + (
            "; of a run on several devices those of the last"
            if not all(device_kind(row.device) for row in rows)
            else ""
        ),
        "Commits": listed(
            f"{(row.commit or 'none')[:12]}{' (changed)' if row.dirty else ''}" for row in rows
        ),
        "Data": listed(" ".join(row.data.values()) for row in rows),
        "First and last run": " and ".join(
            dict.fromkeys((min(row.started for row in rows)[:16], max(row.started for row in rows)[:16]))
        )
        if rows
        else NOT_RUN,
        "Left out": f"{left_out} rows of uncommitted code, {len(ledger.problems())} unreadable files",
    }
    return pd.DataFrame({"What": list(lines), "Value": list(lines.values())})
