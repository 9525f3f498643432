"""`kdrepro check` on networks of a module of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import mistaken, said
from typer.testing import CliRunner

from kdrepro import cli


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module that can be imported by its name."""

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return write


def test_check_finds_a_student_with_other_classes(module) -> None:
    lines = "from torchvision.models import resnet18\ndef ten():\n    return resnet18(num_classes=10)\n"
    module("small_nets", lines)
    result = CliRunner().invoke(cli.app, ["check", "torchvision.models:resnet18", "small_nets:ten"])
    assert result.exit_code == 1
    assert "error" in result.output
    assert "1000" in result.output


def test_check_of_networks_that_fit_ends_well(module) -> None:
    lines = (
        "import torch\nfrom torch import nn\n"
        "def small():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()\n"
        "def batch():\n    return torch.randn(6, 3, 2, 2), torch.arange(6) % 3\n"
    )
    module("fitting_nets", lines)
    nets = ["fitting_nets:small", "fitting_nets:small"]
    assert "error" not in said("check", *nets, "--image-size", "2")
    assert "No --batch given" not in said("check", *nets, "--batch", "fitting_nets:batch")


def test_check_takes_what_the_function_takes(module, monkeypatch, capsys) -> None:
    lines = (
        "import torch\nfrom torch import nn\nfrom kdrepro import Batch\n"
        "def small():\n    return nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4, 3)).eval()\n"
        "def batch():\n    return Batch(torch.randn(6, 3, 2, 2), torch.arange(6) % 3)\n"
    )
    module("batched_nets", lines)
    words = ["check", "batched_nets:small", "batched_nets:small", "--batch", "batched_nets:batch"]
    printed = said(*words, "--pairs")
    assert "student 0 (4, 1, 1)" in printed
    mistaken(monkeypatch, *words, "--image-size", "8")
    assert "image_size: got it with a batch, expected one of the two" in capsys.readouterr().err


def test_check_names_layers_that_go_together(module) -> None:
    lines = "from torchvision.models import resnet18, resnet34\n"
    lines += "def small():\n    return resnet18(num_classes=10)\n"
    lines += "def large():\n    return resnet34(num_classes=10)\n"
    module("like_nets", lines)
    printed = said("check", "like_nets:large", "like_nets:small", "--pairs")
    assert "pair1  teacher layer1 (64, 8, 8)" in printed
    assert "student layer1 (64, 8, 8)" in printed
