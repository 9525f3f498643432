"""A row: what one run leaves, and the checks that keep a wrong one out of the ledger."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from kdrepro.protocols import PROTOCOLS

SCHEMA = 1
SPLITS = ("test", "select")
# Between the devices of a run that was killed on one and went on on another.
_THEN = ", then "

_LARGEST = sys.float_info.max
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,99}")


def run_id(*, recipe: str, arm: str, protocol: str, seed: int, split: str = "test") -> str:
    """The name of a run, which is also the name of its row.

    >>> run_id(recipe="hinton_kd", arm="soft_targets_T20", protocol="paper", seed=3)
    'hinton_kd.paper.soft_targets_T20.s3'
    """
    return f"{recipe}.{protocol}.{arm}.s{seed}" + (f".{split}" if split != "test" else "")


def devices_in_turn(descriptions: Sequence[str]) -> str:
    """Return, for the row of a run, the devices that it was trained on, in order.

    >>> devices_in_turn(["cuda: A100", "cuda: A100"]), devices_in_turn(["cuda: A100", "mps"])
    ('cuda: A100', 'cuda: A100, then mps')
    """
    return _THEN.join(dict.fromkeys(descriptions))


def device_kind(description: str) -> str:
    """Return the kind of device that a row names, or nothing where its run moved from one to another.

    >>> device_kind("cuda: A100"), device_kind("cuda: A100, then cuda: H100")
    ('cuda', '')
    """
    return "" if _THEN in description else description.partition(":")[0]


def wrong(name: str, value: object, expected: str) -> ValueError:
    """The error that says which field is wrong, what came and what was expected."""
    shown = repr(value)
    return ValueError(f"{name}: got {shown if len(shown) <= 80 else shown[:77] + '...'}, expected {expected}")


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(name, value, f"a whole number of at least {least}")


def _finite(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(name, value, "a finite number")
    if not -_LARGEST <= value <= _LARGEST:
        raise wrong(name, value, "a finite number")
    return float(value)


def _table(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) and key for key in value):
        raise wrong(name, value, "a dictionary with text keys")
    return value


def _texts(name: str, value: object) -> dict[str, str]:
    for key, text in _table(name, value).items():
        if not isinstance(text, str):
            raise wrong(f"{name}[{key!r}]", text, "text")
    return dict(_table(name, value))


def _json_value(name: str, value: object) -> Any:
    """The value as JSON gives it back: tuples become lists, and what JSON cannot hold is refused."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        if not -_LARGEST <= value <= _LARGEST:
            raise wrong(name, value, "a finite number")
        return value
    if isinstance(value, list | tuple):
        return [_json_value(f"{name}[{position}]", item) for position, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _json_value(f"{name}[{key!r}]", item) for key, item in _table(name, value).items()}
    raise wrong(name, value, "text, a number, true or false, None, a list or a dictionary of these")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one run leaves: its numbers and everything that fixes how they came about.

    `metrics` is flat and finite, `config` holds JSON values, `teacher` is the run id of the teacher (several for an
    ensemble), `started` is ISO 8601 in UTC, `seconds` is the time of the run, `curves` has one value per epoch, and
    `samples` are texts that the net wrote, or small arrays as texts, by what they are. Of a run that was killed and
    went on elsewhere `device` names both places; `versions`, `commit` and `started` are those of the process that ended
    it. Rows of the split `select` come from choosing hyper-parameters on held-out training data; no claim is judged by
    them.

    Raises ValueError that names the field when a value is of the wrong type or out of range.
    """

    recipe: str
    arm: str
    protocol: str
    seed: int
    metrics: dict[str, float]
    config: dict[str, Any]
    teacher: str | list[str] | None
    parameters: int
    seconds: float
    device: str
    versions: dict[str, str]
    commit: str | None
    dirty: bool
    data: dict[str, str]
    started: str
    split: str = "test"
    curves: dict[str, list[float]] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if isinstance(self.schema, bool) or self.schema != SCHEMA:
            raise wrong("schema", self.schema, f"{SCHEMA}, the only one that this version reads")
        for name in ("recipe", "arm"):
            value = getattr(self, name)
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise wrong(name, value, "a name of letters, digits, _ and .")
        if "." in self.recipe:
            raise wrong("recipe", self.recipe, "a name without a dot, which ends it in the name of a run")
        for name, allowed in (("protocol", PROTOCOLS), ("split", SPLITS)):
            if getattr(self, name) not in allowed:
                raise wrong(name, getattr(self, name), f"one of {', '.join(allowed)}")
        _whole("seed", self.seed, 0)
        _whole("parameters", self.parameters, 0)
        if _finite("seconds", self.seconds) < 0:
            raise wrong("seconds", self.seconds, "a number of at least 0")
        if not isinstance(self.dirty, bool):
            raise wrong("dirty", self.dirty, "true or false")
        if not isinstance(self.device, str) or not self.device:
            raise wrong("device", self.device, "text")
        if not (self.commit is None or isinstance(self.commit, str)):
            raise wrong("commit", self.commit, "text or None")
        self._check_teacher()
        self._check_started()
        replaced = {
            "metrics": {k: _finite(f"metrics[{k!r}]", v) for k, v in _table("metrics", self.metrics).items()},
            "config": _json_value("config", _table("config", self.config)),
            "versions": _texts("versions", self.versions),
            "data": _texts("data", self.data),
            "curves": {k: self._curve(k, v) for k, v in _table("curves", self.curves).items()},
            "samples": {k: self._written(k, v) for k, v in _table("samples", self.samples).items()},
        }
        for name, value in replaced.items():
            object.__setattr__(self, name, value)

    def _check_teacher(self) -> None:
        several = self.teacher if isinstance(self.teacher, list) else [self.teacher]
        if self.teacher is not None and not (
            several and all(isinstance(run, str) and run for run in several)
        ):
            raise wrong("teacher", self.teacher, "a run id, a list of run ids, or None")

    def _check_started(self) -> None:
        try:
            offset = datetime.fromisoformat(self.started.replace("Z", "+00:00")).utcoffset()
        except (AttributeError, TypeError, ValueError):
            offset = None
        if offset != timedelta(0):
            raise wrong("started", self.started, "a time in UTC such as 2025-03-01T12:00:00+00:00")

    @staticmethod
    def _curve(name: str, values: object) -> list[float]:
        if not isinstance(values, list | tuple):
            raise wrong(f"curves[{name!r}]", values, "a list of finite numbers")
        return [_finite(f"curves[{name!r}][{position}]", value) for position, value in enumerate(values)]

    @staticmethod
    def _written(name: str, values: object) -> list[str]:
        if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
            raise wrong(f"samples[{name!r}]", values, "a list of texts")
        return list(values)

    @property
    def run(self) -> str:
        """The run id."""
        return run_id(
            recipe=self.recipe, arm=self.arm, protocol=self.protocol, seed=self.seed, split=self.split
        )

    @property
    def teachers(self) -> tuple[str, ...]:
        """The run ids of the teachers: none, one or several."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, str) else tuple(self.teacher)
