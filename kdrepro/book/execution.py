"""Executing chapters: which of them are stale and why, what a failure leaves, and the one line that says so."""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from kdrepro import checks
from kdrepro.book import notebooks
from kdrepro.book.inputs import Inputs, differences, inputs
from kdrepro.book.notebooks import Notebook
from kdrepro.book.process import run_papermill
from kdrepro.ledger import user_folder
from kdrepro.protocols import DEMONSTRATIONS, EVIDENCE, PROTOCOLS

# What an executed notebook carries in its metadata: its inputs, the seconds it took, when it ended, why it failed.
RECORD = "kdrepro"


@dataclass(frozen=True)
class ChapterResult:
    """What became of one chapter; `notebook` holds its last good results, or is None if there never were any."""

    chapter: str
    status: Literal["executed", "up to date", "failed"]
    detail: str
    seconds: float
    notebook: Path | None

    def __str__(self) -> str:
        if self.status == "up to date":
            return self.status + (f" ({self.detail})" if self.detail else "")
        if self.status == "executed":
            return f"executed in {self.seconds:.0f} s ({self.detail})"
        kept = "its last good results stay" if self.notebook else "it has no earlier results"
        return f"FAILED after {self.seconds:.0f} s: {self.detail}; {kept}"


def executed(folder: Path, name: str) -> Path:
    """Where the last good results of a chapter lie."""
    return folder / "executed" / f"{name}.ipynb"


def failed(folder: Path, name: str) -> Path:
    """Where a failed attempt lies until a later one succeeds."""
    return folder / "executed" / f"{name}.failed.ipynb"


def execute(
    root: str | os.PathLike[str],
    *,
    chapters: Sequence[str] | None = None,
    protocol: str = "quick",
    seeds: Any = None,
    device: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
    force: bool = False,
    time_limit: float = 1800.0,
    jobs: int | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> list[ChapterResult]:
    """Execute the chapters that are stale, `jobs` at a time, and print one line for each as it is done.

    Results go to `executed/<chapter>.ipynb` below `folder`, which is `<root>/_build` unless given. A chapter is
    stale when its notebook, its parameters, the package's sources, claims or recorded rows, the pins, the Python or
    the `data` (names with digests) are not those of its last good results; `force` executes it even so. Results
    of a larger protocol are not replaced by a `quick` demonstration of the same.

    A chapter that fails or takes longer than `time_limit` seconds is killed with all its processes. Its last good
    results stay as they are, `executed/<chapter>.failed.ipynb` holds the attempt, and the others are executed all the
    same: look at the `status` of each result, which come in the order of the book. An attempt that is itself killed
    leaves the last good results too.

    Chapters side by side share the processors, unless `OMP_NUM_THREADS` says otherwise: small nets train faster so, on
    a thread each, than one after the other on all of them. Unless `jobs` is given, demonstrations have as many as there
    are processors, and chapters of a larger protocol, which may want all of a GPU, one.

    `protocol`, `seeds`, `device` and other `parameters` replace those of the cell tagged `parameters`. Raises
    ValueError before anything runs for a chapter, a protocol or a parameter that does not exist, for a time limit that
    is not above 0, and for fewer than one of `jobs`; TypeError for a parameter that is no JSON value, and for `jobs`
    that are no whole number.
    """
    root = Path(root).resolve()
    folder = root / "_build" if folder is None else Path(folder).resolve()
    checks.choice("protocol", protocol, PROTOCOLS)
    if not (math.isfinite(time_limit) and time_limit > 0):
        raise ValueError(f"time_limit: got {time_limit!r}, expected a finite number of seconds above 0")
    if jobs is not None:
        checks.whole("jobs", jobs, least=1)
    given = {"protocol": protocol, "seeds": seeds, "device": device, **(parameters or {})}
    given = {name: value for name, value in given.items() if value is not None}
    sources = {name: notebooks.read(root / "notebooks" / f"{name}.ipynb") for name in _chosen(root, chapters)}
    for name, source in sources.items():
        _check_parameters(f"notebooks/{name}.ipynb", source, given)
    chosen = [
        _Chapter(root, folder, name, source, given, data or {}, force=force, time_limit=time_limit)
        for name, source in sources.items()
    ]
    found: dict[str, ChapterResult] = {}
    stale: list[_Chapter] = []
    for each in chosen:
        why, note = each.stale(each.now())
        if why:
            stale.append(each)
        else:
            found[each.name] = each.up_to_date(note)
            print(f"{each.name}: {found[each.name]}", flush=True)
    if jobs is None:
        jobs = _processors() if protocol in DEMONSTRATIONS else 1
    jobs = min(jobs, len(stale))
    for result in _side_by_side(stale, jobs) if jobs > 1 else _one_by_one(stale):
        found[result.chapter] = result
    return [found[each.name] for each in chosen]


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_by_one(chapters: Sequence[_Chapter]) -> Iterator[ChapterResult]:
    for each in chapters:
        print(f"{each.name}: ", end="", flush=True)
        result = each.execute({}, threading.Event())
        print(result, flush=True)
        yield result


def _side_by_side(chapters: Sequence[_Chapter], jobs: int) -> Iterator[ChapterResult]:
    """Execute so many chapters at a time, and say what became of each; what interrupts this ends all of them."""
    threads = str(max(1, _processors() // jobs))
    # A user who has set them knows better.
    shared = {name: os.environ.get(name) or threads for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    print(
        f"{len(chapters)} chapters, {jobs} at a time, each on {shared['OMP_NUM_THREADS']} of "
        f"{_processors()} processors",
        flush=True,
    )
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            running = [pool.submit(each.execute, shared, stop) for each in chapters]
            for done in as_completed(running):
                result = done.result()
                print(f"{result.chapter}: {result}", flush=True)
                yield result
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _chosen(root: Path, asked: Sequence[str] | None) -> list[str]:
    there = notebooks.chapters(root)
    for name in asked or ():
        if name not in there:
            raise checks.wrong_name("chapters", name, there)
    return [name for name in there if asked is None or name in asked]


def _check_parameters(source: str, notebook: Notebook, given: Mapping[str, Any]) -> None:
    known = notebooks.parameters(notebook)
    for name, value in given.items():
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else "none: no cell is tagged `parameters`"
            raise ValueError(f"{name}: {source} has no such parameter, expected {expected}")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name}: got {value!r}, expected a JSON value: {error}") from None


@dataclass(frozen=True)
class _Chapter:
    """A chapter and how it is to be executed."""

    root: Path
    folder: Path
    name: str
    source: Notebook
    given: Mapping[str, Any]
    data: Mapping[str, str]
    force: bool
    time_limit: float

    @property
    def good(self) -> Path:
        return executed(self.folder, self.name)

    def now(self) -> Inputs:
        """What an execution would rest on."""
        return inputs(self.root, self.name, self.source, self.given, self.data)

    def stale(self, now: Inputs) -> tuple[str, str]:
        """Why it has to be executed, empty if it has not, and what is to be said of results that stay."""
        why, note = _stale(self.good, now)
        # A note says that what is there is of a larger protocol, and stays.
        if not why and not note and failed(self.folder, self.name).exists():
            why = "the last attempt failed"
        return why or ("forced" if self.force else ""), note

    def up_to_date(self, note: str) -> ChapterResult:
        return ChapterResult(self.name, "up to date", note, 0.0, self.good)

    def execute(self, environment: Mapping[str, str], stop: threading.Event) -> ChapterResult:
        """Execute it if it is stale; `stop` ends that with an `InterruptedError`."""
        start = time.monotonic()
        try:
            return self._execute(environment, stop, start)
        except InterruptedError:
            raise
        except OSError as error:
            # A full disk, say: the other chapters know nothing of it.
            reason = f"{type(error).__name__}: {error}"
            return self._failed(reason, time.monotonic() - start)

    def _execute(self, environment: Mapping[str, str], stop: threading.Event, start: float) -> ChapterResult:
        now = self.now()
        why, note = self.stale(now)
        if not why:
            return self.up_to_date(note)
        reason, notebook = _attempt(
            self.source,
            self.root,
            self.good.with_suffix(".log"),
            now["parameters"],
            environment=environment,
            time_limit=self.time_limit,
            stop=stop,
        )
        seconds = time.monotonic() - start
        attempt = failed(self.folder, self.name)
        record = {"inputs": now, "seconds": round(seconds, 1), "ended": _now()}
        if reason:
            notebook["metadata"][RECORD] = record | {"failure": reason}
            notebooks.write(attempt, notebook)
            return self._failed(reason, seconds)
        notebook["metadata"][RECORD] = record
        notebooks.write(self.good, notebook)
        attempt.unlink(missing_ok=True)
        return ChapterResult(self.name, "executed", why, seconds, self.good)

    def _failed(self, reason: str, seconds: float) -> ChapterResult:
        return ChapterResult(self.name, "failed", reason, seconds, self.good if self.good.exists() else None)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _stale(good: Path, now: Inputs) -> tuple[str, str]:
    """Why the chapter has to be executed, empty if it has not, and what is to be said of results that stay."""
    try:
        before: Inputs = notebooks.read(good)["metadata"][RECORD]["inputs"]
    except FileNotFoundError:
        return "never executed before", ""
    except (KeyError, TypeError, ValueError):
        return f"{good.name} holds no results of a chapter", ""
    asked, shown = now["parameters"]["protocol"], before.get("parameters", {}).get("protocol")
    if asked == "quick" and shown in EVIDENCE:
        # Of what was asked for then and is not asked for now, a device for instance, nothing needs another run.
        parameters = {**before["parameters"], **now["parameters"], "protocol": shown}
        if not differences(before, {**now, "parameters": parameters}):
            return "", f"executed at protocol {shown}"
    return differences(before, now), ""


def _attempt(
    source: Notebook,
    root: Path,
    log: Path,
    parameters: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    time_limit: float,
    stop: threading.Event,
) -> tuple[str, Notebook]:
    """Execute a chapter once: why it failed (empty if it did not), and the notebook as far as it came."""
    log.parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    # A folder of its own: an attempt that was killed may still be writing into the one that it had.
    with tempfile.TemporaryDirectory(prefix="kdrepro-chapter-", ignore_cleanup_errors=True) as work:
        # A demonstration is live: it starts without rows and leaves none among the user's. Larger protocols resume.
        live = parameters["protocol"] in DEMONSTRATIONS
        runs = Path(work, "runs") if live else Path.cwd() / user_folder()
        target = Path(work, "executed.ipynb")
        # What is executed is what was looked at, even if the file is being edited.
        notebooks.write(Path(work, "source.ipynb"), source)
        status = run_papermill(
            Path(work, "source.ipynb"),
            target,
            parameters=parameters,
            log=log,
            cwd=Path(work),
            environment={"KDREPRO_RUNS": str(runs), "PYTHONPATH": path, **environment},
            time_limit=time_limit,
            stop=stop,
        )
        try:
            notebook, complete = notebooks.read(target), True
        except (OSError, ValueError):
            notebook, complete = source, False
    if status == 0 and complete:
        return "", notebook
    if status is None:
        return f"it ran past its time limit of {time_limit:g} s", notebook
    return _first_error(notebook) or f"papermill ended with status {status}, see {log}", notebook


def _first_error(notebook: Notebook) -> str:
    """The error that ended an execution, with the number of its cell, or nothing if no cell holds one."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if output.get("output_type") == "error":
                message = str(output.get("evalue", "")).strip().split("\n")[0]
                return f"cell [{cell.get('execution_count')}]: {output.get('ename')}: {message}"
    return ""
