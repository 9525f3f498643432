"""The programs of the papers, one file per paper, by name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from kdrepro import checks
from kdrepro.arms import Recipe


def names() -> list[str]:
    """Return the names of all recipes."""
    return sorted(module.name for module in iter_modules(__path__))


def load(name: str) -> Recipe:
    """Return a recipe by name; a wrong one raises `ValueError` with the right ones."""
    recipe = import_module(f"{__name__}.{checks.choice('recipe', name, names())}").RECIPE
    assert isinstance(recipe, Recipe)
    return recipe
