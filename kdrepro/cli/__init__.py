"""The command line: train, judge, show, build the book, look over a teacher and a student."""

from __future__ import annotations

import io
import os
import sys
from importlib import metadata
from typing import Annotated

import typer

from kdrepro import checks
from kdrepro.cli.building import book_build, book_execute
from kdrepro.cli.checking import check
from kdrepro.cli.showing import claims, data, table
from kdrepro.cli.training import run, seeds_from

__all__ = ["app", "main", "seeds_from"]

app = typer.Typer(
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reproduce the knowledge-distillation papers, with seeds, intervals and cost.",
)
book_app = typer.Typer(no_args_is_help=True, help="Execute the chapters, and build the pages.")
app.add_typer(book_app, name="book")


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version, and stop.")] = False,
) -> None:
    """Reproduce the knowledge-distillation papers, with seeds, intervals and cost."""
    if version:
        typer.echo(f"kdrepro {metadata.version('kdrepro')}")
        raise typer.Exit


for command in (run, claims, table, data, check):
    app.command()(command)
book_app.command("execute")(book_execute)
book_app.command("build")(book_build)


def main() -> None:
    """Run the command line; a mistake in what was asked for is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # A file or pipe may have an encoding without the letters of formulas, as on Windows.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except (ValueError, TypeError, FloatingPointError, OSError, RuntimeError) as error:
        if os.environ.get("KDREPRO_TRACEBACK"):
            raise
        typer.echo(f"kdrepro: {checks.told(error)}", err=True)
        sys.exit(1)
