"""Translations from a model that writes word by word: greedy and beam search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from kdrepro import checks
from kdrepro.modes import modes_kept
from kdrepro.types import END, PAD, START, UNKNOWN, at_least_float32, precise

# Sentences that are done leave their batch when they are this share of it: leaving copies what stays.
_DONE_SHARE = 1 / 4
# How many words, and how many rows, are looked at together for the likeliest.
_CHUNK, _ROWS = 64, 64


class State(Protocol):
    """Where a model stands in each of B hypotheses."""

    def select(self, index: Tensor) -> Any:
        """Return the state of the hypotheses at `index` (B',), in that order: some may be left out or repeated."""


class Translator(Protocol):
    """What decoding asks of a model, an `nn.Module`: to read sentences once, and then to write word by word.

    Its words are numbered as `kdrepro.data.text.Vocabulary` does it: 0 is padding, 1 the start of a sentence, 2 its
    end, 3 any word that is not in the vocabulary, and the words follow; those of the source may be others than those of
    the target. A model that numbers them otherwise needs a wrapper that renumbers what comes in and the logits.
    `source_words` is how many numbers the source has, these four included: a sentence may hold 3 to `source_words` − 1.
    """

    source_words: int

    def encode(self, source: Tensor) -> State:
        """Read the sentences (B, S), with padding at their end."""

    def step(self, state: Any, previous: Tensor) -> tuple[Tensor, Any]:
        """Take the words before (B,), return the logits of the next (B, V) and the state after it."""


@dataclass(frozen=True)
class Hypothesis:
    """A translation: its words without `START` and `END`, the model's log-probability of it, and whether it has ended.

    The log-probability is the sum over the words, and over `END` where the hypothesis is `finished`.
    """

    tokens: list[int]
    log_prob: float
    finished: bool


def greedy(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    *,
    max_length: int,
    batch_size: int = 128,
    device: torch.device | str | None = None,
) -> list[Hypothesis]:
    """Translate each sentence with the likeliest word after another, until `END` or `max_length` words.

    `sources` hold the numbers of the words (see `Translator`), without start and end; the translations come in their
    order. `max_length` counts `END`. `PAD` and `START` are never written, as in the toolkit of Kim & Rush (2016), and
    their share of the probability is not given to others. The model is moved to `device` (where it is, if None), runs
    in eval mode, and its mode is put back; `torch.autocast` around the call is honoured. The same as `beam_search` of
    width 1.

    Raises `TypeError` or `ValueError` for a model without `encode`, `step` or `source_words`, an empty sentence or a
    number that is no word of the model, naming the sentence; `FloatingPointError` when the logits are NaN.
    """
    checks.whole("max_length", max_length, least=1)
    translator = check_arguments(model, sources, device)
    found: list[Hypothesis | None] = [None] * len(sources)
    with _translating(model, device) as where:
        for places, source in _batches(sources, batch_size, where):
            for place, hypothesis in zip(places, _greedy(translator, source, max_length), strict=True):
                found[place] = hypothesis
    return [each for each in found if each is not None]


def beam_search(
    model: nn.Module,
    sources: Sequence[Sequence[int]],
    *,
    width: int,
    n_best: int = 1,
    max_length: int,
    batch_size: int = 128,
    device: torch.device | str | None = None,
) -> list[list[Hypothesis]]:
    """Translate each sentence by beam search: its `n_best` likeliest translations found, the best one first.

    As harvardnlp/seq2seq-attn, the toolkit of Kim & Rush (2016), does it: hypotheses are compared by their sums of
    log-probabilities, lengths are not normalised, and the result is the best of all that have ended at any step. Each
    step keeps the `width` likeliest of all continuations of the hypotheses that go on; those that end with it are
    finished, the others go on. The search of a sentence is over when none that goes on can come among the `n_best`,
    which is exact since a log-probability only falls, or after `max_length` words, `END` counted. If none has ended by
    then, those that go on are returned, with `finished` False. There may be fewer than `n_best`; all are distinct.

    Departs from the toolkit in three things: a hypothesis that has ended takes no place in the next step, where the
    toolkit lets it go on behind its end; one that has not ended never wins over one that has; and of several the
    likeliest that ended at any step are returned, where the toolkit stops as soon as the best of its beam has ended and
    returns that beam, whether its others have ended or not.

    All else as in `greedy`. Raises what `greedy` does, and `ValueError` for `n_best` above `width`.
    """
    checks.whole("width", width, least=1)
    if checks.whole("n_best", n_best, least=1) > width:
        raise ValueError(f"n_best: got {n_best}, expected at most the width, {width}")
    checks.whole("max_length", max_length, least=1)
    translator = check_arguments(model, sources, device)
    found: list[list[Hypothesis]] = [[] for _ in sources]
    with _translating(model, device) as where:
        for places, source in _batches(sources, batch_size, where):
            several = _Beams(translator, source, width=width, n_best=n_best).search(max_length)
            for place, hypotheses in zip(places, several, strict=True):
                found[place] = hypotheses
    return found


def _greedy(model: Translator, source: Tensor, max_length: int) -> list[Hypothesis]:
    state = model.encode(source)
    sentences = torch.arange(len(source), device=source.device)
    previous = torch.full_like(sentences, START)
    running = torch.ones_like(sentences, dtype=torch.bool)
    # Of all sentences, step by step; what a row that is done writes is left out below.
    written = torch.full((len(source), max_length), END, device=source.device)
    totals: Tensor | None = None
    for length in range(max_length):
        logits, state = model.step(state, previous)
        if totals is None:
            totals = logits.new_zeros(len(source), dtype=precise(logits.dtype))
        scores, _, words = _likeliest(logits, totals[sentences].unsqueeze(1), 1)
        previous = words.squeeze(1)
        totals[sentences[running]] = scores.squeeze(1)[running]
        written[sentences[running], length] = previous[running]
        running &= previous != END
        left = int(running.sum())
        if left == 0:
            break
        if len(running) - left >= _DONE_SHARE * len(running):
            index = running.nonzero().squeeze(1)
            state, sentences = state.select(index), sentences[index]
            previous, running = previous[index], running[index]
    assert totals is not None
    result = []
    for tokens, total in zip(written.tolist(), totals.tolist(), strict=True):
        end = tokens.index(END) if END in tokens else len(tokens)
        result.append(Hypothesis(tokens[:end], total, end < len(tokens)))
    return result


class _Beams:
    """The beam search of a batch of sentences: `rows` hypotheses of each, one behind the other."""

    def __init__(self, model: Translator, source: Tensor, *, width: int, n_best: int) -> None:
        self.model, self.width, self.n_best = model, width, n_best
        self.device = source.device
        self.state = model.encode(source)
        self.finished: list[list[Hypothesis]] = [[] for _ in source]
        # Of the sentences still in the batch: which they are, their hypotheses' words and scores, the n best finished.
        self.sentences = torch.arange(len(source), device=self.device)
        self.history = torch.full((len(source), 1), START, device=self.device)
        self.scores = torch.zeros(len(source), 1, device=self.device)
        self.best = torch.full((len(source), n_best), -torch.inf, device=self.device)
        self.done = torch.zeros_like(self.sentences, dtype=torch.bool)

    def search(self, max_length: int) -> list[list[Hypothesis]]:
        for _ in range(max_length):
            self._advance()
            if bool(self.done.all()):
                break
            self._leave()
        else:
            self._keep_unfinished()
        return [sorted(each, key=lambda one: -one.log_prob)[: self.n_best] for each in self.finished]

    def _advance(self) -> None:
        """Continue all hypotheses by a word, keep the likeliest of each sentence, and take out those that end."""
        count = len(self.sentences)
        logits, self.state = self.model.step(self.state, self.history[:, -1])
        rows = self.scores.shape[1]
        self.scores, parents, chosen = _likeliest(logits, self.scores.to(precise(logits.dtype)), self.width)
        parents += torch.arange(0, count * rows, rows, device=self.device).unsqueeze(1)
        ended = (chosen == END) & (self.scores > -torch.inf)
        self.best = self.best.to(self.scores.dtype)
        enters = ended & (self.scores > self.best[:, -1:])
        self._record(enters, parents, finished=True)
        both = torch.cat([self.best, self.scores.masked_fill(~enters, -torch.inf)], dim=1)
        self.best = both.topk(self.n_best, dim=1).values
        self.scores = self.scores.masked_fill(ended, -torch.inf)
        self.done |= self.best[:, -1] >= self.scores.amax(dim=1)
        self.state = self.state.select(parents.flatten())
        self.history = torch.cat([self.history[parents.flatten()], chosen.view(-1, 1)], dim=1)

    def _record(self, which: Tensor, rows: Tensor, *, finished: bool) -> None:
        """Note the words of the hypotheses `which` (sentences, width), whose histories are at `rows`."""
        sentence, _ = which.nonzero(as_tuple=True)
        if len(sentence) == 0:
            return
        for place, tokens, score in zip(
            self.sentences[sentence].tolist(),
            self.history[rows[which]].tolist(),
            self.scores[which].tolist(),
            strict=True,
        ):
            self.finished[place].append(Hypothesis(tokens[1:], score, finished))

    def _leave(self) -> None:
        """Take the sentences that are done out of the batch, once they are enough."""
        count, rows = self.scores.shape
        if int(self.done.sum()) < _DONE_SHARE * count:
            return
        stay = (~self.done).nonzero().squeeze(1)
        index = (stay.unsqueeze(1) * rows + torch.arange(rows, device=self.device)).flatten()
        self.state, self.history = self.state.select(index), self.history[index]
        self.sentences, self.scores, self.best = self.sentences[stay], self.scores[stay], self.best[stay]
        self.done = self.done[stay]

    def _keep_unfinished(self) -> None:
        """Where nothing has ended, take what goes on."""
        none = torch.tensor(
            [not self.finished[place] for place in self.sentences.tolist()], device=self.device
        )
        rows = torch.arange(len(self.history), device=self.device).view(self.scores.shape)
        self._record(none.unsqueeze(1) & (self.scores > -torch.inf), rows, finished=False)


def _likeliest(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores, the rows and the words of the `count` likeliest continuations of each sentence, (N, count).

    `logits` (N · rows, V) of the next word, `scores` (N, rows) so far.
    """
    sentences, rows = scores.shape
    # As many rows as stay in the processor's cache: on a CPU this is where most of a small model's time goes.
    block = max(_ROWS // rows, 1) if logits.device.type == "cpu" else sentences
    blocks = zip(torch.split(logits, block * rows), torch.split(scores, block), strict=True)
    parts = [_likeliest_of_block(*each, count) for each in blocks]
    values, row, word = (torch.cat(each) for each in zip(*parts, strict=True))
    return values, row, word


def _likeliest_of_block(logits: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The same as the largest of all sums, but most words are looked at only for the largest of their chunk.

    The `count` likeliest lie in the `count` chunks that have the largest maxima.
    """
    log_probs = _log_probs(logits)
    words = log_probs.shape[1]
    sentences, rows = scores.shape
    whole = words // _CHUNK
    parts = [log_probs[:, : whole * _CHUNK].view(len(log_probs), whole, _CHUNK).amax(dim=2)] if whole else []
    parts += [log_probs[:, whole * _CHUNK :].amax(dim=1, keepdim=True)] if words % _CHUNK else []
    largest = torch.cat(parts, dim=1).view(sentences, rows, -1) + scores.unsqueeze(2)
    chunks = largest.shape[2]
    best = largest.flatten(1).topk(min(count, rows * chunks), dim=1).indices
    row, word = torch.div(best, chunks, rounding_mode="floor"), best % chunks * _CHUNK
    word = word.unsqueeze(2) + torch.arange(_CHUNK, device=best.device)
    beyond = word >= words
    word.clamp_(max=words - 1)
    line = torch.arange(0, sentences * rows, rows, device=best.device).unsqueeze(1) + row
    sums = log_probs.view(-1)[line.unsqueeze(2) * words + word].add_(scores.gather(1, row).unsqueeze(2))
    sums = sums.masked_fill_(beyond, -torch.inf).flatten(1)
    values, place = sums.topk(min(count, rows * words), dim=1)
    return (
        values,
        row.gather(1, torch.div(place, _CHUNK, rounding_mode="floor")),
        word.flatten(1).gather(1, place),
    )


def _log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities of the next word, in float32 or better; those of `PAD` and `START` are −∞."""
    log_probs = torch.log_softmax(at_least_float32(logits), dim=1)
    if bool(log_probs[:, END].isnan().any()):
        raise FloatingPointError("model: its logits are not finite, expected finite numbers")
    log_probs[:, PAD] = log_probs[:, START] = -torch.inf
    return log_probs


def check_arguments(model: object, sources: object, device: object) -> Translator:
    """Return the model if it can translate and the sentences are lists of its words, or raise."""
    if device == "auto":
        raise ValueError("device: got 'auto', expected a device of torch's, or None: where the model is")
    needed = ("encode", "step", "source_words")
    missing = [name for name in needed if not isinstance(model, nn.Module) or not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"model: got {type(model).__name__} without {', '.join(missing)}, expected a module with encode, step and "
            "source_words, such as LSTMSeq2Seq"
        )
    translator = cast(Translator, model)
    words = translator.source_words
    if not isinstance(sources, Sequence) or isinstance(sources, str):
        raise TypeError(f"sources: got {type(sources).__name__}, expected a list of lists of word numbers")
    for place, source in enumerate(sources):
        if not isinstance(source, Sequence) or not all(isinstance(each, int) for each in source):
            raise TypeError(f"sources: got {source!r} as sentence {place}, expected a list of word numbers")
        if len(source) == 0:
            raise ValueError(f"sources: got no word in sentence {place}, expected at least one")
        if min(source) < UNKNOWN or max(source) >= words:
            bad = next(each for each in source if not UNKNOWN <= each < words)
            raise ValueError(
                f"sources: got {bad} in sentence {place}, expected numbers of words, {UNKNOWN} to {words - 1}, without "
                f"padding ({PAD}), start ({START}) and end ({END})"
            )
    return translator


@contextmanager
def _translating(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Have the model on its device, in eval mode and without gradient; put its mode back."""
    if device is not None:
        model.to(device)
    where = next((each.device for each in model.parameters()), torch.device("cpu"))
    with modes_kept(model), torch.no_grad():
        model.eval()
        yield where


def _batches(
    sources: Sequence[Sequence[int]], size: int, device: torch.device
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the sentences in batches of like length, the longest first: their places, and their words (B, S)."""
    checks.whole("batch_size", size, least=1)
    order = sorted(range(len(sources)), key=lambda place: -len(sources[place]))
    for first in range(0, len(order), size):
        places = order[first : first + size]
        longest = len(sources[places[0]])
        padded = [[*sources[place], *[PAD] * (longest - len(sources[place]))] for place in places]
        yield places, torch.tensor(padded, device=device)
