"""The runner: trains the arms of a recipe, seed by seed, and leaves a row for each run.

A run whose row exists is not done again; one that was killed goes on from its checkpoint; one that learns from another
run's net trains that first if its weights are not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Container, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import nn

from kdrepro import checks, devices
from kdrepro.arms import Arm, Key, Recipe, Result
from kdrepro.checkpoints import load_weights, save_weights
from kdrepro.ledger import Ledger, user_folder
from kdrepro.protocols import PROTOCOLS
from kdrepro.provenance import source_state, versions
from kdrepro.row import SPLITS, Row, devices_in_turn, run_id
from kdrepro.run import Run, origin_of


class Runner:
    """Trains runs of one recipe at one protocol and writes their rows into `ledger`.

    `split="select"` leaves the test set alone and measures on `recipe.held_out` other examples: the last training
    examples, which are not trained on then, or of a text the first validation pairs.
    `work` (default: `user_folder()`) holds weights and checkpoints. Names are checked before anything is loaded.
    `precision="auto"` is what an arm's settings say, and where they say nothing bf16 on a processor that has it. With
    `recording` nothing is trained under a net that came out otherwise than its row says. A training state is written
    after an epoch, but at most every `checkpoint_seconds`.

    Making a runner has two effects on the whole process: fp32 is float32 on a GPU too, not TF32, and freed memory is
    kept for what comes next instead of being given back to the system.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        protocol: str,
        ledger: Ledger,
        split: str = "test",
        device: str = "auto",
        precision: str = "auto",
        work: Path | None = None,
        recording: bool = False,
        progress: bool = True,
        checkpoint_seconds: float = 20.0,
    ) -> None:
        self.recipe, self.recording = recipe, recording
        self.protocol = checks.choice("protocol", protocol, PROTOCOLS)
        self.split = checks.choice("split", split, SPLITS)
        self.device, self.ledger, self.progress = device, ledger, progress
        self.checkpoint_seconds = checks.positive("checkpoint_seconds", checkpoint_seconds, or_zero=True)
        self.where = devices.place(device)
        self._precision = checks.choice("precision", precision, devices.PRECISIONS)
        self.work = work or user_folder()
        devices.keep_freed_memory()
        devices.full_fp32()
        self.commit, self.dirty = source_state()
        self._data: dict[Any, Any] = {}

    def data(self, arm: Arm) -> Any:
        """Return the data set of an arm, loaded once for all runs."""
        load = arm.load or self.recipe.load
        if load not in self._data:
            data = load(self.protocol)
            self._data[load] = data.held_out(self.recipe.held_out) if self.split == "select" else data
        return self._data[load]

    def settings(self, name: str, arm: Arm | None = None) -> dict[str, Any]:
        """Return the settings at this protocol of an arm, the recipe's of this name or one in its place.

        With them the precision that it trains in on this device.
        """
        arm = self.recipe.arm(name) if arm is None else arm
        found = self.recipe.config(arm.base or name, self.protocol) | arm.overrides
        asked = found.get("precision", "auto") if self._precision == "auto" else self._precision
        return found | {"precision": devices.precision_for(asked, self.where)}

    def checkpoint(self, run: str, part: str = "") -> Path:
        """Return the file that holds the training state of a run, or of one part of it."""
        return self.work / "checkpoints" / (f"{run}+{part}.pt" if part else f"{run}.pt")

    def run_id(self, name: str, seed: int) -> str:
        """Return the run id of an arm and a seed."""
        return run_id(recipe=self.recipe.name, arm=name, protocol=self.protocol, seed=seed, split=self.split)

    def weights(self, name: str, seed: int) -> Path:
        """Return the file that holds a run's trained weights."""
        return self.work / "weights" / f"{self.run_id(name, seed)}.safetensors"

    def weights_digest(self, name: str, seed: int) -> str:
        """Return a name for a run's trained weights: the first 16 digits of their file's SHA-256."""
        return hashlib.sha256(self.weights(name, seed).read_bytes()).hexdigest()[:16]

    def plan(self, names: Iterable[str] | None = None, seeds: Iterable[int] | None = None) -> list[Key]:
        """List the runs to do, in order: those without a row, after those whose weights they lack.

        `names` defaults to all arms of this protocol, `seeds` to each arm's own number of them. Raises `ValueError`
        for a wrong arm, or one that this protocol does not have, and for a file in a row's place that is none.
        """
        order: list[Key] = []
        there: set[Key] = set()

        def add(name: str, seed: int) -> None:
            if (name, seed) in there:
                return
            for needed in self.recipe.arm(name).before(seed):
                # What is recorded rests on rows, not on weights that a withdrawn one has left.
                gone = self.recording and self.ledger.get(self.run_id(*needed)) is None
                if gone or not self.weights(*needed).exists():
                    add(*needed)
            order.append((name, seed))
            there.add((name, seed))

        # A name that is wrong must not come to light after hours of training the others.
        arms = [name for name, arm in self.recipe.arms.items() if self.protocol in arm.protocols]
        wanted = list(names) if names is not None else arms
        for name in wanted:
            if self.protocol not in self.recipe.arm(name).protocols:
                raise ValueError(
                    f"protocol: got {self.protocol!r}, but arm {name!r} is trained at "
                    f"{' and '.join(self.recipe.arm(name).protocols)} only"
                )
        own_seeds = list(seeds) if seeds is not None else None
        for name in wanted:
            for seed in own_seeds if own_seeds is not None else range(self.recipe.arm(name).seeds):
                checks.whole("seed", seed)
                run = self.run_id(name, seed)
                if self.ledger.get(run) is None:
                    # Its row could not be written in the end.
                    if problem := self.ledger.problem(run):
                        raise ValueError(f"{problem.file}: no row ({problem.message}); mend or delete it")
                    add(name, seed)
        return order

    def run(self, plan: Iterable[Key]) -> list[Row]:
        """Do the runs of a plan and return their rows, in the order in which they were done (see `each`)."""
        return list(self.each(plan))

    def each(self, plan: Iterable[Key]) -> Iterator[Row]:
        """Do the runs of a plan in order, those of a cohort with its first, and give each row once it is written.

        Several processes may work on one folder: what one of them trains the others leave for later, and wait for it
        when nothing else is left. Rows that were made with other settings than their arms have now are warned of.
        """
        left = list(plan)
        self._look_at_settings({self.recipe.arm(name).load for name, _ in left})
        while left:
            together, locks = self._next(left)
            with locks:
                left = [key for key in left if key not in together]
                # Another process may have done some. An ensemble has no weights of its own to ask for.
                needed = {
                    key for name, seed in (*together, *left) for key in self.recipe.arm(name).before(seed)
                }
                together = [key for key in together if not self._done(*key, weights=key in needed)]
                rows = self._train(together) if together else []
            yield from rows

    def _look_at_settings(self, loads: Container[object]) -> None:
        """Warn of rows of other settings, of arms whose data is loaded anyway: what is trained will stand beside them.

        Their precision may differ, which is the device's.
        """
        made: dict[str, list[str]] = {}
        for row in self.ledger.rows(recipe=self.recipe.name, protocol=self.protocol, split=self.split):
            arm = self.recipe.arms.get(row.arm)
            if arm is None or arm.load not in loads:
                continue
            # As a row has them.
            now = json.loads(json.dumps(self.settings(row.arm)))
            others = [
                f"{name} {row.config[name]!r}, now {value!r}"
                for name, value in now.items()
                if name != "precision" and name in row.config and row.config[name] != value
            ]
            if others:
                made.setdefault("; ".join(others), []).append(row.run)
        for how, runs in made.items():
            warnings.warn(
                f"{', '.join(runs)}: recorded with other settings than the recipe has ({how}); delete "
                f"{'the row' if len(runs) == 1 else 'these rows'} to train anew",
                RuntimeWarning,
                stacklevel=3,
            )

    def _next(self, left: Sequence[Key]) -> tuple[list[Key], contextlib.ExitStack]:
        """Return the first of `left` that no other process trains, with locks on them that are to be released."""
        rest, groups = list(left), []
        while rest:
            together = self._together(rest)
            rest = [key for key in rest if key not in together]
            # A cohort may learn from a net that the plan has after its first member.
            missing = [
                needed
                for name, seed in together
                for needed in self.recipe.arm(name).before(seed)
                if needed in left and not self.weights(*needed).exists()
            ]
            groups.append(missing[:1] or together)
            if (locks := self._locked(groups[-1], patience=0.0)) is not None:
                return groups[-1], locks
        if self.progress:
            print(f"{self.run_id(*groups[0][0])}: another process trains it; waiting", flush=True)
        locks = self._locked(groups[0], patience=-1.0)
        assert locks is not None
        return groups[0], locks

    def _locked(self, keys: Iterable[Key], *, patience: float) -> contextlib.ExitStack | None:
        """Keep other processes on the folder from training these runs; `None` if one does, -1 waits for it."""
        (self.work / "locks").mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            # In one order, so that two that wait do not wait for each other.
            for key in sorted(keys):
                lock = FileLock(self.work / "locks" / f"{self.run_id(*key)}.lock")
                try:
                    held.enter_context(lock.acquire(timeout=patience))
                except Timeout:
                    return None
            return held.pop_all()

    def _done(self, name: str, seed: int, *, weights: bool) -> bool:
        there = self.ledger.get(self.run_id(name, seed)) is not None
        return there and (not weights or self.weights(name, seed).exists())

    def _together(self, left: Sequence[Key]) -> list[Key]:
        """Return the first run of `left` and those that train in a cohort with it."""
        first, seed = left[0]
        cohort = self.recipe.arm(first).cohort
        if not cohort or self.recipe.train_cohort is None:
            return [left[0]]
        return [key for key in left if key[1] == seed and self.recipe.arm(key[0]).cohort == cohort]

    def trained(self, name: str, seed: int) -> nn.Module:
        """Return the net of a run that is done, with its trained weights."""
        run = Run(self, name, self.recipe.arm(name), seed)
        model = self.recipe.build(run.config)
        load_weights(model, self.weights(name, seed))
        return model

    def _train(self, keys: Sequence[Key]) -> list[Row]:
        """Train one run, or several as a cohort, and leave a row for each."""
        runs = [Run(self, name, self.recipe.arm(name), seed) for name, seed in keys]
        started, clock = datetime.now(timezone.utc), time.perf_counter()
        if len(runs) > 1 and self.recipe.train_cohort is not None:
            for run in runs:
                run.config["cohort"] = [name for name, _ in keys]
            results = self.recipe.train_cohort(runs)
        else:
            results = [run.arm.train(run) for run in runs]
        # What is no training (loading, measuring) is shared alike. A resumed run has trained before this process began;
        # what it took then is in its history.
        trained = sum(result.history.seconds for result in results)
        rest = max(0.0, time.perf_counter() - clock - trained) / len(runs)
        return [
            self._written(run, result, seconds=result.history.seconds + rest, started=started)
            for run, result in zip(runs, results, strict=True)
        ]

    def _written(self, run: Run, result: Result, *, seconds: float, started: datetime) -> Row:
        """Save a run's weights, write its row, and remove its checkpoints."""
        needed = [self.run_id(*key) for key in run.arm.needs(run.seed)]
        curves = {
            key: [float(f"{value:.6g}") for value in curve] for key, curve in result.history.curves.items()
        }
        if result.model is not None:
            # One entry: safetensors writes several in any order, and the same net is to give the same file.
            origin = {"run": origin_of(run.id, curves)}
            save_weights(result.model, self.weights(run.name, run.seed), metadata=origin)
        parameters = result.parameters
        if parameters is None:
            parameters = sum(p.numel() for p in result.model.parameters()) if result.model is not None else 0
        row = Row(
            recipe=self.recipe.name,
            arm=run.name,
            protocol=self.protocol,
            seed=run.seed,
            split=self.split,
            metrics=result.metrics,
            config=run.config | {"epochs_run": result.history.epochs},
            teacher=None if not needed else needed[0] if len(needed) == 1 else needed,
            parameters=parameters,
            seconds=round(seconds, 4),
            device=devices_in_turn(result.history.devices or [devices.describe(self.where)]),
            versions=versions(),
            commit=self.commit,
            dirty=self.dirty,
            data={"name": run.data.name, "digest": run.data.digest},
            started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            curves=curves,
            samples=result.samples,
        )
        if self.ledger.get(row.run) is None:
            # Another process may be the first.
            with contextlib.suppress(FileExistsError):
                self.ledger.write(row)
        kept = self.ledger.get(row.run)
        if kept is not None and kept.curves != row.curves:
            self._came_out_otherwise(row)
        for file in [self.checkpoint(run.id), *self.work.glob(f"checkpoints/{run.id}+*.pt")]:
            file.unlink(missing_ok=True)
        return row

    def _came_out_otherwise(self, row: Row) -> None:
        """Put the new row in the old one's place, where a net that was trained again for its weights is another net.

        Unless rows of others rest on the old one: then it stays, with a warning, or an error where rows are recorded.
        """
        others = [
            each.run
            for each in self.ledger.rows(recipe=self.recipe.name, split=self.split)
            if row.run in (*each.teachers, each.config.get("starts_from"))
        ]
        if not others:
            self.ledger.write(row, replace=True)
            return
        message = (
            f"{row.run}: trained again for its weights, it came out otherwise than its row says, from which "
            f"{', '.join(others)} learned; what learns now has another teacher. To start anew, delete all of them"
        )
        if self.recording:
            self.weights(row.arm, row.seed).unlink(missing_ok=True)
            raise RuntimeError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)
