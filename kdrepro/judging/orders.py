"""The rules that compare arms: an order, and arms that do about as well; and how a comparison comes out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

from kdrepro.claims import Claim, Comparison, Side
from kdrepro.judging.intervals import Interval, enough, mean_interval
from kdrepro.judging.judgement import Judgement, named, not_run, settle
from kdrepro.judging.metric_names import SHARES, UNITS, uncorrected
from kdrepro.judging.readings import Pair, Reading, compare, differences, readings
from kdrepro.judging.wording import bounds, counted, number
from kdrepro.ledger import Row


class Outcome(NamedTuple):
    """How one comparison came out."""

    verdict: str
    interval: Interval
    n: int
    units: int
    needed: int | None
    against: bool = False  # open, and the mean is on the side that would contradict


def runs_of(found: Iterable[Pair | Reading]) -> tuple[str, ...]:
    """The runs behind pairs or readings, each once, sorted."""
    return tuple(sorted({run for each in found for run in each.runs}))


def needed_pairs(values: Sequence[float], n: int, distance: float) -> int | None:
    """How many pairs in all: the independent units that suffice, times the pairs that make one unit."""
    units = enough(values, distance=distance)
    return None if units is None else max(n + 1, math.ceil(units * n / len(values)))


def _worst(outcomes: Sequence[Outcome]) -> tuple[str, int | None]:
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


def ordered(pairs: Sequence[Pair], *, scale: float = 1.0) -> Outcome:
    """How an order comes out: `lower` minus `higher` below zero with its whole interval, or above, or neither."""
    values = [scale * each for each in differences(pairs)]
    interval = mean_interval(values)
    if interval.high < 0:
        return Outcome("reproduced", interval, len(pairs), len(values), None)
    if interval.low > 0:
        return Outcome("contradicted", interval, len(pairs), len(values), None)
    needed = needed_pairs(values, len(pairs), interval.mean)
    return Outcome("inconclusive", interval, len(pairs), len(values), needed, against=interval.mean > 0)


def _premise(claim: Claim, presumed: Sequence[Sequence[Pair]]) -> tuple[bool, str]:
    """Whether the runs show what the claim supposes, and in words what they show of it."""
    scales = [scale_of(claim, each) for each in claim.premise]
    outcomes = [ordered(pairs, scale=scale) for pairs, scale in zip(presumed, scales, strict=True)]
    words = [
        f"it supposes that {_supposed(claim, each)} {_found(claim, each, outcome)}"
        for each, outcome in zip(claim.premise, outcomes, strict=True)
    ]
    failed = [said for said, o in zip(words, outcomes, strict=True) if o.verdict != "reproduced"]
    return not failed, "; ".join(failed or words)


def _supposed(claim: Claim, comparison: Comparison) -> str:
    """What a comparison of the premise says, up to what was found."""
    sides = [named(each, claim.metric) for each in comparison.sides]
    if comparison.number is not None:
        return f"{sides[0]} is {_asked(claim, comparison)}, and it is"
    return f"{' is below '.join(sides)}, and the difference is"


def _own(claim: Claim, comparison: Comparison) -> bool:
    """Whether a comparison is in the claim's metric, its biases corrected or not, and so in its unit."""
    return uncorrected(claim.metric) in {uncorrected(side.metric) for side in comparison.sides}


def scale_of(claim: Claim, comparison: Comparison) -> float:
    """By what the numbers of a comparison are multiplied: the claim's scale in its metric, and shares by a hundred."""
    if claim.unit and _own(claim, comparison):
        return claim.scale
    return 100.0 if uncorrected(comparison.metric) in SHARES else 1.0


def unit_of(claim: Claim, comparison: Comparison) -> str:
    """The unit of these numbers with a space before it, the claim's where they are in its metric; or nothing."""
    if claim.unit and claim.correct_out_of is None and _own(claim, comparison):
        unit = claim.unit
    else:
        unit = "%" if uncorrected(comparison.metric) in SHARES else UNITS.get(comparison.metric, "")
    # Of two shares in per cent the difference is in points.
    if unit.startswith("%") and comparison.number is None:
        unit = "points"
    return f" {unit}" if unit else ""


def in_words(claim: Claim, comparison: Comparison, outcome: Outcome) -> str:
    """What a comparison comes to: the difference of its sides, or beside a number the side itself and the number."""
    # The unit says what it is in, unless the sides are measured in two ways.
    metrics = {side.metric for side in comparison.sides}
    known = metrics.pop() if len(metrics) == 1 and unit_of(claim, comparison) else claim.metric
    what = " minus ".join(named(each, known) for each in comparison.sides)
    asked = f"; {_asked(claim, comparison)} asked" if comparison.number is not None else ""
    return f"{what}: {_found(claim, comparison, outcome)}{asked}"


def _found(claim: Claim, comparison: Comparison, outcome: Outcome) -> str:
    """The difference, or beside a number the side itself, in its unit, with its interval."""
    interval, what = outcome.interval, "pairs"
    if comparison.number is not None:
        interval, what = beside_number(claim, comparison, interval), "runs"
    found = f"{number(interval.mean)}{unit_of(claim, comparison)}, {bounds(interval)}"
    return f"{found}, {counted(outcome.n, outcome.units, what)}"


def _asked(claim: Claim, comparison: Comparison) -> str:
    """On which side of which number the other side is to lie."""
    assert comparison.number is not None
    where = "below" if isinstance(comparison.lower, Side) else "above"
    return f"{where} {scale_of(claim, comparison) * comparison.number:g}"


def beside_number(claim: Claim, comparison: Comparison, difference: Interval) -> Interval:
    """The side that is compared with a number, from the difference of the two."""
    assert comparison.number is not None
    limit, (mean, low, high) = scale_of(claim, comparison) * comparison.number, difference
    if isinstance(comparison.lower, Side):
        return Interval(limit + mean, limit + low, limit + high)
    return Interval(limit - mean, limit - high, limit - low)


def judge_order(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """Reproduced if every interval of `lower` minus `higher` is below zero, contradicted if one is above.

    Where an interval of the premise is not below zero, inconclusive.
    """
    compared, presumed = (
        [compare(rows, each, one_run=claim.one_run) for each in comparisons]
        for comparisons in (claim.comparisons, claim.premise)
    )
    n = min(len(pairs) for pairs in (*compared, *presumed))
    runs = runs_of(pair for pairs in (*compared, *presumed) for pair in pairs)
    if n < claim.seeds:
        return not_run(claim, n=n, runs=runs)
    holds, supposed = _premise(claim, presumed)
    if not holds:
        detail = f"Cannot be judged: {supposed}."
        return Judgement(
            claim=claim, verdict="inconclusive", detail=detail, n=n, protocol=claim.protocol, runs=runs
        )
    outcomes = [
        ordered(pairs, scale=scale_of(claim, each))
        for each, pairs in zip(claim.comparisons, compared, strict=True)
    ]
    verdict, needed = _worst(outcomes)
    decided, decides = max(
        (each for each in zip(claim.comparisons, outcomes, strict=True) if each[1].verdict == verdict),
        key=lambda each: each[1].interval.high,
    )
    deciding = decides.interval
    sentences = [
        in_words(claim, each, outcome) for each, outcome in zip(claim.comparisons, outcomes, strict=True)
    ]
    return Judgement(
        claim=claim,
        verdict=verdict,
        detail="; ".join(sentences)
        + settle(needed, taught=any(each.units < each.n for each in outcomes))
        + (f"; {supposed}" if supposed else "")
        + ".",
        mean=deciding.mean,
        interval=(deciding.low, deciding.high),
        metric=decided.metric if len({each.metric for each in claim.comparisons}) > 1 else "",
        n=n,
        units=min(n, *(each.units for each in outcomes)),
        protocol=claim.protocol,
        seeds_needed=needed,
        runs=runs,
    )


def judge_similar(claim: Claim, rows: Sequence[Row]) -> Judgement:
    """Reproduced if every pairwise interval is within the margin, contradicted if one is wholly outside."""
    sides = [Side((arm,), claim.metric) for arm in claim.arms]
    by_arm = [readings(rows, side) for side in sides]
    compared = [compare(rows, Comparison(a, b)) for a, b in combinations(sides, 2)]
    n, runs = min(len(pairs) for pairs in compared), runs_of(each for found in by_arm for each in found)
    if n < claim.seeds:
        return not_run(claim, n=n, runs=runs)
    level = sum(sum(each.value for each in found) / len(found) for found in by_arm) / len(by_arm)
    margin = claim.margin_relative * abs(level)
    outcomes = []
    for pairs in compared:
        values = differences(pairs)
        interval = mean_interval(values)
        if -margin < interval.low and interval.high < margin:
            outcomes.append(Outcome("reproduced", interval, len(pairs), len(values), None))
        elif interval.low > margin or interval.high < -margin:
            outcomes.append(Outcome("contradicted", interval, len(pairs), len(values), None))
        else:
            needed = needed_pairs(values, len(pairs), margin - abs(interval.mean))
            outside = abs(interval.mean) > margin
            outcomes.append(
                Outcome("inconclusive", interval, len(pairs), len(values), needed, against=outside)
            )
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
    unit = unit_of(claim, Comparison(*sides[:2]))
    apart = verdict == "reproduced" and any(
        each.interval.low > 0 or each.interval.high < 0 for each in outcomes
    )
    return Judgement(
        claim=claim,
        verdict=verdict,
        detail=f"{first} minus {second} decides: {number(widest.mean)}{unit}, {bounds(widest)}, "
        f"{counted(decides.n, decides.units)}; {number(margin)} allowed, {100 * claim.margin_relative:.0f} % of the "
        f"mean {number(level)}{'; so similar, but not the same' if apart else ''}"
        f"{settle(needed, taught=any(each.units < each.n for each in outcomes))}.",
        mean=widest.mean,
        interval=(widest.low, widest.high),
        n=n,
        apart=apart,
        units=min(n, *(each.units for each in outcomes)),
        protocol=claim.protocol,
        seeds_needed=needed,
        runs=runs,
    )
