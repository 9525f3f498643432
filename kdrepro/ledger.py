"""The ledger: what runs leave, one small JSON file each, and how these files are written and read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

from kdrepro import checks, files
from kdrepro.protocols import PROTOCOLS
from kdrepro.row import SCHEMA, SPLITS, Row, run_id, wrong

__all__ = [
    "RESULTS",
    "SCHEMA",
    "SPLITS",
    "Ledger",
    "Problem",
    "Row",
    "recorded",
    "run_id",
    "user_folder",
]

RESULTS = Path(__file__).parent / "results"


class Problem(NamedTuple):
    """A file that looks like a row and is none, and why."""

    file: Path
    message: str


# Fields that a row need not have, because rows were written before there were any.
_LATER = {"samples"}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _read(file: Path) -> Row:
    """The row in a file; ValueError or OSError with the reason if there is none."""
    if file.is_dir():
        raise ValueError("a folder, expected a file")
    try:
        content = json.loads(file.read_bytes().decode("utf-8"), parse_constant=_no_constant)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not complete JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"got a JSON {type(content).__name__}, expected an object with the fields of a row")
    if "schema" in content and content["schema"] != SCHEMA:
        raise wrong("schema", content["schema"], f"{SCHEMA}, the only one that this version reads")
    known = {each.name for each in fields(Row)}
    missing = sorted(known - _LATER - content.keys())
    unknown = sorted(content.keys() - known)
    if missing or unknown:
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise ValueError(f"fields: {'; '.join(parts)}")
    row = Row(**content)
    expected = _place(row)
    if Path(file.parent.name, file.name) != expected:
        raise ValueError(f"holds the row of {row.run}, which belongs in {expected.as_posix()}")
    return row


def _place(row: Row) -> Path:
    """Where a row lies below a ledger's folder: the recipe's folder, then the run id without the recipe."""
    return Path(row.recipe, row.run[len(row.recipe) + 1 :] + ".json")


class Ledger:
    """All rows below one or several folders.

    The first folder is written into, and its row wins where two folders hold the same run. A folder that does
    not exist is empty.
    """

    def __init__(self, *folders: str | os.PathLike[str]) -> None:
        if not folders:
            raise ValueError("folders: got none, expected at least one")
        self.folders = tuple(Path(folder) for folder in folders)

    def __repr__(self) -> str:
        return f"Ledger({', '.join(repr(str(folder)) for folder in self.folders)})"

    def write(self, row: Row, *, replace: bool = False) -> Path:
        """Write a row into the first folder, whole or not at all, and return its file.

        Once this returns, the row is on the disk. Raises FileExistsError, and leaves the row that is there,
        when the folder already holds the run and `replace` is False.
        """
        file = self.folders[0] / _place(row)
        if file.exists() and not replace:
            raise FileExistsError(f"{file}: the row of {row.run} exists; replace=True would overwrite it")
        content = {key: value for key, value in asdict(row).items() if value or key not in _LATER}
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        with files.whole(file, over=replace) as beside:
            beside.write_text(text + "\n", encoding="utf-8", newline="\n")
        files.sync_folder(file.parent)
        return file

    def _scan(self, recipe: str = "*") -> Iterator[tuple[Path, Row | Problem]]:
        for folder in self.folders:
            misplaced = [(file, "lies outside a recipe's folder") for file in sorted(folder.glob("*.json"))]
            for file, reason in misplaced:
                yield folder, Problem(file, reason)
            for file in sorted(folder.glob(f"{recipe}/*.json")):
                try:
                    yield folder, _read(file)
                except OSError as error:
                    yield folder, Problem(file, f"cannot be read: {error.strerror or error}")
                except (ValueError, TypeError) as error:
                    yield folder, Problem(file, str(error))

    def rows(
        self,
        *,
        recipe: str | None = None,
        arm: str | Sequence[str] | None = None,
        protocol: str | None = None,
        split: str = "test",
        clean: bool = False,
    ) -> list[Row]:
        """The rows that fit, sorted by recipe, protocol, arm and seed; `clean` leaves out uncommitted code's.

        Where `clean` leaves out a row, that of a later folder stands in its place.
        Raises ValueError for a protocol or split that does not exist.
        """
        if protocol is not None:
            checks.choice("protocol", protocol, PROTOCOLS)
        checks.choice("split", split, SPLITS)
        arms = (arm,) if isinstance(arm, str) else arm
        found: dict[str, Row] = {}
        for _, row in self._scan(recipe or "*"):
            if (
                isinstance(row, Row)
                and (arms is None or row.arm in arms)
                and protocol in (None, row.protocol)
                and row.split == split
                and not (clean and row.dirty)
            ):
                found.setdefault(row.run, row)
        return sorted(found.values(), key=lambda row: (row.recipe, row.protocol, row.arm, row.seed))

    def get(self, run: str) -> Row | None:
        """The row of a run id, or None."""
        recipe, _, rest = run.partition(".")
        for folder in self.folders:
            file = folder / recipe / f"{rest}.json"
            # A file that is no row does not hide one in a later folder.
            with suppress(ValueError, TypeError, OSError):
                return _read(file)
        return None

    def problem(self, run: str) -> Problem | None:
        """What stands where the row of a run id would be written and is none, or None."""
        recipe, _, rest = run.partition(".")
        file = self.folders[0] / recipe / f"{rest}.json"
        try:
            if file.exists():
                _read(file)
        except (ValueError, TypeError, OSError) as error:
            return Problem(file, str(error))
        return None

    def problems(self) -> list[Problem]:
        """The files that look like rows and are none, with the reason; they do not disturb the others."""
        return [entry for _, entry in self._scan() if isinstance(entry, Problem)]


def recorded() -> Ledger:
    """The rows that ship with the package."""
    return Ledger(RESULTS)


def user_folder() -> Path:
    """Where a user's own rows go: `$KDREPRO_RUNS`, or `runs` in the current folder."""
    return Path(os.environ.get("KDREPRO_RUNS") or "runs")
