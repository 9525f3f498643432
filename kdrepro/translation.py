"""How good a translator is, how sure of itself, and how fast: everything that is measured of one on a test set."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from kdrepro import devices, metrics, mode_masses, text_metrics
from kdrepro.data.parallel import EncodedText
from kdrepro.data.text import SentenceBatches, words
from kdrepro.decode import Hypothesis, beam_search, greedy
from kdrepro.losses.logits import hard_target_loss
from kdrepro.teacher import run_module

# Of the test set, to measure the speed of decoding on, how often, and to show.
_TIMED, _TURNS, _SHOWN = 200, 9, 8


@dataclass(frozen=True)
class TranslationTest:
    """The test pairs of `text`, to be translated greedily and with a beam of `width`, on one device.

    With `phonemes` the target's words are sounds, and edits are counted; otherwise they are language, and BLEU is.
    """

    text: EncodedText
    width: int
    max_length: int
    device: torch.device
    precision: str
    phonemes: bool = False

    def greedy(self, net: nn.Module, sources: Sequence[Sequence[int]]) -> list[Hypothesis]:
        """Translate with the likeliest word at each step."""
        with devices.autocast(self.precision, self.device):
            return greedy(net, sources, max_length=self.max_length, device=self.device)

    def beam(self, net: nn.Module, sources: Sequence[Sequence[int]]) -> list[Hypothesis]:
        """Translate with the likeliest hypothesis that the beam finds."""
        return [several[0] for several in self.beams(net, sources, n_best=1)]

    def beams(
        self, net: nn.Module, sources: Sequence[Sequence[int]], *, n_best: int
    ) -> list[list[Hypothesis]]:
        """Return the `n_best` likeliest hypotheses that the beam finds for each sentence, the likeliest first."""
        with devices.autocast(self.precision, self.device):
            return beam_search(
                net,
                sources,
                width=self.width,
                n_best=n_best,
                max_length=self.max_length,
                device=self.device,
            )

    def translate(self, net: nn.Module, sentences: Sequence[str]) -> list[str]:
        """Return what the beam makes of sentences as they are written. Raises what `beam_search` does of them."""
        if isinstance(sentences, str):
            raise TypeError(f"sentences: got {sentences!r}, expected a list of sentences")
        sources = [self.text.source.encode(words(each)) for each in sentences]
        return [self.text.written(each.tokens) for each in self.beam(net, sources)]

    def measure(self, net: nn.Module, teacher: nn.Module | None = None) -> dict[str, float]:
        """Return the metrics of rows, by name; those that compare with the teacher only if there is one.

        `bleu_…`, from 0 to 100, or `phoneme_error_rate_…` and `word_accuracy_…`, `greedy` and with the beam;
        `test_perplexity` of the references; `mode_mass`, the mean probability of what the beam finds (of a
        translation that it cuts off, that of the words so far), its odds, and the shares of the sentences where it is
        small or large (`mode_masses.shares`); `mode_mass_greedy`, that of what greedy decoding finds;
        `words_per_second_…`, on the CPU; `teacher_agreement` on the next word, and how many times as fast greedy
        decoding is.
        """
        found = self._likelihood(net, teacher)
        beam = f"beam{self.width}"
        log_probs = {}
        for name, search in (("greedy", self.greedy), (beam, self.beam)):
            translations = search(net, self.text.test_sources)
            found |= {f"{metric}_{name}": value for metric, value in self._quality(translations).items()}
            log_probs[name] = [each.log_prob for each in translations]
        found["mode_mass_greedy"] = text_metrics.mode_mass(log_probs["greedy"])
        # The likeliest that is known is what the beam found.
        mass = found["mode_mass"] = text_metrics.mode_mass(log_probs[beam])
        found |= mode_masses.shares(log_probs[beam])
        # What claims compare: odds, since a share near 1 cannot rise tenfold, and what a search leaves out.
        odds = mass / max(1e-6, 1 - mass)
        found |= {"mode_odds": odds, "mode_odds_tenth": odds / 10}
        if not self.phonemes:
            found["beam_gain"] = found[f"bleu_{beam}"] - found["bleu_greedy"]
            for name in ("greedy", beam):
                found[f"bleu_{name}_missing"] = 100 - found[f"bleu_{name}"]
        return found | self._speed(net, teacher)

    def samples(self, net: nn.Module) -> dict[str, list[str]]:
        """Return the first test pairs and how the net translates them, and for the first the whole beam.

        `source`, `reference`, `greedy` and `beam…` hold a text for each of these pairs; `n_best` what the beam finds
        for the first, the likeliest first, and `n_best_probability` the probability of each.
        """
        shown, beam = self.text.test_sources[:_SHOWN], f"beam{self.width}"
        pairs = self.text.data.test[:_SHOWN]
        found = {"source": [source for source, _ in pairs], "reference": [target for _, target in pairs]}
        beams = self.beams(net, shown, n_best=self.width)
        written = {
            "greedy": self.greedy(net, shown),
            beam: [several[0] for several in beams],
            "n_best": beams[0],
        }
        found |= {name: [self.text.written(each.tokens) for each in some] for name, some in written.items()}
        return found | {"n_best_probability": [f"{math.exp(each.log_prob):.3g}" for each in beams[0]]}

    def signature(self) -> str:
        """Return how sacrebleu counts."""
        references = [target for _, target in self.text.data.test]
        return text_metrics.bleu(references, references).signature

    def _quality(self, translations: Sequence[Hypothesis]) -> dict[str, float]:
        test = self.text.data.test
        if not self.phonemes:
            written = [self.text.written(each.tokens) for each in translations]
            return {"bleu": text_metrics.bleu(written, [target for _, target in test]).score}
        hypotheses = [self.text.target.decode(each.tokens) for each in translations]
        references = [words(target) for _, target in test]
        right = sum(one == other for one, other in zip(hypotheses, references, strict=True))
        return {
            "phoneme_error_rate": text_metrics.phoneme_error_rate(hypotheses, references),
            "word_accuracy": right / len(test),
        }

    @torch.no_grad()
    def _likelihood(self, net: nn.Module, teacher: nn.Module | None) -> dict[str, float]:
        """Return the perplexity of the references, and how often the likeliest next word is the teacher's."""
        batches = SentenceBatches(self.text.test_sources, self.text.test_targets, batch_size=64, seed=0)
        nets = [each.to(self.device).eval() for each in (net, teacher) if each is not None]
        total, count, agreed = 0.0, 0, 0.0
        for batch in batches.to(self.device).epoch(0):
            logits = [run_module(each, batch.inputs, side="model").logits.float() for each in nets]
            assert batch.mask is not None
            assert batch.targets is not None
            kept = int(batch.mask.sum())
            total += float(hard_target_loss(logits[0], batch.targets)[batch.mask].sum())
            count += kept
            agreed += kept * metrics.agreement(logits[0][batch.mask], logits[-1][batch.mask])
        found = {"test_perplexity": text_metrics.perplexity(total, count)}
        return found | ({"teacher_agreement": agreed / count} if teacher is not None else {})

    def _speed(self, net: nn.Module, teacher: nn.Module | None) -> dict[str, float]:
        """Return words a second, greedy and with the beam, and how many times the teacher's the greedy ones are.

        The ways take turns, so that whatever else the machine does falls on all of them. It is the speed on the CPU,
        whatever the device: on a GPU nets of these sizes wait for their next kernel, one as long as the other, and
        several runs may share it.
        """
        if self.device.type != "cpu":
            cpu = torch.device("cpu")
            return replace(self, device=cpu, precision=devices.precision_for("auto", cpu))._speed(
                net, teacher
            )
        sources, beam = self.text.test_sources[:_TIMED], f"beam{self.width}"
        ways: dict[str, Callable[[], list[Hypothesis]]] = {
            "greedy": partial(self.greedy, net, sources),
            beam: partial(self.beam, net, sources),
        }
        if teacher is not None:
            ways["teacher_greedy"] = partial(self.greedy, teacher, sources)
            ways[f"teacher_{beam}"] = partial(self.beam, teacher, sources)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_TURNS):
            for name, way in ways.items():
                started = time.perf_counter()
                written = sum(len(each.tokens) for each in way())
                rates[name].append(max(1, written) / (time.perf_counter() - started))
        found = {name: statistics.median(values) for name, values in rates.items()}
        result = {f"words_per_second_{name}": found[name] for name in ("greedy", beam)}
        result["greedy_speedup"] = found["greedy"] / found[beam]
        for name in ("teacher_greedy", f"teacher_{beam}"):
            if name in found:
                result[f"speedup_over_{name}"] = found["greedy"] / found[name]
        return result
