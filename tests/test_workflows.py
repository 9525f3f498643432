"""The workflows are valid, hold no more rights than they need, and call only commands that exist."""

from __future__ import annotations

import json
import re
import shlex
from importlib.resources import files
from typing import Any

import pytest
import yaml
from documented_commands import problems_of_kdrepro, problems_of_make
from jsonschema import Draft7Validator
from project_files import ROOT

WORKFLOWS = {file.stem: file for file in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}

# What a job may do beyond reading the code, and why.
RIGHTS = {
    ("reproduce", "propose"): {
        "contents": "write",
        "pull-requests": "write",
    },  # pushes a branch, opens a pull request
    ("book", "build"): {"contents": "read", "actions": "read"},  # reads what reproduce left
    ("book", "deploy"): {"pages": "write", "id-token": "write"},  # what deploy-pages asks for
}
SHELL_WORDS = {
    "set",
    "mkdir",
    "cp",
    "test",
    "for",
    "done",
    "if",
    "then",
    "else",
    "fi",
    "exit",
    "echo",
    "python3",
    "git",
    "gh",
    "make",
    ".venv/bin/kdrepro",
    ".venv/bin/python",
}

workflows = pytest.mark.parametrize("name", WORKFLOWS)


def _load(name: str) -> dict[str, Any]:
    # YAML 1.1 reads a bare `on` as true; GitHub and its schema read it as the word.
    content = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in content.items()}


def _steps(name: str) -> list[dict[str, Any]]:
    return [step for job in _load(name)["jobs"].values() for step in job["steps"]]


def _command_lines(script: str) -> list[list[str]]:
    """The commands of a step, each as its words; what is fed to a program by <<'WORD' is left out."""
    script = re.sub(r"<<'(\w+)'\n.*?\n\1\n", "\n", script, flags=re.DOTALL).replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in script.splitlines()]
    return [line for line in words if line]


def test_the_five_workflows_are_there() -> None:
    assert set(WORKFLOWS) == {"tests", "reproduce", "book", "colab", "bench"}


def test_the_speed_of_decoding_is_measured_by_the_clock() -> None:
    assert set(_load("bench")["on"]) == {"schedule", "workflow_dispatch"}
    (call,) = (
        words
        for step in _steps("bench")
        for words in _command_lines(step.get("run", ""))
        if words[0] == ".venv/bin/python"
    )
    assert call[1] == "bench/decode_speed.py"
    # The bench has a test of its own; here, that it has these options.
    known = (ROOT / call[1]).read_text(encoding="utf-8")
    assert all(f'"{word}"' in known for word in call[2:] if word.startswith("--"))


@workflows
def test_workflow_follows_the_schema(name: str) -> None:
    schemas = files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "github-workflows.json").read_text(encoding="utf-8"))
    errors = [
        f"{'/'.join(map(str, error.path))}: {error.message}"
        for error in Draft7Validator(schema).iter_errors(_load(name))
    ]
    assert errors == []
    broken = {**_load(name), "jobs": {"a b": {"runs-on": "ubuntu-latest"}}}
    assert list(Draft7Validator(schema).iter_errors(broken))


@workflows
def test_actions_are_pinned_by_commit_with_the_version_beside(name: str) -> None:
    text = WORKFLOWS[name].read_text(encoding="utf-8")
    used = re.findall(r"uses: (.*)", text)
    assert used
    assert [
        line for line in used if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line)
    ] == []


def test_one_action_has_one_pin() -> None:
    pins: dict[str, set[str]] = {}
    for name in WORKFLOWS:
        for action, pin in (step["uses"].split("@") for step in _steps(name) if "uses" in step):
            pins.setdefault(action, set()).add(pin)
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


@workflows
def test_rights_are_the_least(name: str) -> None:
    workflow = _load(name)
    assert workflow["permissions"] == {"contents": "read"}
    for job, content in workflow["jobs"].items():
        assert content.get("permissions") == RIGHTS.get((name, job)), job
        assert content["timeout-minutes"] <= 360, job
    for content in workflow["jobs"].values():
        if content.get("permissions", {}).get("contents") != "write":
            checkouts = [
                step for step in content["steps"] if step.get("uses", "").startswith("actions/checkout@")
            ]
            assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@workflows
def test_only_tests_runs_the_code_of_a_fork(name: str) -> None:
    triggers = set(_load(name)["on"])
    assert triggers <= {"push", "workflow_dispatch", "schedule"} | (
        {"pull_request"} if name == "tests" else set()
    )


def test_the_gpu_machine_is_a_variable_and_every_chapter_a_job_of_its_own() -> None:
    jobs = _load("reproduce")["jobs"]
    assert jobs["reproduce"]["runs-on"] == "${{ vars.GPU_RUNNER || 'ubuntu-latest' }}"
    assert jobs["reproduce"]["strategy"]["fail-fast"] is False
    assert "chapter" in jobs["reproduce"]["strategy"]["matrix"]
    others = [
        job["runs-on"] for name in WORKFLOWS for key, job in _load(name)["jobs"].items() if key != "reproduce"
    ]
    assert set(others) == {"ubuntu-latest"}


def test_what_a_chapter_leaves_is_uploaded_even_when_it_fails() -> None:
    uploads = [
        step
        for step in _load("reproduce")["jobs"]["reproduce"]["steps"]
        if step.get("uses", "").startswith("actions/upload-artifact@")
    ]
    assert {step["with"]["name"] for step in uploads} == {
        "rows-${{ matrix.chapter }}",
        "executed-${{ matrix.chapter }}",
    }
    for step in uploads:
        assert step["if"] == "always()"
        # Files and folders with a leading dot are left out of an artifact without a word.
        assert not re.search(r"(^|/)\.", step["with"]["path"])


@workflows
def test_commands_exist(name: str) -> None:
    calls = [words for step in _steps(name) for words in _command_lines(step.get("run", ""))]
    assert calls
    for words in calls:
        words = words[1:] if words[0] == "if" else words
        program = words[0]
        assert program in SHELL_WORDS or re.match(r"\w+=", program), words
        if program == "make":
            assert problems_of_make(words[1:]) == []
        if program == ".venv/bin/kdrepro":
            assert problems_of_kdrepro(words[1:]) == []


@workflows
def test_scripts_stop_at_the_first_error_and_read_inputs_from_the_environment(name: str) -> None:
    for step in _steps(name):
        script = step.get("run", "")
        # An expression inside a script is pasted into it before the shell reads it: whoever sets it could run code.
        assert "${{" not in script
        if len(_command_lines(script)) > 1:
            assert script.startswith("set -euo pipefail\n")
