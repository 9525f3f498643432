"""Every malformed call gets an error that says which argument, what came and what was expected.

The cases lie in tests/malformed, one file per part of the package; a case is

    [[case]]
    call = "soft_target_loss(logits(2, 5), logits(2, 5), temperature=0)"    # a Python expression
    error = "ValueError"
    says = ["temperature: got 0, expected a finite number above 0"]          # fragments of the message

`call` sees the public names, and the names in `words` below. `folder` is an empty folder; `files` (a table of texts by
path) fills it. Whatever the error, the networks that a case made must be as they were, and so must the folder.
"""

import builtins
import dataclasses
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
import smoke_runs
import torch
from small_networks import network, snapshot
from torch import Tensor, nn
from typer.testing import CliRunner

import kdrepro
from kdrepro import (
    checkpoints,
    checks,
    devices,
    ledger,
    metrics,
    recipes,
    row,
    teacher,
    text_metrics,
    types,
    verdicts,
)
from kdrepro.data import cifar, mnist, multi30k, parallel, text
from kdrepro.data.batches import CropFlip, Jitter
from kdrepro.data.text import SentenceBatches, Vocabulary
from kdrepro.decode import beam_search, greedy
from kdrepro.models.densenet import DenseNet
from kdrepro.models.maxout import Maxout, Stage, maxout_net
from kdrepro.models.mlp import MLP, max_norm_
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.models.wide_resnet import WideResNet
from kdrepro.run import Run
from kdrepro.runner import Runner

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "malformed"


def logits(*shape: int, fill: float | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    if fill is not None:
        return torch.full(shape, fill, dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(dtype)


def targets(*shape: int, classes: int = 5, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def mask(*shape: int, value: bool = True) -> Tensor:
    return torch.full(shape, value)


def some_batches(count: int = 8, **changes: Any) -> kdrepro.Batches:
    arguments = {"inputs": logits(count, 4), "targets": targets(count), "batch_size": 4, "seed": 0, **changes}
    return kdrepro.Batches(**arguments)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def some_row(**changes: Any) -> row.Row:
    from recorded_rows import make_row

    return make_row("student_alone", 0, **changes)


def translator() -> LSTMSeq2Seq:
    return LSTMSeq2Seq(9, 7, hidden=4, layers=1)


def reported(book: ledger.Ledger) -> None:
    """Raise what the ledger reports: a malformed row is not an error, so that it does not hide the others."""
    assert book.rows() == []
    (problem,) = book.problems()
    raise ValueError(f"{problem.file.name}: {problem.message}")


def runner(folder: Path, **changes: Any) -> Runner:
    """A runner of the first recipe at its smallest, with rows and weights in `folder`."""
    return smoke_runs.runner(folder, recipes.load("hinton_kd"), **changes)


def train_with(folder: Path, name: str, **settings: Any) -> None:
    """Train an arm with some of its settings replaced; its teacher, if it needs one, has learnt nothing."""
    its = runner(folder)
    arm = its.recipe.arm(name)
    run = Run(its, name, dataclasses.replace(arm, overrides=arm.overrides | settings), 0)
    object.__setattr__(run, "teachers", lambda: [its.recipe.build(its.recipe.config("teacher", "smoke"))])
    arm.train(run)


def command(*arguments: str) -> None:
    """Call the command line; a wrong use of it, which typer prints, is raised with what it printed."""
    result = CliRunner().invoke(import_module("kdrepro.cli").app, arguments)
    if isinstance(result.exception, SystemExit):
        raise ValueError(" ".join(click.unstyle(result.output).split()))
    if result.exception is not None:
        raise result.exception


class Returns(nn.Module):
    """An objective that returns what it is given, or a network that does."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value, self.weight = value, nn.Parameter(torch.zeros(1))

    def forward(self, *ignored: Any) -> Any:
        return self.value


SHORTHANDS = (logits, targets, mask, some_batches, sgd, some_row, reported, runner, train_with, command)


def words(folder: Path, made: list[tuple[nn.Module, dict[str, Any]]]) -> dict[str, Any]:
    """What a case may say."""

    def kept(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def making(*arguments: Any, **named: Any) -> nn.Module:
            module = make(*arguments, **named)
            made.append((module, snapshot(module)))
            return module

        return making

    public = {name: getattr(kdrepro, name) for name in kdrepro.__all__}
    modules = (
        checkpoints,
        checks,
        cifar,
        devices,
        ledger,
        metrics,
        mnist,
        multi30k,
        parallel,
        recipes,
        row,
        teacher,
        text,
        text_metrics,
        torch,
        types,
        verdicts,
    )
    return {
        **{name: value for name, value in vars(builtins).items() if not name.startswith("_")},
        **public,
        **{module.__name__.rpartition(".")[2]: module for module in modules},
        **{make.__name__: make for make in SHORTHANDS},
        **{
            each.__name__: each
            for each in (Returns, CropFlip, Jitter, MLP, SentenceBatches, Vocabulary, WideResNet, max_norm_)
        },
        **{each.__name__: each for each in (DenseNet, Maxout, Stage, maxout_net, greedy, beam_search)},
        "network": kept(network),
        "translator": kept(translator),
        "book": import_module("kdrepro.book"),
        "kd": kdrepro.HintonKD(temperature=4.0, soft_weight=0.9),
        "nan": float("nan"),
        "inf": float("inf"),
        "nn": nn,
        "folder": folder,
    }


def read_cases() -> list[Any]:
    cases = []
    for file in sorted(FOLDER.glob("*.toml")):
        for number, case in enumerate(tomllib.loads(file.read_text(encoding="utf-8"))["case"], 1):
            assert set(case) - {"files"} == {"call", "error", "says"}, f"{file.name}: case {number}"
            assert case["says"], f"{file.name}: case {number} says nothing"
            cases.append(pytest.param(case, id=f"{file.stem}-{number}"))
    return cases


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("case", read_cases())
def test_the_error_names_the_argument_and_nothing_has_changed(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDREPRO_DATA", str(tmp_path))
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    for name, content in case.get("files", {}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    before = contents(tmp_path)
    made: list[tuple[nn.Module, dict[str, Any]]] = []
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the case says which
        eval(case["call"], words(tmp_path, made))
    message = str(caught.value)
    assert type(caught.value).__name__ == case["error"], message
    for fragment in case["says"]:
        assert fragment in message
    assert contents(tmp_path) == before
    for module, then in made:
        now = snapshot(module)
        assert now["bytes"] == then["bytes"]
        assert now["gradients"] == then["gradients"]


def test_there_are_enough_cases_and_none_twice():
    calls = [(case.values[0]["call"], str(case.values[0].get("files"))) for case in read_cases()]
    assert len(calls) >= 60
    assert len(set(calls)) == len(calls)
