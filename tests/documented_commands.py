"""Whether the commands that a text or a workflow names exist: targets of make, commands and options of kdrepro."""

from __future__ import annotations

import re
from typing import Any

import typer
from project_files import ROOT

MAKE_TARGETS = set(
    re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
)


def problems_of_make(words: list[str]) -> list[str]:
    """What is wrong with the words after `make`; VARIABLE=value are left alone."""
    targets = [word for word in words if "=" not in word]
    return [
        f"make {word}: expected one of {', '.join(sorted(MAKE_TARGETS))}"
        for word in targets
        if word not in MAKE_TARGETS
    ]


def problems_of_kdrepro(words: list[str]) -> list[str]:
    """What is wrong with the words after `kdrepro`: unknown commands and unknown options."""
    from kdrepro.cli import app

    command: Any = typer.main.get_command(app)
    while words and getattr(command, "commands", None):
        if words[0] not in command.commands:
            return [f"kdrepro {words[0]}: expected one of {', '.join(command.commands)}"]
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    options = (word.split("=")[0] for word in words if word.startswith("--"))
    return [
        f"{option}: expected one of {', '.join(sorted(known))}" for option in options if option not in known
    ]
