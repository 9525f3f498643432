"""The tables of the book: verdicts and deviations here, those made from rows alone by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from kdrepro.claims import Claim, Comparison, Paper, Side, paper, papers
from kdrepro.exhibits.render import Html, show, typeset
from kdrepro.exhibits.run_tables import (
    correction_table,
    cost_table,
    cost_words,
    machine_table,
    paired_table,
    result_table,
    selection_table,
    setting,
    stamp,
)
from kdrepro.judging.intervals import Interval
from kdrepro.judging.judgement import ORIGINS, UNJUDGED, Judgement, unfinished, verdict_counts
from kdrepro.judging.metric_names import called
from kdrepro.judging.orders import beside_number, unit_of
from kdrepro.judging.readings import rows_shown
from kdrepro.judging.wording import number, span
from kdrepro.ledger import Ledger, Row
from kdrepro.verdicts import judge_paper

__all__ = [
    "Html",
    "across",
    "claim_table",
    "correction_table",
    "cost_table",
    "cost_words",
    "deviations_table",
    "headline",
    "machine_table",
    "paired_table",
    "readme_table",
    "result_table",
    "selection_table",
    "show",
    "show_claims",
    "stamp",
]


_OURS = "Ours, with 95 % interval"
# By the kind of a claim: what its number is.
_WHAT = {"value": "", "order": "difference ", "similar": "deciding difference ", "recovery": "share "}
_UNJUDGED_WORDS = {
    "not run": "Not run, not often enough yet, or not to be judged, with the reason in the chapter",
    "out of reach": "Out of reach, with the reason in the chapter",
}


def headline(claims: pd.DataFrame, claim: str, words: str) -> str:
    """Return, in Markdown, what a claim of `claim_table` says in a few `words`, its verdict, and what that rests on."""
    found = claims.loc[claim]
    return f"**{words} ({claim}): {found['Verdict']}.** {typeset(str(found['Because']))}"


def _paper_says(claim: Claim) -> str:
    if claim.says:
        return claim.says
    return f"{claim.value:g} {claim.unit}".strip() if claim.kind == "value" else "–"


def _we_find(judgement: Judgement) -> str:
    if judgement.mean is None or judgement.interval is None:
        return "–"
    claim, found = judgement.claim, Interval(judgement.mean, *judgement.interval)
    what, unit = _WHAT[claim.kind], claim.unit
    if claim.kind in ("order", "similar"):
        compared = claim.comparisons or (Comparison(*(Side((arm,), claim.metric) for arm in claim.arms[:2])),)
        decided = next(each for each in compared if judgement.metric in ("", each.metric))
        unit = unit_of(claim, decided).strip()
        if len(compared) == 1 and decided.number is not None:
            found, what = beside_number(claim, decided, found), ""
        elif judgement.metric and not unit:
            what = f"difference in {called(judgement.metric)} "
    end = "; similar, but not the same" if judgement.apart else ""
    return f"{what}{number(found.mean)} ({span(found.low, found.high)}) {unit}".strip() + end


def _label(claim: Claim, of: Paper) -> str:
    """The id, and for what is not the paper's claim whether it stands in for one or adds to it."""
    return f"{claim.id} (our {of.origin(claim)})" if claim.ours else claim.id


def claim_table(key: str, ledger: Ledger) -> pd.DataFrame:
    """One row for each claim of a paper such as `hinton2015`: what it says, the verdict, what we find, and why.

    The index holds the ids.
    """
    found = paper(key)
    records = [
        {
            "Claim": _label(each.claim, found),
            "Statement": each.claim.statement,
            "Verdict": each.verdict,
            "Because": each.detail,
            _OURS: _we_find(each),
            "Paper": _paper_says(each.claim),
            "Seeds": str(each.n) if each.claim.seeds else "–",
            "Where": each.claim.where,
        }
        for each in judge_paper(key, ledger)
    ]
    return pd.DataFrame(records, index=[each.id for each in found.claims])


def show_claims(claims: pd.DataFrame, *names: str, caption: str, because: bool = True) -> Html:
    """Some claims of `claim_table`, by their ids, as HTML; the verdict stands beside the statement.

    The paper's figures are left out where it has none for any of them, the reasons unless `because`. Where one is an
    order, the caption says which sign supports it. Raises `ValueError` for an id that the table does not have.
    """
    unknown = [name for name in names if name not in claims.index]
    if unknown:
        raise ValueError(f"names: got {unknown[0]!r}, expected some of {', '.join(claims.index)}")
    shown = claims.loc[list(names)].drop(columns=["Where"] if because else ["Where", "Because"])
    if shown["Paper"].str.startswith("not asked").all():
        shown = shown.drop(columns="Paper")
    return show(shown, _with_sign(caption, shown))


def _with_sign(caption: str, shown: pd.DataFrame) -> str:
    """The caption of a table of claims, and how a difference supports one, where there is any difference."""
    said = {
        "difference ": "Below zero a difference is as claimed",
        "deciding difference ": "a deciding difference has to be small, on either side",
    }
    words = "; ".join(how for start, how in said.items() if shown[_OURS].str.startswith(start).any())
    return (
        f"{caption}{'' if caption.endswith('?') else '.'} {words[0].upper()}{words[1:]}" if words else caption
    )


def across(*names: str, ledger: Ledger, caption: str) -> Html:
    """Claims of several papers, such as "hinton2015 H3b", as HTML, each headed by its paper.

    Raises `ValueError` for a paper or claim that there is not.
    """
    chosen = [(key, claim) for key, _, claim in (each.partition(" ") for each in names)]
    of_papers = {key: claim_table(key, ledger) for key in dict(chosen)}
    rows = [of_papers[key].loc[[paper(key).claim(claim).id]] for key, claim in chosen]
    shown = pd.concat(rows).drop(columns=["Where", "Paper", "Seeds"])
    shown.insert(0, "Paper", [paper(key).cited_as for key, _ in chosen])
    return show(shown, _with_sign(caption, shown))


def _filled(text: str, rows: Sequence[Row]) -> str:
    """The text with `{arm.key}` replaced by what the configuration of that arm's rows says."""

    def value(match: re.Match[str]) -> str:
        arm, _, key = match[1].rpartition(".")
        found = [row for row in rows if row.arm == arm]
        if not found:
            return "[not run yet]"
        found = [row for row in found if row.protocol == found[0].protocol]
        values = [setting(row.config[key]) for row in found if key in row.config]
        return " or ".join(dict.fromkeys(values)) or f"[{key} not recorded]"

    return re.sub(r"\{([A-Za-z0-9_.]+)\}", value, text)


def deviations_table(key: str, ledger: Ledger) -> pd.DataFrame:
    """Where we do other than the paper, or where it leaves something open; our figures come from the rows."""
    found = paper(key)
    # An arm that is only recorded in a shorter schedule shows that.
    rows = [row for protocol in ("paper", "reduced") for row in rows_shown(ledger, found.recipe, protocol)]
    records = [
        {"Topic": each.topic, "Paper": each.paper, "Code": each.code, "We do": _filled(each.ours, rows)}
        for each in found.deviations
    ]
    return pd.DataFrame(records, columns=("Topic", "Paper", "Code", "We do"))


def _counts_table(judged: Mapping[Paper, Sequence[Judgement]]) -> str:
    """A line of Markdown for each paper: how many claims of each origin have which verdict."""
    lines = [f"| paper | {' | '.join(ORIGINS.values())} |".lower(), f"|---{'|---' * len(ORIGINS)}|"]
    for found, judgements in judged.items():
        cells = (
            ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "–"
            for counts in verdict_counts(found, judgements).values()
        )
        lines.append(f"| {found.cited_as} | {' | '.join(cells)} |")
    return "\n".join(lines)


def readme_table(ledger: Ledger) -> str:
    """The verdicts in Markdown: how many there are of each, then claim by claim, folded away, and papers to come."""
    shown = {each: judge_paper(each.key, ledger) for each in papers() if each.status != "planned"}
    parts = [_counts_table(shown)]
    for found, judgements in shown.items():
        lines = [f"<details>\n<summary><b>{found.cited_as}</b>, {found.title}: claim by claim</summary>"]
        if any(each.verdict not in UNJUDGED for each in judgements):
            lines += ["", "| claim | | paper | ours (95 % interval) | verdict |", "|---|---|---|---|---|"]
        for each in judgements:
            if each.verdict not in UNJUDGED:
                cells = (
                    _label(each.claim, found),
                    each.claim.statement,
                    _paper_says(each.claim),
                    _we_find(each),
                    each.verdict,
                )
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        for verdict, words in _UNJUDGED_WORDS.items():
            left = [each.claim.id for each in judgements if each.verdict == verdict]
            lines += ["", f"{words}: {', '.join(left)}."] if left else []
        parts.append("\n".join([*lines, "", "</details>"]))
    planned = [
        f"{each.cited_as}: {unfinished(judge_paper(each.key, ledger))}."
        for each in papers()
        if each.status == "planned"
    ]
    parts += [" ".join(planned)] if planned else []
    return "\n\n".join(parts) + "\n"
