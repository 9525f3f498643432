"""The command line as the tests call it."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from kdrepro import cli


def said(*words: str) -> str:
    result = CliRunner().invoke(cli.app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def mistaken(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["kdrepro", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
