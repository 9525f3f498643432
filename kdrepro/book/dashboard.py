"""The dashboard of the front page: each paper, and how many of its claims have which verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from html import escape

from kdrepro.claims import Paper, papers
from kdrepro.judging.judgement import ORIGINS, UNJUDGED, Judgement, unfinished, verdict_counts
from kdrepro.ledger import Ledger
from kdrepro.verdicts import judge_paper


def dashboard(ledger: Ledger, *, chapters: Collection[str]) -> str:
    """The verdicts on the claims of all papers as an HTML table; a paper that has a chapter links to it."""
    judged = {each.key: judge_paper(each.key, ledger) for each in papers()}
    headings = "".join(f'<th scope="col">{label}</th>' for label in ORIGINS.values())
    rows = "".join(_row(each, judged[each.key], chapters) for each in papers())
    return (
        '<div class="kdrepro-table-wrap" role="region" aria-label="Verdicts by paper" tabindex="0">'
        '<table class="kdrepro-table kdrepro-dashboard kdrepro-stacked"><thead><tr><th scope="col">Paper</th>'
        f"{headings}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        f"<p>{_summary([one for each in judged.values() for one in each])}</p>"
    )


def _row(paper: Paper, judgements: list[Judgement], chapters: Collection[str]) -> str:
    name = escape(paper.cited_as)
    if paper.notebook in chapters:
        name = f'<a href="../notebooks/{escape(paper.notebook)}.html">{name}</a>'
    head = f'<th scope="row">{name}<span class="kdrepro-title">{escape(paper.title)}</span></th>'
    if paper.status == "planned":
        said = escape(unfinished(judgements))
        return f'<tr>{head}<td colspan="{len(ORIGINS)}" class="kdrepro-planned">{said}</td></tr>'
    # The labels take the place of the headings where the columns are stacked.
    cells = (
        f'<td data-label="{ORIGINS[origin]}">{_pills(counts)}</td>'
        for origin, counts in verdict_counts(paper, judgements).items()
    )
    return f"<tr>{head}{''.join(cells)}</tr>"


def _summary(judgements: list[Judgement]) -> str:
    """How many of the papers' own claims the runs judge, and how many questions of ours."""
    own, ours = (
        [each.verdict not in UNJUDGED for each in judgements if each.claim.ours is of_us]
        for of_us in (False, True)
    )
    return (
        f"Of {len(own)} claims of the papers themselves, {sum(own)} are judged; each other has its reason in the "
        f"chapter. Of {len(ours)} questions of ours {sum(ours)} are judged: stand-ins ask the same of what anybody can "
        "run, additions what the paper left out."
    )


def _pills(counts: Mapping[str, int]) -> str:
    pills = (
        f'<span class="verdict verdict-{verdict.replace(" ", "-")}">{count} {verdict}</span>'
        for verdict, count in counts.items()
    )
    return " ".join(pills) or "–"
