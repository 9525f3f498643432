"""`kdrepro book`: the chapters executed, the pages built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdrepro.cli.options import Protocol


def book_execute(
    protocol: Protocol = "quick",
    chapter: Annotated[list[str] | None, typer.Option(help="Only this chapter; may be given again.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Execute even what is up to date.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds that one chapter may take.")] = 1800.0,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Chapters at a time. Default: of demonstrations as many as processors, of others one."
        ),
    ] = None,
) -> None:
    """Run the chapters that are stale, each in its own process; a failed one does not stop the others.

    To be run at the root of a checkout.
    """
    from kdrepro import book
    from kdrepro.data import cmudict, mnist

    root = _checkout("notebooks")
    digests = {each.name: each.digest for each in (mnist.load("mnist5k"), cmudict.load())}
    results = book.execute(
        root,
        chapters=chapter,
        protocol=protocol,
        device=device,
        data=digests,
        force=force,
        time_limit=time_limit,
        jobs=jobs,
    )
    if any(result.status == "failed" for result in results):
        raise typer.Exit(1)


def book_build() -> None:
    """Build the pages from the executed chapters and the recorded rows. To be run at the root of a checkout."""
    from kdrepro import book

    typer.echo(f"The book is in {book.build(_checkout('_config.yml', 'notebooks', 'book'))}")


def _checkout(*needed: str) -> Path:
    """Return the current folder, or raise if the sources that are `needed` are not in it."""
    missing = [name for name in needed if not Path(name).exists()]
    if missing:
        raise ValueError(
            f"{Path.cwd()}: has no {' and no '.join(missing)}, expected the root of a checkout of kdrepro"
        )
    return Path.cwd()
