"""The checks of numbers and names: each error names the argument, what came, and what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from difflib import get_close_matches


def _number(name: str, value: object, expected: str) -> float:
    # A number of numpy is one too.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: got {value!r} ({type(value).__name__}), expected {expected}")
    return float(value)


def positive(name: str, value: object, *, or_zero: bool = False) -> float:
    """Return `value` as a float, or raise if it is not a finite number above 0 (`or_zero`: at least 0)."""
    expected = "a finite number of at least 0" if or_zero else "a finite number above 0"
    number = _number(name, value, expected)
    if not (math.isfinite(number) and (number > 0 or (or_zero and number == 0))):
        raise ValueError(f"{name}: got {value!r}, expected {expected}")
    return number


def finite(name: str, value: object) -> float:
    """Return `value` as a float, or raise if it is not a finite number."""
    number = _number(name, value, "a finite number")
    if not math.isfinite(number):
        raise ValueError(f"{name}: got {value!r}, expected a finite number")
    return number


def fraction(name: str, value: object, *, above_zero: bool = False, below_one: bool = False) -> float:
    """Return `value` as a float, or raise if it does not lie in [0, 1], or in that without one end or the other."""
    expected = f"a number in {'(' if above_zero else '['}0, 1{')' if below_one else ']'}"
    number = _number(name, value, expected)
    if not 0.0 <= number <= 1.0 or (above_zero and number == 0) or (below_one and number == 1):
        raise ValueError(f"{name}: got {value!r}, expected {expected}")
    return number


def whole(name: str, value: object, *, least: int = 0) -> int:
    """Return `value`, or raise if it is not an int of at least `least`."""
    # An integer of numpy is one too.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"{name}: got {value!r} ({type(value).__name__}), expected a whole number of at least {least}"
        )
    if value < least:
        raise ValueError(f"{name}: got {value!r}, expected a whole number of at least {least}")
    return int(value)


def told(problem: BaseException) -> str:
    """Return what an error says, with its notes, such as in which batch it was."""
    return "; ".join([str(problem), *getattr(problem, "__notes__", ())])


def wrong_name(name: str, value: object, allowed: Iterable[str]) -> ValueError:
    """The error for a name that is none of the right ones.

    >>> print(wrong_name("chapters", "hinton", ["hinton_kd", "fitnets"]))
    chapters: got 'hinton', expected one of hinton_kd, fitnets; did you mean 'hinton_kd'?
    """
    names = list(allowed)
    near = get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"{name}: got {value!r}, expected one of {', '.join(names) or '(there are none)'}{hint}"
    )


def choice(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value`, or raise with the allowed names, and the nearest one, if it is none of them."""
    names = list(allowed)
    if isinstance(value, str) and value in names:
        return value
    raise wrong_name(name, value, names)
