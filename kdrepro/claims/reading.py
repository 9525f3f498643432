"""Reading one claims file, and checking every field of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdrepro.claims.model import Claim, Comparison, Deviation, Fixed, Paper, Side
from kdrepro.protocols import EVIDENCE

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CHECKED = {
    "P": "read in the paper",
    "R": "read in the official code",
    "S": "from a secondary source",
    "C": "computed from figures read in the paper or its code",
    "M": "from memory, unverified",
}
STATUSES = ("judged", "planned")

_COMMON = {"id", "statement", "where", "checked", "kind"}
_COMMON_OPTIONAL = {"says", "ours", "protocol", "instead"}
# The fields of each kind beyond the common ones: those that must be there, and those that may.
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "value": (
        {"arm", "metric", "value", "direction", "seeds"},
        {"unit", "tolerance", "tolerance_relative", "scale", "correct_out_of", "also", "one_run"},
    ),
    "order": ({"metric", "comparisons", "seeds"}, {"unit", "scale", "one_run", "premise"}),
    "recovery": ({"arm", "from", "to", "metric", "at_least", "seeds"}, {"one_run"}),
    "similar": ({"arms", "metric", "margin_relative", "seeds"}, set()),
    "out of reach": ({"reason"}, set()),
    "not run": ({"reason"}, set()),
}


class _Fields:
    """The fields of one TOML table, with errors that name the file, the entry and the field."""

    def __init__(self, table: object, place: str) -> None:
        if not isinstance(table, dict):
            raise ValueError(f"{place}: got {table!r}, expected a table")
        self.table: dict[str, Any] = table
        self.place = place

    def wrong(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{self.place}: {name}: got {self.table.get(name)!r}, expected {expected}")

    def only(self, required: Iterable[str], optional: Iterable[str] = ()) -> None:
        required, allowed = set(required), {*required, *optional}
        for name in sorted(self.table.keys() - allowed):
            raise ValueError(
                f"{self.place}: {name}: unknown field, expected one of {', '.join(sorted(allowed))}"
            )
        for name in sorted(required - self.table.keys()):
            raise ValueError(f"{self.place}: {name}: missing")

    def text(self, name: str, default: str | None = None) -> str:
        value = self.table.get(name, default)
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self.wrong(name, "text")
        return value.strip()

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        above: float | None = None,
        at_least: float | None = None,
    ) -> float:
        value = self.table.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(name, "a finite number")
        if above is not None and not value > above:
            raise self.wrong(name, f"a number above {above:g}")
        if at_least is not None and not value >= at_least:
            raise self.wrong(name, f"a number of at least {at_least:g}")
        return float(value)

    def whole(self, name: str, *, least: int) -> int:
        value = self.table.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(name, f"a whole number of at least {least}")
        return value

    def choice(self, name: str, allowed: Iterable[str], default: str | None = None) -> str:
        value = self.table.get(name, default)
        if value not in tuple(allowed):
            raise self.wrong(name, f"one of {', '.join(allowed)}")
        return str(value)

    def texts(self, name: str, *, least: int = 0) -> tuple[str, ...]:
        value = self.table.get(name, [])
        if (
            not isinstance(value, list)
            or len(value) < least
            or not all(isinstance(item, str) and item for item in value)
        ):
            raise self.wrong(name, f"a list of at least {least} texts" if least else "a list of texts")
        if len(set(value)) < len(value):
            raise self.wrong(name, "texts that differ")
        return tuple(value)

    def side(self, name: str, metric: str) -> Side | float:
        value = self.table.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        given = value if isinstance(value, list) else [value]
        names = [item for item in given if isinstance(item, str) and item]
        if not names or len(names) < len(given):
            raise self.wrong(name, 'an arm, "arm:metric", a list of arms, or a finite number')
        sides = [Side.of(item, metric) for item in names]
        arms, metrics = tuple(arm for side in sides for arm in side.arms), {side.metric for side in sides}
        if len(metrics) > 1 or len(set(arms)) < len(arms) or not all(arms):
            raise self.wrong(name, "different arms with one metric")
        return Side(arms, metrics.pop())

    def comparison(self, metric: str) -> Comparison:
        self.only({"lower", "higher"})
        compared = Comparison(self.side("lower", metric), self.side("higher", metric))
        if not compared.arms or compared.lower == compared.higher:
            raise ValueError(
                f"{self.place}: lower, higher: got {self.table!r}, expected two different sides, one of arms"
            )
        return compared


def _tolerance(entry: _Fields, value: float) -> float:
    given = [name for name in ("tolerance", "tolerance_relative") if name in entry.table]
    if len(given) != 1:
        raise ValueError(
            f"{entry.place}: tolerance: got {len(given)} of tolerance, tolerance_relative, expected one"
        )
    allowed = entry.number(given[0], at_least=0)
    return allowed if given[0] == "tolerance" else allowed * abs(value)


def _scaled(entry: _Fields) -> None:
    if "scale" in entry.table and not entry.text("unit", ""):
        raise ValueError(f"{entry.place}: scale: got no unit, expected the unit that it leads to")


def _value_rule(entry: _Fields) -> dict[str, Any]:
    value, metric = entry.number("value"), entry.text("metric")
    _scaled(entry)
    if "scale" in entry.table and "correct_out_of" in entry.table:
        raise ValueError(f"{entry.place}: scale: got correct_out_of too, expected one of the two")
    also = entry.table.get("also", [])
    if not isinstance(also, list):
        raise entry.wrong("also", "a list of tables")
    fixed = [_Fields(item, f"{entry.place}: also") for item in also]
    for item in fixed:
        item.only({"arm", "metric", "value"})
    return {
        "value": value,
        "arm": entry.text("arm"),
        "unit": entry.text("unit", ""),
        "tolerance": _tolerance(entry, value),
        "scale": entry.number("scale", 1.0, above=0),
        "correct_out_of": entry.whole("correct_out_of", least=1) if "correct_out_of" in entry.table else None,
        "direction": _Fields(entry.table["direction"], f"{entry.place}: direction").comparison(metric),
        "also": tuple(Fixed(item.text("arm"), item.text("metric"), item.number("value")) for item in fixed),
    }


def _comparisons(entry: _Fields, name: str) -> tuple[Comparison, ...]:
    given = entry.table[name]
    if not isinstance(given, list) or not given:
        raise entry.wrong(name, "a list of at least one comparison")
    metric = entry.text("metric")
    return tuple(_Fields(item, f"{entry.place}: {name}").comparison(metric) for item in given)


def _order_rule(entry: _Fields) -> dict[str, Any]:
    _scaled(entry)
    return {
        "comparisons": _comparisons(entry, "comparisons"),
        "premise": _comparisons(entry, "premise") if "premise" in entry.table else (),
        "unit": entry.text("unit", ""),
        "scale": entry.number("scale", 1.0, above=0),
    }


def _rule(entry: _Fields, kind: str) -> dict[str, Any]:
    if kind == "value":
        return _value_rule(entry)
    if kind == "order":
        return _order_rule(entry)
    if kind == "recovery":
        share = {"arm": entry.text("arm"), "start": entry.text("from"), "end": entry.text("to")}
        if len(set(share.values())) < 3:
            raise entry.wrong("to", "an arm other than arm and from")
        return {**share, "at_least": entry.number("at_least", above=0)}
    if kind == "similar":
        return {
            "arms": entry.texts("arms", least=2),
            "margin_relative": entry.number("margin_relative", above=0),
        }
    return {"reason": entry.text("reason")}


def _claim(table: object, *, file: str, number: int, recipe: str) -> Claim:
    name = table.get("id") if isinstance(table, dict) else None
    entry = _Fields(table, f"{file}: claim {name if isinstance(name, str) and name else f'number {number}'}")
    kind = entry.choice("kind", KINDS)
    required, optional = KINDS[kind]
    entry.only(_COMMON | required, _COMMON_OPTIONAL | optional)
    ours = entry.table.get("ours", False)
    if not isinstance(ours, bool):
        raise entry.wrong("ours", "true or false")
    judged = "seeds" in required
    if judged and kind != "value":
        entry.text("metric")
    claim = Claim(
        id=entry.text("id"),
        statement=entry.text("statement"),
        where=entry.text("where"),
        checked=entry.choice("checked", CHECKED),
        kind=kind,
        recipe=recipe,
        # Two runs are the least that have a spread; quick rows are never set beside a paper's number.
        seeds=entry.whole("seeds", least=2) if judged else 0,
        protocol=entry.choice("protocol", EVIDENCE, "paper"),
        says=entry.text("says", ""),
        ours=ours,
        metric=entry.text("metric", ""),
        one_run=entry.texts("one_run"),
        instead=entry.texts("instead"),
        **_rule(entry, kind),
    )
    unknown = set(claim.one_run) - set(claim.needs)
    if unknown:
        raise entry.wrong("one_run", f"arms of the claim: {', '.join(claim.needs)}")
    return claim


def _deviation(table: object, *, file: str, number: int) -> Deviation:
    entry = _Fields(table, f"{file}: deviation number {number}")
    names = ("topic", "paper", "code", "ours")
    entry.only(names)
    return Deviation(*(entry.text(name) for name in names))


def read_paper(file: Path) -> Paper:
    """Read and check one claims file.

    Raises ValueError that names the file, the claim and the field: an unknown kind or field, a missing
    tolerance, an id used twice, a key other than the file's name.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name}: not TOML: {error}") from error
    _Fields(content, file.name).only({"paper"}, {"claim", "deviation"})
    head = _Fields(content["paper"], f"{file.name}: paper")
    texts = ("key", "title", "venue", "arxiv", "recipe", "notebook")
    head.only({*texts, "position", "authors", "year", "status"}, {"rule_note"})
    if head.text("key") != file.stem:
        raise head.wrong("key", f"the name of the file, {file.stem}")
    lists = {name: content.get(name, []) for name in ("claim", "deviation")}
    for name, entries in lists.items():
        if not isinstance(entries, list):
            raise ValueError(f"{file.name}: {name}: got one table, expected [[{name}]]")
    claims = [
        _claim(each, file=file.name, number=n, recipe=head.text("recipe"))
        for n, each in enumerate(lists["claim"], 1)
    ]
    ids = [each.id for each in claims]
    for each in claims:
        if ids.count(each.id) > 1:
            raise ValueError(
                f"{file.name}: claim {each.id}: id: used {ids.count(each.id)} times, expected once"
            )
        for other in each.instead:
            if other not in ids or other == each.id:
                others = ", ".join(name for name in ids if name != each.id)
                raise ValueError(
                    f"{file.name}: claim {each.id}: instead: got {other!r}, expected one of {others}"
                )
    status = head.choice("status", STATUSES)
    # Claims may be written down long before the first run of their paper is recorded.
    if status == "judged" and not claims:
        raise head.wrong("status", "judged with claims, planned until there are runs")
    return Paper(
        **{name: head.text(name) for name in texts},
        position=head.whole("position", least=1),
        authors=head.texts("authors", least=1),
        year=head.whole("year", least=1900),
        status=status,
        rule_note=head.text("rule_note", ""),
        claims=tuple(claims),
        deviations=tuple(
            _deviation(each, file=file.name, number=n) for n, each in enumerate(lists["deviation"], 1)
        ),
    )
