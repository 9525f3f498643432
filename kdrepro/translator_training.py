"""How the translators of Kim & Rush (2016) are trained: on references, or on what a teacher's beam finds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Adam, Optimizer

from kdrepro import devices, text_metrics
from kdrepro.arms import SCHEDULES, Result, chosen
from kdrepro.caching import CachedTranslator, cache_teacher
from kdrepro.data.parallel import EncodedText, write_lines
from kdrepro.data.text import SentenceBatches
from kdrepro.decode import Hypothesis
from kdrepro.methods.sequence_kd import WordLevelKD, closest_to_reference, teacher_translations
from kdrepro.models.fused_recurrence import can_compile
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.pruning import kept_shares, remaining_weights
from kdrepro.run import Run
from kdrepro.training.resume import History
from kdrepro.translation import TranslationTest

# In bytes. The captions take 7 GB in half precision.
_MOST_CACHED = 8 * 2**30
# In steps. Making kernels takes a GPU as long as some thousand steps without them.
_WORTH_COMPILING = 5_000
# From which share of translations that the search cuts off a teacher is warned of, and what to do about it.
_MANY_CUT, _REMEDY = 0.01, "so give it more pairs or more epochs"


def some_pairs(count: int, wanted: int) -> range:
    """Return which of `count` pairs Seq-Inter takes: evenly spaced, so that they are about `wanted`.

    The first half of a file need not be like the second.

    >>> some_pairs(29_000, 14_500)[:3], len(some_pairs(100, 1_000))
    (range(0, 6, 2), 100)
    """
    return range(0, count, max(1, round(count / wanted)))


class TranslatorTraining:
    """The text, the net and the teacher of one run.

    A word has to be in the text `at_least` so often to be in the vocabulary. The sentences are language, or the words
    of a dictionary and their `phonemes`.
    """

    def __init__(self, run: Run, *, at_least: int, phonemes: bool) -> None:
        self.run, self.settings = run, run.config
        self.text = EncodedText.of(run.data, at_least=at_least)
        self.net = run.started()
        self.teacher = run.teachers()[0] if run.arm.needs(run.seed) else None
        self.test = TranslationTest(
            self.text,
            width=self.settings["beam"],
            max_length=self.settings["max_length"],
            device=run.runner.where,
            precision=run.precision,
            phonemes=phonemes,
        )
        self.settings["train_size"] = len(self.text.sources)
        self.about_text: dict[str, float] = {}
        self.example: dict[str, list[str]] = {}
        if not phonemes:
            self.settings["bleu_signature"] = self.test.signature()

    def references(self, *, some: bool = False) -> tuple[list[list[int]], list[list[int]]]:
        """Return the training pairs as they are: all of them, or `some`, those that `closest` takes."""
        places = self._some() if some else range(len(self.text.sources))
        return [self.text.sources[place] for place in places], [self.text.targets[place] for place in places]

    def translations(self) -> tuple[list[list[int]], list[list[int]]]:
        """Return the training sources, each with what the teacher's beam makes of it (Seq-KD).

        Both are also written as text, a sentence a line, for whoever trains with another toolkit.
        """
        found, file = self._search(self.text.sources, width=self.settings["beam"], n_best=1)
        best = [several[0] for several in found]
        self._compare(range(len(best)), best)
        kept = self._kept(best)
        targets = [best[place].tokens for place in kept]
        write_lines(file.with_suffix(".source.txt"), [self.text.data.train[place][0] for place in kept])
        write_lines(file.with_suffix(".target.txt"), [self.text.written(tokens) for tokens in targets])
        return [self.text.sources[place] for place in kept], targets

    def closest(self) -> tuple[list[list[int]], list[list[int]]]:
        """Return training sources, each with the hypothesis of a wide beam nearest to its reference (Seq-Inter)."""
        width, places = self.settings["interpolation_beam"], self._some()
        sources = [self.text.sources[place] for place in places]
        references = [self.text.data.train[place][1] for place in places]
        found, file = self._search(sources, width=width, n_best=width)
        chosen = self._chosen(found, references, file=file.with_suffix(".closest.jsonl"))
        nearest = [several[place] for several, place in zip(found, chosen, strict=True)]
        self._compare(places, nearest)
        self.example = self._example(places, found, chosen)
        kept = self._kept(nearest)
        return [sources[place] for place in kept], [nearest[place].tokens for place in kept]

    def _kept(self, found: Sequence[Hypothesis]) -> list[int]:
        """Return which of a text are learned from: all, or where the settings say so those that the search did not cut.

        Of one that is cut the student would learn that it ends there.
        """
        leave = self.settings.get("leave_out_cut", False)
        kept = [place for place, each in enumerate(found) if each.finished or not leave]
        if not kept:
            raise ValueError(
                f"{self.run.id}: none of the teacher's {len(found):,} translations ends within "
                f"{self.settings['max_length']} words: it has learned too little to teach, {_REMEDY}"
            )
        return kept

    def _example(
        self, places: Sequence[int], beams: Sequence[Sequence[Hypothesis]], chosen: Sequence[int]
    ) -> dict[str, list[str]]:
        """Return a training pair with the best of its beam, to show what is learned from; empty if none shows it.

        It is the first where the nearest is another than the likeliest, and is not the reference either.
        """
        shown = self.settings["beam"]
        for place, beam, nearest in zip(places, beams, chosen, strict=True):
            if 0 < nearest < shown and beam[nearest].tokens != self.text.targets[place]:
                best = beam[:shown]
                return {
                    "training_pair": list(self.text.data.train[place]),
                    "training_beam": [self.text.written(each.tokens) for each in best],
                    "training_beam_probability": [f"{math.exp(each.log_prob):.3g}" for each in best],
                }
        return {}

    def _some(self) -> Sequence[int]:
        """Return which pairs Seq-Inter takes."""
        return some_pairs(len(self.text.sources), self.settings["interpolation_sentences"])

    def _compare(self, places: Sequence[int], found: Sequence[Hypothesis]) -> None:
        """Note how near a text to train on comes to the references: how much of it the same, and its BLEU.

        And how much of it the search cut off at its greatest length.
        """
        targets = [each.tokens for each in found]
        same = sum(tokens == self.text.targets[place] for place, tokens in zip(places, targets, strict=True))
        cut = sum(not each.finished for each in found)
        self.about_text = {"text_same": same / len(targets), "text_cut": cut / len(targets)}
        leave, progress = self.settings.get("leave_out_cut", False), self.run.runner.progress
        if leave and progress and self.about_text["text_cut"] > _MANY_CUT:
            print(
                f"Warning: {self.run.name} seed {self.run.seed}: {self.about_text['text_cut']:.1%} of the teacher's "
                f"translations do not end within {self.settings['max_length']} words and are left out: it has learned "
                f"too little, {_REMEDY}",
                flush=True,
            )
        if not self.test.phonemes:
            written = [self.text.written(tokens) for tokens in targets]
            references = [self.text.data.train[place][1] for place in places]
            self.about_text["text_bleu"] = text_metrics.bleu(written, references).score

    def _chosen(
        self, beams: Sequence[Sequence[Hypothesis]], references: Sequence[str], *, file: Path
    ) -> list[int]:
        """Return which hypothesis of each beam is the nearest, or read what an earlier run wrote of it to `file`."""
        said = self.settings[f"translations_{self.settings['interpolation_beam']}"]
        asked = hashlib.sha256(
            json.dumps([said, self.text.target.digest, list(references)]).encode()
        ).hexdigest()
        if file.exists():
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["asked"] == asked:
                return list(kept["chosen"])
        chosen = [
            closest_to_reference([self.text.written(each.tokens) for each in several], reference)
            for several, reference in zip(beams, references, strict=True)
        ]
        write_lines(file, [json.dumps({"asked": asked, "chosen": chosen})])
        return chosen

    def _search(
        self, sources: list[list[int]], *, width: int, n_best: int
    ) -> tuple[list[list[Hypothesis]], Path]:
        """Return what the teacher's beam finds, and the file that keeps it for all that learn from this teacher."""
        runner, run = self.run.runner, self.run
        # A teacher that goes on from its own translations is its own teacher.
        name, seed = run.arm.needs(run.seed)[0]
        assert self.teacher is not None
        label = f"{run.name} seed {run.seed}: the teacher's beam of {width}"

        def tell(done: int, of: int) -> None:
            if runner.progress:
                print(f"{label}: {done:,} of {of:,} sentences", flush=True)

        file = runner.work / "translations" / f"{runner.run_id(name, seed)}.beam{width}.jsonl"
        with devices.autocast(self.run.precision, runner.where):
            found = teacher_translations(
                self.teacher,
                sources,
                width=width,
                n_best=n_best,
                max_length=self.settings["max_length"],
                file=file,
                teacher_id=runner.weights_digest(name, seed),
                device=str(runner.where),
                progress=tell,
            )
        self.settings[f"translations_{width}"] = found.checksum[:16]
        return found.hypotheses, file

    def fit(
        self,
        pairs: tuple[list[list[int]], list[list[int]]],
        objective: nn.Module,
        *,
        epochs: int,
        rate: float = 1.0,
        part: str = "",
        **options: Any,
    ) -> History:
        settings = self.settings
        batches = SentenceBatches(*pairs, batch_size=settings["batch_size"], seed=self.run.seed)
        if isinstance(self.net, LSTMSeq2Seq):
            self.net.compiled = epochs * len(batches) >= _WORTH_COMPILING
            where = self.run.runner.where
            if self.net.compiled and where.type != "cpu" and can_compile(where):
                settings["compiled"] = True
        return self.run.fit(
            self.net,
            objective,
            batches,
            teacher=self._teacher_or_cache(batches) if isinstance(objective, WordLevelKD) else None,
            epochs=epochs,
            optimizer=_optimizer(settings, rate=settings["learning_rate"] * rate),
            schedule=chosen(settings, "schedule", SCHEDULES)(epochs * len(batches)),
            gradient_clip=settings["gradient_clip"],
            part=part,
            cuda_graphs=True,
            **options,
        )

    def _teacher_or_cache(self, batches: SentenceBatches) -> nn.Module | CachedTranslator:
        """Ask the teacher once about the whole text if its answers fit into memory, else at every step."""
        assert self.teacher is not None
        bits = 16 if self.run.precision == "bf16" else 32
        size = int(batches.predictions.sum()) * len(self.text.target) * bits // 8
        self.settings["teacher_cached"] = size <= _MOST_CACHED
        if size > _MOST_CACHED:
            return self.teacher
        return cache_teacher(
            self.teacher, batches, device=self.run.runner.device, precision=self.run.precision
        )

    def result(self, history: History) -> Result:
        """Measure the net on the test pairs, and say of a pruned one what is left of it."""
        pruned = "pruned" in self.settings
        left = {f"kept_{part}": share for part, share in kept_shares(self.net).items()} if pruned else {}
        return Result(
            self.test.measure(self.net, self.teacher) | self.about_text | left,
            self.net,
            history,
            parameters=remaining_weights(self.net) if pruned else None,
            samples=self.test.samples(self.net) | self.example,
        )


def _optimizer(settings: dict[str, Any], *, rate: float) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    made = chosen(settings, "optimizer", {"Adam": Adam})
    return lambda parameters: made(parameters, lr=rate, fused=True)
