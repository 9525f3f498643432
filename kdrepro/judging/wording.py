"""Numbers and intervals as verdicts, tables and figures say them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kdrepro.judging.intervals import Interval


def number(value: float) -> str:
    """A number with the digits that its size deserves.

    >>> number(146.2), number(13.24), number(2.0), number(0.0912), number(-0.0), number(4730.0), number(532998.0)
    ('146', '13.2', '2', '0.091', '0', '4730', '532,998')
    >>> number(-0.00086), number(0.0000086)
    ('-0.00086', '8.6e-06')
    """
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else "∞" if value > 0 else "-∞"
    size = abs(value)
    if 0 < size < 1e-4:
        return f"{value:.1e}"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3 if size >= 1e-3 else 5
    text = f"{value:,.0f}" if size >= 10_000 else f"{value:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def span(low: float, high: float) -> str:
    """The ends of an interval, or that there is none, as all values are the same.

    >>> span(1.5, 2.5), span(2.0, 2.0)
    ('1.5 to 2.5', 'all alike')
    """
    return f"{number(low)} to {number(high)}" if low != high else "all alike"


def bounds(interval: Interval) -> str:
    """An interval in words.

    >>> bounds(Interval(2.0, 1.5, 2.5)), bounds(Interval(2.0, 2.0, 2.0))
    ('95 % interval 1.5 to 2.5', 'all alike')
    """
    return ("95 % interval " if interval.low != interval.high else "") + span(interval.low, interval.high)


def from_to(counts: Iterable[int]) -> str:
    """Several counts in words: the one that they all are, or the least and the most.

    >>> from_to([3, 3]), from_to([1, 2, 5])
    ('3', '1 to 5')
    """
    least, most = min(several := list(counts)), max(several)
    return f"{least}" if least == most else f"{least} to {most}"


def counted(n: int, units: int, what: str = "pairs") -> str:
    """How many pairs or runs there are, and of how many teachers, where those of one teacher count once.

    >>> counted(5, 5), counted(10, 5, "runs")
    ('5 pairs', '10 runs of 5 teachers')
    """
    return f"{n} {what}" if units == n else f"{n} {what} of {units} teachers"
