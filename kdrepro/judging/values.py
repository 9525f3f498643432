"""The rules that judge a number of the paper: a value, and a share of a gap."""

from __future__ import annotations

from collections.abc import Sequence

from kdrepro.claims import Claim, Comparison, Side
from kdrepro.judging.intervals import Interval, mean_interval, ratio_interval
from kdrepro.judging.judgement import Judgement, few, named, not_run, settle, stands_in
from kdrepro.judging.orders import in_words, needed_pairs, ordered, runs_of, scale_of, unit_of
from kdrepro.judging.readings import (
    Reading,
    compare,
    independent,
    once_only,
    partners,
    reading,
    readings,
    shared,
)
from kdrepro.judging.wording import bounds, counted, number
from kdrepro.ledger import Row


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
        return "not run", f"; its order has {few(claim, len(pairs))}", claim.seeds, runs_of(pairs)
    outcome = ordered(pairs, scale=scale_of(claim, claim.direction))
    enough = settle(outcome.needed, taught=outcome.units < outcome.n)
    words = f"; {in_words(claim, claim.direction, outcome)}{enough}"
    verdict = "direction holds" if outcome.verdict == "reproduced" else outcome.verdict
    return verdict, words, outcome.needed, runs_of(pairs)


def judge_value(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """Reproduced if our mean lies within the tolerance of the paper's value, else as its direction says."""
    found = readings(rows, Side((claim.arm,), claim.metric))
    n, runs = len(found), runs_of(found)
    if n < claim.seeds:
        return not_run(claim, n=n, runs=runs)
    values = independent([_in_unit(claim, each.value) for each in found], [each.teachers for each in found])
    interval = mean_interval(values)
    away = abs(interval.mean - claim.value)
    # A mean that lies on the limit but for rounding is inside.
    missed = away > claim.tolerance + 1e-9 * max(1.0, abs(claim.value))
    # As far as it takes to see on which side of the limit it is.
    distance = number(away) if number(away) != number(claim.tolerance) else f"{away:.4g}"
    detail = (
        f"Mean {number(interval.mean)} {claim.unit}, {bounds(interval)}, {counted(n, len(values), 'runs')}; "
        f"the paper's {claim.value:g} is {distance} away, {number(claim.tolerance)} allowed"
    )
    needed = None
    # A setting that is not the paper's is a finding whether or not the number is met.
    if broken := _differs(claim, rows):
        verdict, words = broken
        detail += f"; {words}"
    elif missed:
        verdict, words, needed, more = _direction(claim, rows)
        detail += words
        runs = tuple(sorted({*runs, *more}))
    else:
        verdict = "reproduced"
    return Judgement(
        claim=claim,
        verdict=verdict,
        detail=detail + "." + (stands_in(claim) if verdict == "not run" else ""),
        mean=interval.mean,
        interval=(interval.low, interval.high),
        n=n,
        units=len(values),
        protocol=claim.protocol,
        seeds_needed=needed,
        runs=runs,
    )


_Triple = tuple[Reading, Reading, Reading]


def _triples(claim: Claim, rows: Sequence[Row]) -> tuple[list[_Triple], list[tuple[str, ...]]]:
    """Student, start and end of the gap, joined run by run, and the teachers that each of these depends on."""
    sides = [Side.of(name, claim.metric) for name in (claim.arm, claim.start, claim.end)]
    once = [not set(side.arms).isdisjoint(claim.one_run) for side in sides]
    students, starts, ends = (once_only(readings(rows, side), side, claim.one_run) for side in sides)
    of_start, of_end = (
        partners(students, others, one_run=single)
        for single, others in zip(once[1:], (starts, ends), strict=True)
    )
    # One that taught several goes with each of them.
    joined = [
        (each, start, end)
        for each in students
        for own, start in of_start
        if own is each
        for other, end in of_end
        if other is each
    ]
    return joined, [shared(triple, once) for triple in joined]


def _nature(gap: Interval) -> str:
    return "runs the other way" if gap.high < 0 else "may be none or the other way round"


def judge_recovery(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """Reproduced if the interval of the share (from - arm) / (from - to) lies at or above what is claimed.

    Contradicted if it lies wholly below. The interval is Fieller's, over runs joined with their own teacher;
    lower is better in the metric. Where the gap may be none, or runs the other way, Fieller's interval is
    unbounded or means nothing, and that is inconclusive.
    """
    joined, teachers = _triples(claim, rows)
    n, runs = len(joined), runs_of(each for triple in joined for each in triple)
    if n < claim.seeds:
        return not_run(claim, n=n, runs=runs)
    closed = independent([start.value - student.value for student, start, _ in joined], teachers)
    gaps = independent([start.value - end.value for _, start, end in joined], teachers)
    gap = mean_interval(gaps)
    sides = [Side.of(name, claim.metric) for name in (claim.start, claim.end)]
    start, end = (named(side, claim.metric) for side in sides)
    ends = Comparison(*sides)
    told = Interval(*(scale_of(claim, ends) * each for each in gap))
    shown = f"the gap of {number(told.mean)}{unit_of(claim, ends)} ({bounds(told)}) between {start} and {end}"
    pairs, several = counted(n, len(gaps)), len(gaps) < n
    excess = [top - claim.at_least * bottom for top, bottom in zip(closed, gaps, strict=True)]
    # What settles the share once there is a gap to take it of.
    enough_for_share = needed_pairs(excess, n, mean_interval(excess).mean)
    if gap.low <= 0:
        enough_for_gap = needed_pairs(gaps, n, gap.mean) if gap.mean > 0 else None
        needed = (
            max(enough_for_gap, enough_for_share)
            if enough_for_gap is not None and enough_for_share is not None
            else None
        )
        return Judgement(
            claim=claim,
            verdict="inconclusive",
            detail=f"No share can be told of {shown}, which {_nature(gap)}, {pairs}{settle(needed, taught=several)}.",
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
        detail=f"{claim.arm} closes {number(share.mean)} of {shown}, {bounds(share)}, {pairs}; "
        f"at least {number(claim.at_least)} asked{settle(needed, taught=several)}.",
        mean=share.mean,
        interval=(share.low, share.high),
        n=n,
        units=len(gaps),
        protocol=claim.protocol,
        seeds_needed=needed,
        runs=runs,
    )
