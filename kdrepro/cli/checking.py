"""`kdrepro check`: a teacher and a student of one's own, looked over before the hours are spent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from kdrepro import checks


def check(
    teacher: Annotated[
        str,
        typer.Argument(help="module:callable that returns the teacher, such as torchvision.models:resnet18."),
    ],
    student: Annotated[str, typer.Argument(help="module:callable that returns the student.")],
    batch: Annotated[
        str | None,
        typer.Option(
            help="module:callable that returns (inputs, targets) or a kdrepro.Batch; default: random images."
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Height and width of the random images; default: 32.")
    ] = None,
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
    from kdrepro.types import Batch

    sys.path.insert(0, "")
    nets = {"teacher": _made("teacher", teacher), "student": _made("student", student)}
    if batch and image_size is not None:
        raise ValueError(
            "image_size: got it with a batch, expected one of the two: it is of the random images"
        )
    if batch:
        given = _made("batch", batch)
    else:
        size = checks.whole("image_size", 32 if image_size is None else image_size, least=1)
        inputs = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
        given = (inputs, torch.zeros(8, dtype=torch.int64))
        typer.echo("No --batch given: random images, so whether the teacher knows anything is not asked.")
    findings = look_over(nets["teacher"], nets["student"], given)
    if not batch:
        findings = [finding for finding in findings if "chance" not in finding.code]
    typer.echo(format_findings(findings))
    if pairs:
        from kdrepro.layer_pairs import format_pairs, suggest_pairs

        seen = given.inputs if isinstance(given, Batch) else given[0]
        typer.echo(format_pairs(suggest_pairs(nets["teacher"], nets["student"], seen)))
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


def _made(side: str, name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(
            f"{side}: got {name!r}, expected module:callable, such as torchvision.models:resnet18"
        )
    try:
        found = import_module(module)
    # Whatever a stranger's file raises is what there is to say.
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        what = "there is no" if missing else "failed to import"
        raise ValueError(f"{side}: {what} module {module!r} ({type(error).__name__}: {error})") from error
    maker: Callable[[], Any] | None = getattr(found, attribute, None)
    if maker is None:
        raise ValueError(f"{side}: module {module!r} has no {attribute!r}")
    if not callable(maker):
        raise ValueError(f"{side}: {name} is a {type(maker).__name__}, expected something to call")
    try:
        return maker()
    except Exception as error:
        raise ValueError(
            f"{side}: {name}() failed with {type(error).__name__}: {error}; expected a callable without arguments"
        ) from error
