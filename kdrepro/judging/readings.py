"""Which runs are compared with which: by the teacher a student learned from, or by seed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdrepro.claims.model import Comparison, Side
from kdrepro.judging.intervals import Interval, mean_interval
from kdrepro.ledger import Ledger, Row
from kdrepro.protocols import EVIDENCE


def reading(row: Row, metric: str) -> float | None:
    """What a row says about a metric, or None if it says nothing.

    `config.<key>` reads its configuration, and `parameters` how many it has.
    """
    if metric == "parameters":
        return float(row.parameters)
    prefix, _, key = metric.partition(".")
    if prefix != "config":
        return row.metrics.get(metric)
    value = row.config.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class Reading:
    """One value of a side: a metric of one seed, or its mean over the side's arms at that seed."""

    seed: int
    value: float
    runs: tuple[str, ...]
    teachers: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two readings that are compared; `second` is None where the other side is a number."""

    difference: float
    first: Reading
    second: Reading | None
    teachers: tuple[str, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """The run ids of both."""
        return self.first.runs + (self.second.runs if self.second else ())


def readings(rows: Iterable[Row], side: Side) -> list[Reading]:
    """The readings of a side: only seeds at which every arm of the side has a row with the metric."""
    found: dict[int, dict[str, tuple[float, Row]]] = {}
    for row in rows:
        value = reading(row, side.metric)
        if row.arm in side.arms and value is not None:
            found.setdefault(row.seed, {})[row.arm] = value, row
    return [
        Reading(
            seed,
            sum(value for value, _ in by_arm.values()) / len(by_arm),
            tuple(by_arm[arm][1].run for arm in side.arms),
            tuple(sorted({teacher for _, row in by_arm.values() for teacher in row.teachers})),
        )
        for seed, by_arm in sorted(found.items())
        if len(by_arm) == len(side.arms)
    ]


def _family(run: str) -> str:
    """The run id without its seed."""
    return run.rpartition(".s")[0]


def _taught_by(students: Sequence[Reading], teachers: Sequence[Reading]) -> bool:
    """Whether any student had one teacher alone, and that was a run of these arms."""
    families = {_family(run) for each in teachers for run in each.runs}
    return any(
        _family(run) in families for each in students if len(each.teachers) == 1 for run in each.teachers
    )


def partners(
    firsts: Sequence[Reading], seconds: Sequence[Reading], *, one_run: bool = False
) -> list[tuple[Reading, Reading]]:
    """Who is compared with whom.

    A single run on either side is compared with all of the other side when `one_run` says so. Otherwise, if
    the runs of one side are the teachers of the other's, a student goes with its teacher; else equal seeds go
    together.
    """
    if one_run and 1 in (len(firsts), len(seconds)):
        return [(first, second) for first in firsts for second in seconds]
    if _taught_by(firsts, seconds):
        return [(a, b) for a in firsts for b in seconds if set(a.teachers) & set(b.runs)]
    if _taught_by(seconds, firsts):
        return [(a, b) for b in seconds for a in firsts if set(b.teachers) & set(a.runs)]
    by_seed = {second.seed: second for second in seconds}
    return [(first, by_seed[first.seed]) for first in firsts if first.seed in by_seed]


def compare(rows: Sequence[Row], comparison: Comparison, *, one_run: Collection[str] = ()) -> list[Pair]:
    """The pairs of a comparison, each with the difference `lower` minus `higher`.

    `one_run` names the arms that exist once and are compared with every run of the other side. Where there is more than
    one run of such an arm, that of the least seed is it.
    """
    lower, higher = comparison.lower, comparison.higher
    if isinstance(lower, Side) and isinstance(higher, Side):
        once = [not set(side.arms).isdisjoint(one_run) for side in (lower, higher)]
        lows, highs = (once_only(readings(rows, side), side, one_run) for side in (lower, higher))
        pairs = partners(lows, highs, one_run=any(once))
        return [Pair(low.value - high.value, low, high, shared((low, high), once)) for low, high in pairs]
    if isinstance(lower, Side) and not isinstance(higher, Side):
        return [Pair(each.value - higher, each, None, each.teachers) for each in readings(rows, lower)]
    if isinstance(higher, Side) and not isinstance(lower, Side):
        return [Pair(lower - each.value, each, None, each.teachers) for each in readings(rows, higher)]
    raise ValueError(f"comparison: got {comparison!r}, expected an arm on one side at least")


def once_only(found: list[Reading], side: Side, one_run: Collection[str]) -> list[Reading]:
    """The readings of a side, and only the first of an arm that exists once."""
    return found if set(side.arms).isdisjoint(one_run) else found[:1]


def shared(readings: Sequence[Reading], once: Sequence[bool]) -> tuple[str, ...]:
    """The teachers that readings depend on; what a single run was made from is the same for all, and left out."""
    teachers = {
        each
        for reading, single in zip(readings, once, strict=True)
        if not single
        for each in reading.teachers
    }
    return tuple(sorted(teachers))


def independent(values: Sequence[float], teachers: Sequence[tuple[str, ...]]) -> list[float]:
    """The values as independent units: those that share a teacher, or are linked by others that do, are averaged first.

    Where all depend on the same teachers (or on none) the values stay as they are, and what is inferred from
    them is about these teachers. One that depends on none is a unit of its own.

    >>> independent([1.0, 3.0, 10.0, 20.0], [("t0",), ("t0",), ("t1",), ("t1",)])
    [2.0, 15.0]
    >>> independent([1.0, 3.0, 10.0, 20.0], [("t0", "u0"), ("t0", "u1"), ("t1", "u2"), ()])
    [2.0, 10.0, 20.0]
    """
    if len(set(teachers)) == 1:
        return list(values)
    groups: list[tuple[set[str], list[float]]] = []
    for value, own in zip(values, teachers, strict=True):
        linked = [group for group in groups if not group[0].isdisjoint(own)]
        if not linked:
            groups.append((set(own), [value]))
            continue
        (names, members), *others = linked
        for other in others:
            names |= other[0]
            members += other[1]
            groups.remove(other)
        names.update(own)
        members.append(value)
    return [sum(members) / len(members) for _, members in groups]


def summary(rows: Iterable[Row], side: Side) -> tuple[Interval, int] | None:
    """The mean of a side with its 95 % interval, and the number of runs; None without runs."""
    found = readings(rows, side)
    if not found:
        return None
    values = independent([each.value for each in found], [each.teachers for each in found])
    return mean_interval(values), len(found)


def differences(pairs: Sequence[Pair]) -> list[float]:
    """The differences of pairs as independent units."""
    return independent([pair.difference for pair in pairs], [pair.teachers for pair in pairs])


def difference(pairs: Sequence[Pair]) -> Interval | None:
    """The mean difference of pairs with its 95 % interval; None without pairs."""
    if not pairs:
        return None
    return mean_interval(differences(pairs))


def admitted(rows: Iterable[Row], *, recipe: str, protocol: str) -> list[Row]:
    """The rows that may judge a claim: of its recipe and protocol, on the test set, of committed code."""
    return [
        row
        for row in rows
        if row.recipe == recipe and row.protocol == protocol and row.split == "test" and not row.dirty
    ]


def rows_shown(ledger: Ledger, recipe: str, protocol: str) -> list[Row]:
    """The rows that a table or figure of a protocol shows.

    Rows of uncommitted code stand beside a paper's figures no more than in a verdict; those of the demonstrations
    `quick` and `smoke` are shown as they are.
    """
    return ledger.rows(recipe=recipe, protocol=protocol, clean=protocol in EVIDENCE)


def labelled(
    comparisons: Sequence[tuple[str, str]] | Mapping[str, tuple[str, str]],
) -> dict[str, tuple[str, str]]:
    """The comparisons by what they are called: their own names, or "first − second".

    >>> labelled([("a", "b")])
    {'a − b': ('a', 'b')}
    """
    if isinstance(comparisons, Mapping):
        return dict(comparisons)
    return {f"{first} − {second}": (first, second) for first, second in comparisons}
