"""The rules that judge claims, one for each kind: a value, an order, a share of a gap, a similarity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from kdrepro.claims import Claim, Comparison, Side
from kdrepro.intervals import Interval, enough, mean_interval, ratio_interval
from kdrepro.judgement import Judgement, bounds, few, named, not_run, number, settle
from kdrepro.ledger import Row
from kdrepro.pairs import Pair, Reading, compare, independent, partners, reading, readings


class _Outcome(NamedTuple):
    """How one comparison came out."""

    verdict: str
    interval: Interval
    n: int
    needed: int | None
    against: bool = False  # open, and the mean is on the side that would contradict


def _runs(found: Iterable[Pair | Reading]) -> tuple[str, ...]:
    return tuple(sorted({run for each in found for run in each.runs}))


def _needed(values: Sequence[float], n: int, distance: float) -> int | None:
    """How many pairs in all: the independent units that suffice, times the pairs that make one unit."""
    units = enough(values, distance=distance)
    return None if units is None else max(n + 1, math.ceil(units * n / len(values)))


def _differences(pairs: Sequence[Pair]) -> list[float]:
    return independent([pair.difference for pair in pairs], [pair.teachers for pair in pairs])


def _worst(outcomes: Sequence[_Outcome]) -> tuple[str, int | None]:
    """The verdict on comparisons that must all hold, and how many seeds would settle those that are open."""
    verdict = next(
        each
        for each in ("contradicted", "inconclusive", "reproduced")
        if each in {o.verdict for o in outcomes}
    )
    if verdict != "inconclusive":
        return verdict, None
    still_open = [outcome for outcome in outcomes if outcome.verdict == verdict]
    # One that is reversed decides, so the first of those that lean there; else all have to be settled.
    against = [outcome for outcome in still_open if outcome.against]
    needs = [outcome.needed for outcome in against or still_open]
    known = [need for need in needs if need is not None]
    if against:
        return verdict, min(known, default=None)
    return verdict, max(known) if len(known) == len(needs) else None


def _ordered(pairs: Sequence[Pair], *, scale: float = 1.0) -> _Outcome:
    values = [scale * each for each in _differences(pairs)]
    interval = mean_interval(values)
    if interval.high < 0:
        return _Outcome("reproduced", interval, len(pairs), None)
    if interval.low > 0:
        return _Outcome("contradicted", interval, len(pairs), None)
    needed = _needed(values, len(pairs), interval.mean)
    return _Outcome("inconclusive", interval, len(pairs), needed, against=interval.mean > 0)


def _premise(claim: Claim, presumed: Sequence[Sequence[Pair]]) -> tuple[bool, str]:
    """Whether the runs show what the claim supposes, and in words what they show of it."""
    scales = [_scale(claim, each) for each in claim.premise]
    outcomes = [_ordered(pairs, scale=scale) for pairs, scale in zip(presumed, scales, strict=True)]
    words = [
        f"it supposes that {named(each.lower, claim.metric, scale=scale)} is below "
        f"{named(each.higher, claim.metric, scale=scale)}, and the difference is {number(outcome.interval.mean)}"
        f"{_unit(claim, each)}, {bounds(outcome.interval)}, {outcome.n} pairs"
        for each, outcome, scale in zip(claim.premise, outcomes, scales, strict=True)
    ]
    failed = [said for said, o in zip(words, outcomes, strict=True) if o.verdict != "reproduced"]
    return not failed, "; ".join(failed or words)


def _own(claim: Claim, comparison: Comparison) -> bool:
    """Whether a comparison is in the claim's metric, and so in its unit."""
    sides = (comparison.lower, comparison.higher)
    return any(isinstance(side, Side) and side.metric == claim.metric for side in sides)


def _scale(claim: Claim, comparison: Comparison) -> float:
    return claim.scale if _own(claim, comparison) else 1.0


def _unit(claim: Claim, comparison: Comparison) -> str:
    counted = claim.correct_out_of is None and _own(claim, comparison)
    return f" {claim.unit}" if claim.unit and counted else ""


def _metric(comparison: Comparison) -> str:
    """What a comparison is in."""
    sides = (side for side in (comparison.lower, comparison.higher) if isinstance(side, Side))
    return next(side.metric for side in sides)


def judge_order(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """Reproduced if every interval of `lower` minus `higher` is below zero, contradicted if one is above.

    Where an interval of the premise is not below zero, inconclusive.
    """
    compared, presumed = (
        [compare(rows, each, one_run=claim.one_run) for each in comparisons]
        for comparisons in (claim.comparisons, claim.premise)
    )
    n = min(len(pairs) for pairs in (*compared, *presumed))
    runs = _runs(pair for pairs in (*compared, *presumed) for pair in pairs)
    if n < claim.seeds:
        return not_run(claim, n=n, runs=runs)
    holds, supposed = _premise(claim, presumed)
    if not holds:
        detail = f"Cannot be judged: {supposed}."
        return Judgement(
            claim=claim, verdict="inconclusive", detail=detail, n=n, protocol=claim.protocol, runs=runs
        )
    outcomes = [_ordered(pairs, scale=claim.scale) for pairs in compared]
    verdict, needed = _worst(outcomes)
    unit = f" {claim.unit}" if claim.unit else ""
    decided, decides = max(
        (each for each in zip(claim.comparisons, outcomes, strict=True) if each[1].verdict == verdict),
        key=lambda each: each[1].interval.high,
    )
    deciding = decides.interval
    sentences = [
        f"{named(comparison.lower, claim.metric, scale=claim.scale)} minus "
        f"{named(comparison.higher, claim.metric, scale=claim.scale)}: "
        f"{number(outcome.interval.mean)}{unit}, {bounds(outcome.interval)}, {outcome.n} pairs"
        for comparison, outcome in zip(claim.comparisons, outcomes, strict=True)
    ]
    return Judgement(
        claim=claim,
        verdict=verdict,
        detail="; ".join(sentences) + settle(needed) + (f"; {supposed}" if supposed else "") + ".",
        mean=deciding.mean,
        interval=(deciding.low, deciding.high),
        metric=_metric(decided) if len({_metric(each) for each in claim.comparisons}) > 1 else "",
        n=n,
        protocol=claim.protocol,
        seeds_needed=needed,
        runs=runs,
    )


def _in_unit(claim: Claim, value: float) -> float:
    if claim.correct_out_of is not None:
        return 100 * (1 - value / claim.correct_out_of)
    return claim.scale * value


def _differs(claim: Claim, rows: Sequence[Row]) -> tuple[str, str] | None:
    """Verdict and words for a further condition that a row breaks or that has no row; None if all hold."""
    for fixed in claim.also:
        values = [reading(row, fixed.metric) for row in rows if row.arm == fixed.arm]
        known = [value for value in values if value is not None]
        wrong = [value for value in known if value != fixed.value]
        if wrong:
            shown = f"{fixed.metric} of {fixed.arm} is {number(wrong[0])}, not {number(fixed.value)}"
            return "contradicted", shown
        if not known or len(known) < len(values):
            return "not run", f"not every row of {fixed.arm} says its {fixed.metric}"
    return None


def _direction(claim: Claim, rows: Sequence[Row]) -> tuple[str, str, int | None, tuple[str, ...]]:
    """The verdict where the number was missed, by the order that must hold; words, seeds needed, runs."""
    if claim.direction is None:
        raise ValueError(f"claim {claim.id}: direction: missing")
    pairs = compare(rows, claim.direction, one_run=claim.one_run)
    if len(pairs) < claim.seeds:
        return "not run", f"; its order has {few(claim, len(pairs))}", claim.seeds, _runs(pairs)
    scale = _scale(claim, claim.direction)
    outcome = _ordered(pairs, scale=scale)
    sides = " minus ".join(
        named(side, claim.metric, scale=scale) for side in (claim.direction.lower, claim.direction.higher)
    )
    words = (
        f"; {sides}: {number(outcome.interval.mean)}{_unit(claim, claim.direction)}, {bounds(outcome.interval)}"
        f"{settle(outcome.needed)}"
    )
    verdict = "direction holds" if outcome.verdict == "reproduced" else outcome.verdict
    return verdict, words, outcome.needed, _runs(pairs)


def judge_value(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """Reproduced if our mean lies within the tolerance of the paper's value, else as its direction says."""
    found = readings(rows, Side((claim.arm,), claim.metric))
    n, runs = len(found), _runs(found)
    if n < claim.seeds:
        return not_run(claim, n=n, runs=runs)
    interval = mean_interval(
        independent([_in_unit(claim, each.value) for each in found], [each.teachers for each in found])
    )
    away = abs(interval.mean - claim.value)
    detail = (
        f"Mean {number(interval.mean)} {claim.unit}, {bounds(interval)}, {n} runs; "
        f"the paper's {claim.value:g} is {number(away)} away, {number(claim.tolerance)} allowed"
    )
    needed = None
    broken = _differs(claim, rows)
    # A mean that lies on the limit but for rounding is inside.
    if away > claim.tolerance + 1e-9 * max(1.0, abs(claim.value)):
        verdict, words, needed, more = _direction(claim, rows)
        detail += words
        runs = tuple(sorted({*runs, *more}))
    elif broken:
        verdict, words = broken
        detail += f"; {words}"
    else:
        verdict = "reproduced"
    return Judgement(
        claim=claim,
        verdict=verdict,
        detail=detail + ".",
        mean=interval.mean,
        interval=(interval.low, interval.high),
        n=n,
        protocol=claim.protocol,
        seeds_needed=needed,
        runs=runs,
    )


def _triples(claim: Claim, rows: Sequence[Row]) -> list[tuple[Reading, Reading, Reading]]:
    """Student, start and end of the gap, joined run by run."""
    sides = [Side.of(name, claim.metric) for name in (claim.arm, claim.start, claim.end)]
    students, starts, ends = (readings(rows, side) for side in sides)
    of_start, of_end = (
        {
            student.seed: other
            for student, other in partners(
                students, others, one_run=not set(side.arms).isdisjoint(claim.one_run)
            )
        }
        for side, others in zip(sides[1:], (starts, ends), strict=True)
    )
    return [
        (each, of_start[each.seed], of_end[each.seed])
        for each in students
        if each.seed in of_start.keys() & of_end
    ]


def judge_recovery(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """Reproduced if the interval of the share (from - arm) / (from - to) lies at or above what is claimed.

    Contradicted if it lies wholly below. The interval is Fieller's, over runs joined with their own teacher;
    lower is better in the metric. Where the gap may be none, or runs the other way, Fieller's interval is
    unbounded or means nothing, and that is inconclusive.
    """
    joined = _triples(claim, rows)
    n, runs = len(joined), _runs(each for triple in joined for each in triple)
    if n < claim.seeds:
        return not_run(claim, n=n, runs=runs)
    teachers = [student.teachers for student, _, _ in joined]
    closed = independent([start.value - student.value for student, start, _ in joined], teachers)
    gaps = independent([start.value - end.value for _, start, end in joined], teachers)
    gap = mean_interval(gaps)
    shown = f"the gap of {number(gap.mean)} ({bounds(gap)}) between {claim.start} and {claim.end}"
    excess = [top - claim.at_least * bottom for top, bottom in zip(closed, gaps, strict=True)]
    # What settles the share once there is a gap to take it of.
    enough_for_share = _needed(excess, n, mean_interval(excess).mean)
    if gap.low <= 0:
        enough_for_gap = _needed(gaps, n, gap.mean) if gap.mean > 0 else None
        needed = (
            max(enough_for_gap, enough_for_share)
            if enough_for_gap is not None and enough_for_share is not None
            else None
        )
        return Judgement(
            claim=claim,
            verdict="inconclusive",
            detail=f"No share can be told of {shown}, which may be none or the other way round, {n} pairs"
            f"{settle(needed)}.",
            n=n,
            protocol=claim.protocol,
            seeds_needed=needed,
            runs=runs,
        )
    share, needed = ratio_interval(closed, gaps), None
    if share.low >= claim.at_least:
        verdict = "reproduced"
    elif share.high < claim.at_least:
        verdict = "contradicted"
    else:
        verdict, needed = "inconclusive", enough_for_share
    return Judgement(
        claim=claim,
        verdict=verdict,
        detail=f"{claim.arm} closes {number(share.mean)} of {shown}, {bounds(share)}, {n} pairs; "
        f"{number(claim.at_least)} claimed{settle(needed)}.",
        mean=share.mean,
        interval=(share.low, share.high),
        n=n,
        protocol=claim.protocol,
        seeds_needed=needed,
        runs=runs,
    )


def judge_similar(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """Reproduced if every pairwise interval is within the margin, contradicted if one is wholly outside."""
    sides = [Side((arm,), claim.metric) for arm in claim.arms]
    by_arm = [readings(rows, side) for side in sides]
    compared = [compare(rows, Comparison(a, b)) for a, b in combinations(sides, 2)]
    n, runs = min(len(pairs) for pairs in compared), _runs(each for found in by_arm for each in found)
    if n < claim.seeds:
        return not_run(claim, n=n, runs=runs)
    level = sum(sum(each.value for each in found) / len(found) for found in by_arm) / len(by_arm)
    margin = claim.margin_relative * abs(level)
    outcomes = []
    for pairs in compared:
        values = _differences(pairs)
        interval = mean_interval(values)
        if -margin < interval.low and interval.high < margin:
            outcomes.append(_Outcome("reproduced", interval, len(pairs), None))
        elif interval.low > margin or interval.high < -margin:
            outcomes.append(_Outcome("contradicted", interval, len(pairs), None))
        else:
            needed = _needed(values, len(pairs), margin - abs(interval.mean))
            outside = abs(interval.mean) > margin
            outcomes.append(_Outcome("inconclusive", interval, len(pairs), needed, against=outside))
    verdict, needed = _worst(outcomes)
    (first, second), decides = max(
        (
            each
            for each in zip(combinations(claim.arms, 2), outcomes, strict=True)
            if each[1].verdict == verdict
        ),
        key=lambda each: max(-each[1].interval.low, each[1].interval.high),
    )
    widest = decides.interval
    return Judgement(
        claim=claim,
        verdict=verdict,
        detail=f"{first} minus {second} decides: {number(widest.mean)}, {bounds(widest)}, {n} pairs; "
        f"{number(margin)} allowed, {claim.margin_relative:.0%} of the mean {number(level)}{settle(needed)}.",
        mean=widest.mean,
        interval=(widest.low, widest.high),
        n=n,
        protocol=claim.protocol,
        seeds_needed=needed,
        runs=runs,
    )
