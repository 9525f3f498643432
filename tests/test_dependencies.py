"""The dependencies agree wherever they are named, and the pins are for all that they bring along."""

from __future__ import annotations

import importlib.metadata
import re
import sys

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from project_files import PROJECT, ROOT


def _declared() -> list[str]:
    return (
        PROJECT["dependencies"]
        + PROJECT["optional-dependencies"]["book"]
        + PROJECT["optional-dependencies"]["dev"]
    )


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pins.items()}


def _closure(requirements: list[str]) -> set[str]:
    """The installed distributions that the requirements bring along."""
    found: set[str] = set()
    todo = [Requirement(each) for each in requirements]
    while todo:
        requirement = todo.pop()
        if requirement.marker and not any(
            requirement.marker.evaluate({"extra": extra}) for extra in (requirement.extras or {""})
        ):
            continue
        name = canonicalize_name(requirement.name)
        if name not in found:
            found.add(name)
            for text in importlib.metadata.requires(name) or []:
                needed = Requirement(text)
                if needed.marker is None or any(
                    needed.marker.evaluate({"extra": extra}) for extra in ({""} | requirement.extras)
                ):
                    needed.marker = None
                    todo.append(needed)
    return found


def test_dependencies_have_lower_bounds_only() -> None:
    for text in PROJECT["dependencies"]:
        assert re.fullmatch(r"[a-z]+>=[\d.]+(; python_version < '3\.11')?", text), text
    bounded = [text for text in _declared() if re.search(r"<|==|~=|!=", text.split(";")[0])]
    assert bounded == ["jupyter-book>=1.0.4.post1,<2"]


def test_environment_yml_has_the_dependencies_of_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (each["pip"] for each in environment["dependencies"] if isinstance(each, dict))
    assert sorted(each for each in pip if not each.startswith("-")) == sorted(_declared())
    assert [each for each in pip if each.startswith("-")] == ["-c constraints.txt", "-e ."]
    assert "python=3.11" in environment["dependencies"]


def test_constraints_pin_every_dependency_and_meet_its_bound() -> None:
    pins = _pins()
    for requirement in map(Requirement, _declared()):
        if canonicalize_name(requirement.name) != "tomli":  # only for Pythons that the pins are not for
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the pins are for Python 3.11")
def test_constraints_pin_what_the_dependencies_bring_along() -> None:
    pins = _pins()
    # torch alone knows which CUDA it goes with.
    needed = {name for name in _closure(_declared()) if not re.match(r"nvidia-|cuda-|triton$", name)}
    assert {"torch", "sphinx", "jinja2"} <= needed
    assert sorted(needed - set(pins)) == []


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the pins are for Python 3.11")
def test_what_is_pinned_is_what_runs_here() -> None:
    installed = {name: importlib.metadata.version(name) for name in map(canonicalize_name, _pins())}
    assert {name: version for name, version in _pins().items() if installed[name] != version} == {}


def test_no_file_of_requirements_names_an_index() -> None:
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"index-url|find-links|https?://\S*/simple", text), name
