"""The words in which a claim and its rule are written down: claims, comparisons, deviations, papers."""

from __future__ import annotations

from dataclasses import dataclass

from kdrepro import checks


@dataclass(frozen=True)
class Side:
    """One side of a comparison: the mean of a metric over one or several arms, seed by seed."""

    arms: tuple[str, ...]
    metric: str

    @classmethod
    def of(cls, name: str, metric: str) -> Side:
        """The side that "arm" or "arm:metric" names; `metric` is the one of an arm without its own.

        >>> Side.of("no_threes:test_errors_on_3", "test_errors")
        Side(arms=('no_threes',), metric='test_errors_on_3')
        """
        arm, _, own = name.partition(":")
        return cls((arm,), own or metric)


@dataclass(frozen=True)
class Comparison:
    """That `lower` lies below `higher`; one of the two may be a number."""

    lower: Side | float
    higher: Side | float

    @property
    def sides(self) -> tuple[Side, ...]:
        """The sides that are no numbers, the lower first."""
        return tuple(side for side in (self.lower, self.higher) if isinstance(side, Side))

    @property
    def number(self) -> float | None:
        """The side that is a number, or None."""
        return next((side for side in (self.lower, self.higher) if not isinstance(side, Side)), None)

    @property
    def arms(self) -> set[str]:
        """All arms that the comparison reads."""
        return {arm for side in self.sides for arm in side.arms}

    @property
    def metric(self) -> str:
        """What the comparison is in."""
        return self.sides[0].metric


@dataclass(frozen=True)
class Fixed:
    """That every row of an arm has this value."""

    arm: str
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One checkable statement of a paper and the rule that judges it; the kind says which fields are set.

    `tolerance` is absolute, in the unit of `value`. A reading x of a row enters as `scale * x`, or, with
    `correct_out_of` = n, as 100 (1 - x / n), the per cent that is right when x counts errors among n. In a claim of
    order it is the difference of two that is scaled. Where a comparison of the `premise` is not shown by the runs, the
    claim is inconclusive, whatever its own comparisons say.
    """

    id: str
    statement: str
    where: str
    checked: str
    kind: str
    recipe: str
    protocol: str = "paper"
    says: str = ""
    ours: bool = False
    seeds: int = 0
    metric: str = ""
    arm: str = ""
    value: float = 0.0
    unit: str = ""
    tolerance: float = 0.0
    scale: float = 1.0
    correct_out_of: int | None = None
    direction: Comparison | None = None
    also: tuple[Fixed, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    premise: tuple[Comparison, ...] = ()
    start: str = ""
    end: str = ""
    at_least: float = 0.0
    arms: tuple[str, ...] = ()
    margin_relative: float = 0.0
    reason: str = ""
    instead: tuple[str, ...] = ()
    one_run: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms whose rows the claim is judged by, sorted."""
        found = {*self.arms, *(each.arm for each in self.also)}
        for name in (self.arm, self.start, self.end):
            found |= set(Side.of(name, self.metric).arms)
        for comparison in (*self.comparisons, *self.premise, *([self.direction] if self.direction else [])):
            found |= comparison.arms
        return tuple(sorted(found - {""}))


@dataclass(frozen=True)
class Deviation:
    """One point where we do other than the paper, or where the paper leaves it open.

    `ours` may hold `{arm.key}`, the value of that key in the configuration of that arm's recorded rows.
    """

    topic: str
    paper: str
    code: str
    ours: str


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One publication: its header, its claims and our deviations from it."""

    key: str
    position: int
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    arxiv: str
    recipe: str
    notebook: str
    status: str
    rule_note: str = ""
    claims: tuple[Claim, ...] = ()
    deviations: tuple[Deviation, ...] = ()

    def claim(self, key: str) -> Claim:
        """The claim of an id; a wrong id gets a ValueError that lists the right ones."""
        there = {each.id: each for each in self.claims}
        return there[checks.choice("claim", key, there)]

    def origin(self, claim: Claim) -> str:
        """Whose a claim is: of the "paper", or ours, a "stand-in" for one of the paper's or an "addition"."""
        if not claim.ours:
            return "paper"
        return "stand-in" if any(claim.id in each.instead for each in self.claims) else "addition"

    @property
    def cited_as(self) -> str:
        """The short name in tables: first author and year."""
        families = [name.split()[-1] for name in self.authors]
        several = families[0] if len(families) == 1 else " & ".join(families)
        return f"{several if len(families) < 3 else families[0] + ' et al.'} ({self.year})"
