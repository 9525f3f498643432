"""`kdrepro run`: what it trains, where the rows go, and what it will cost."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdrepro import checks
from kdrepro.cli.options import RECIPES
from kdrepro.ledger import RESULTS, Ledger, Row, recorded, user_folder
from kdrepro.protocols import EVIDENCE, PROTOCOLS
from kdrepro.row import device_kind

if TYPE_CHECKING:
    from kdrepro.arms import Recipe
    from kdrepro.data.parallel import EncodedText

# A slip of the finger in a range would fill the memory before anything is looked at.
_MOST_SEEDS = 10_000
# As many names of arms are listed; a list of all would fill a page.
_MOST_NAMES = 4


def seeds_from(text: str) -> list[int]:
    """Read `0-4,7` as [0, 1, 2, 3, 4, 7]; raises `ValueError` naming the part that is wrong.

    >>> seeds_from("0-2,7")
    [0, 1, 2, 7]
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(
                f"seeds: got {part!r} in {text!r}, expected whole numbers and ranges such as 0-4,7"
            )
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"seeds: got the range {part!r}, expected its end not below its start")
        if high - low >= _MOST_SEEDS:
            raise ValueError(f"seeds: got the range {part!r}, expected at most {_MOST_SEEDS:,} seeds")
        found += range(low, high + 1)
    return list(dict.fromkeys(found))


def run(
    recipe: Annotated[str, typer.Argument(help=f"The program of one paper: {RECIPES}.")],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="smoke (seconds), quick (embedded data), reduced or paper (the paper's data). "
            "Default: quick, or paper for --select and for a text of one's own."
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
        bool, typer.Option("--select", help="Try the recipe's candidate settings, on examples held out.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto (as the recipe says), fp32 or bf16.")] = "auto",
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
    """Train a recipe's arms. Done runs are skipped; a killed one goes on where it was; several may share a folder."""
    from kdrepro import recipes
    from kdrepro.arms import candidates
    from kdrepro.runner import Runner

    found, folder = recipes.load(recipe), RESULTS if record else user_folder()
    own = source is not None or target is not None
    text = None
    if own:
        from kdrepro import own_text

        protocol = checks.choice("protocol", protocol or "paper", PROTOCOLS)
        found, digest, encoded = _own_text(recipe, source, target, record=record, select=select)
        folder = own_text.own_folder(digest)
        arms = arms if arms is not None else ",".join(own_text.OWN_ARMS)
        text = encoded(protocol)
        typer.echo(f"{text.described()}.")
    # What is tried is for experiments that are recorded: a demonstration has too few examples to hold some out.
    protocol = protocol or ("paper" if select else "quick")
    if select:
        if not found.candidates:
            raise ValueError(f"select: {recipe} has no candidate settings to choose from")
        found = candidates(found)
    wanted = [name.strip() for name in arms.split(",")] if arms is not None else None
    if wanted is None and select:
        wanted = [name for name in found.arms if ".try" in name]
    for name in wanted or ():
        if name.startswith("own_") and name not in found.arms and not own:
            raise ValueError(f"arms: got {name!r}, an arm of a text of one's own: give --source and --target")
        found.arm(name)
    runner = Runner(
        found,
        protocol=protocol,
        ledger=Ledger(folder),
        # What is recorded never rests on weights that code of no commit has left.
        work=user_folder() / "recorded" if record else folder,
        recording=record,
        split="select" if select else "test",
        device=device,
        precision=precision,
    )
    if record and protocol not in EVIDENCE:
        raise ValueError(
            f"protocol: got {protocol!r} with --record, expected reduced or paper: others are not recorded"
        )
    if record and runner.commit is None:
        raise ValueError(
            "--record: git names no commit of the package's sources, and a row must: run it in a clone, as its owner"
        )
    if record and runner.dirty:
        raise ValueError("--record: the package's sources differ from the last commit; commit them first")
    plan = runner.plan(wanted, seeds_from(seeds) if seeds is not None else None)
    used = " and ".join(sorted({runner.settings(name)["precision"] for name, _ in plan}))
    typer.echo(
        f"{len(plan)} runs to do at protocol {protocol} on {runner.where}{f', {used}' if used else ''}; "
        f"rows go to {folder}"
    )
    typer.echo(_cost(found.name, protocol, [name for name, _ in plan], kind=runner.where.type, text=text))
    if plan_only:
        for name, seed in plan:
            typer.echo(f"  {runner.run_id(name, seed)}")
        return
    # As a whole, so that arms of one cohort train together.
    for number, row in enumerate(runner.each(plan), start=1):
        typer.echo(f"[{number}/{len(plan)}] {row.run}: {_measured(row)}, {row.seconds:.0f} s")
    if select:
        return
    typer.echo(
        f"To compare: kdrepro table {found.name} --protocol {protocol}"
        + (f" --ledger {folder}" if own else "")
    )
    if own:
        typer.echo("To translate: kdrepro.own_text.translator; the chapter shows how")


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
    recipe: str, source: Path | None, target: Path | None, *, record: bool, select: bool
) -> tuple[Recipe, str, Callable[[str], EncodedText]]:
    """The recipe for two text files, the text's digest, and its numbers at a protocol."""
    from kdrepro.own_text import own_text

    if recipe != "sequence_kd":
        raise ValueError(f"recipe: got {recipe!r} with --source or --target, expected sequence_kd")
    if source is None or target is None:
        given, missing = ("--target", "--source") if source is None else ("--source", "--target")
        raise ValueError(f"{missing[2:]}: got {given} alone, expected {missing} with it")
    if record:
        raise ValueError("record: got --record with a text of one's own, expected none")
    if select:
        raise ValueError(
            "select: got --select with a text of one's own, expected none: its settings are tried in Python, by "
            'kdrepro.own_text.own_runner(..., split="select")'
        )
    try:
        return own_text(source, target)
    except OSError as error:
        # It names the argument; here an option was typed.
        raise type(error)(re.sub(r"^(source|target)_file:", r"--\1:", str(error))) from error


def _cost(recipe: str, protocol: str, names: list[str], *, kind: str, text: EncodedText | None = None) -> str:
    """What a plan will take on a device of this kind, from recorded runs of the same arms: the median of an arm's.

    Of a `text` of one's own, from runs on the captions.
    """
    if not names:
        return "Nothing to do: every run has its row."
    if text is not None and protocol != "smoke" and kind == "cpu":
        from kdrepro.own_text import estimated_seconds

        rows = recorded().rows(recipe=recipe, protocol="paper")
        guesses = [estimated_seconds(name, text, rows) for name in names]
        known = [each for each in guesses if each is not None]
        if len(known) == len(names):
            return (
                f"Cost: an estimate, {sum(known) / 60:.0f} minutes by the words of the text, from what captions took "
                f"on {kind}; on another machine half or twice as long"
            )
    total, unknown = 0.0, set()
    rows = recorded().rows(recipe=recipe, protocol=protocol)
    for name in names:
        # A setting that was tried costs what its arm costs.
        base = name.partition(".try")[0]
        seconds = [row.seconds for row in rows if row.arm == base and device_kind(row.device) == kind]
        if seconds:
            total += statistics.median(seconds)
        else:
            unknown.add(base)
    if unknown:
        listed = ", ".join(sorted(unknown)[:_MOST_NAMES])
        more = f" and {len(unknown) - _MOST_NAMES} more" if len(unknown) > _MOST_NAMES else ""
        missing = f"no row says what {listed}{more} cost on {kind}"
        return (
            f"Cost: more than {total / 60:.1f} minutes; {missing}" if total else f"Cost: not known; {missing}"
        )
    return f"Cost: about {total / 60:.1f} minutes, if this machine is as fast as the one that recorded"
