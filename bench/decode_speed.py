"""How many sentences a second are translated, by the ways there are to do it in plain PyTorch.

    python bench/decode_speed.py [--limit 3] [--sentences 192] [--rounds 3] [--hidden 500] [--precision fp32]

A 2x500 net with 8,000 words, on sentences as long as those of Multi30k, of words drawn at random. It has learnt
nothing, so two things are put in that a trained net has: it is sure of its words, and a sentence ends where it should,
more or less. Beside one sentence at a time stands the plain way to decode in batches: in the order of the sentences,
all to the end of the longest, the likeliest taken from all words of all hypotheses; the same with the sentences sorted
by length; and kdrepro.decode, whole and with one of its two other parts switched off: sentences that are done leave
their batch, and the likeliest are looked for in chunks of words and rows. The ways take turns, so that whatever else
the machine does falls on all; the medians are compared. The time is that of the process, which others do not change.

It fails where kdrepro.decode is not --limit times as fast as one at a time, or another way is faster.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import torch
from torch import Tensor, nn

from kdrepro import decode
from kdrepro.decode import Hypothesis, beam_search, greedy
from kdrepro.models import seq2seq
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.types import END, PAD, START, UNKNOWN

Way = Callable[[list[list[int]]], list[list[Hypothesis]]]

WORDS, WIDTH, MAX_LENGTH = 8_000, 5, 60
ONE, OURS = "one at a time", "ours"
# By so much a way may seem faster than ours: measurements of one way differ by as much.
NOISE = 0.1
# English sentences of Multi30k have about 13 words, nine in ten of them 8 to 20.
MEAN, DEVIATION, SHORTEST, LONGEST = 13, 4, 4, 35


@dataclass(frozen=True)
class State:
    """Where the net stands, how far it is, and where each hypothesis should end."""

    net: seq2seq.State
    place: int
    lengths: Tensor

    def select(self, index: Tensor) -> State:
        return State(self.net.select(index), self.place, self.lengths[index])


class Translator(nn.Module):
    """A net that has learnt nothing, made sure of its words, with sentences that end near the source's length."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = LSTMSeq2Seq(WORDS, WORDS, hidden=hidden)
        with torch.no_grad():
            # The likeliest word has a probability of a half or so.
            self.net.output.weight.mul_(40)
        self.source_words = WORDS

    def encode(self, source: Tensor) -> State:
        return State(self.net.encode(source), 0, (source != PAD).sum(dim=1))

    def step(self, state: State, previous: Tensor) -> tuple[Tensor, State]:
        logits, after = self.net.step(state.net, previous)
        # As likely as the likeliest word at the length of the source, e² times less a word before.
        logits[:, END] = logits.amax(dim=1) + 2 * (state.place - state.lengths)
        return logits, State(after, state.place + 1, state.lengths)


def some_sentences(count: int) -> list[list[int]]:
    draw = random.Random(0)
    lengths = [min(max(round(draw.gauss(MEAN, DEVIATION)), SHORTEST), LONGEST) for _ in range(count)]
    return [[draw.randrange(UNKNOWN, WORDS) for _ in range(length)] for length in lengths]


@torch.no_grad()
def plain_beams(
    net: Translator, sources: list[list[int]], *, width: int, batch_size: int
) -> list[list[Hypothesis]]:
    """Beam search in batches without anything that makes it quick; of width 1, greedy decoding."""
    net.eval()
    found = []
    for first in range(0, len(sources), batch_size):
        batch = sources[first : first + batch_size]
        longest, count = max(map(len, batch)), len(batch)
        state = net.encode(torch.tensor([each + [PAD] * (longest - len(each)) for each in batch]))
        state = state.select(torch.arange(count).repeat_interleave(width))
        scores = torch.full((count, width), -torch.inf)
        scores[:, 0] = 0
        history = torch.full((count * width, 1), START)
        finished: list[list[Hypothesis]] = [[] for _ in batch]
        for _ in range(MAX_LENGTH):
            logits, state = net.step(state, history[:, -1])
            log_probs = logits.float().log_softmax(dim=1)
            log_probs[:, [PAD, START]] = -torch.inf
            sums = (log_probs.view(count, width, -1) + scores.unsqueeze(2)).flatten(1)
            scores, place = sums.topk(width, dim=1)
            rows = (place // WORDS + torch.arange(0, count * width, width).unsqueeze(1)).flatten()
            state = state.select(rows)
            history = torch.cat([history[rows], (place % WORDS).view(-1, 1)], dim=1)
            for row, column in ((place % WORDS == END) & (scores > -torch.inf)).nonzero().tolist():
                tokens = history[row * width + column, 1:-1].tolist()
                finished[row].append(Hypothesis(tokens, float(scores[row, column]), True))
                scores[row, column] = -torch.inf
            best = torch.tensor(
                [max((each.log_prob for each in several), default=-torch.inf) for several in finished]
            )
            if bool((best >= scores.amax(dim=1)).all()):
                break
        found += [[max(several, key=lambda each: each.log_prob)] for several in finished]
    return found


def in_order_of_length(translate: Way) -> Way:
    """The same with the longest sentences first, and what is found in the order of the sentences."""

    def sorted_first(given: list[list[int]]) -> list[list[Hypothesis]]:
        order = sorted(range(len(given)), key=lambda place: -len(given[place]))
        found = dict(zip(order, translate([given[place] for place in order]), strict=True))
        return [found[place] for place in range(len(given))]

    return sorted_first


def without(translate: Way, **switches: float) -> Way:
    """The same with constants of kdrepro.decode set otherwise."""

    def switched(given: list[list[int]]) -> list[list[Hypothesis]]:
        with patch.multiple(decode, **switches):
            return translate(given)

    return switched


def ways_of(net: Translator, width: int, batch_size: int) -> dict[str, Way]:
    """The ways to search with beams of this width, the first one sentence at a time and the last ours."""

    def ours(batch_size: int) -> Way:
        if width == 1:
            return lambda given: [
                [each] for each in greedy(net, given, max_length=MAX_LENGTH, batch_size=batch_size)
            ]
        return lambda given: beam_search(
            net, given, width=width, max_length=MAX_LENGTH, batch_size=batch_size
        )

    plain = partial(plain_beams, net, width=width, batch_size=batch_size)
    return {
        ONE: ours(1),
        "batched": plain,
        "batched, sorted": in_order_of_length(plain),
        "ours, none leaves": without(ours(batch_size), _DONE_SHARE=2.0),
        "ours, no chunks": without(ours(batch_size), _CHUNK=WORDS, _ROWS=10**9),
        OURS: ours(batch_size),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=float, default=3, help="least ratio that passes, of beam search (3)")
    parser.add_argument("--sentences", type=int, default=192, help="sentences in a batched measurement (192)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way, after a warm-up (3)")
    parser.add_argument("--hidden", type=int, default=500, help="size of the net's two layers (500)")
    parser.add_argument("--threads", type=int, default=1, help="how many threads (1)")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="fp32 or bf16 (fp32)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    net, sources = Translator(chosen.hidden), some_sentences(chosen.sentences)
    # In three batches at least: in a single one sorting changes nothing.
    batch_size = min(128, -(-chosen.sentences // 3))
    print(
        f"2x{chosen.hidden}, {WORDS} words, {chosen.precision}, {chosen.threads} "
        f"thread{'s' * (chosen.threads > 1)}, {len(sources)} sentences, {batch_size} in a batch"
    )
    missed = []
    for search, width in (("greedy", 1), (f"beam {WIDTH}", WIDTH)):
        rates, found = measured(ways_of(net, width, batch_size), sources, chosen)
        for name, rate in rates.items():
            print(f"{search:7} {name:18} {rate:7.1f} sentences a second {rate / rates[ONE]:6.2f}")
        if chosen.precision == "fp32":
            # However they are found, they are the same ones, but for what the order of a sum changes.
            for name, several in found.items():
                pairs = zip(several, found[OURS], strict=False)
                other = sum(one[0].tokens != our[0].tokens for one, our in pairs)
                if other > 0.02 * len(sources):
                    raise AssertionError(f"{search}, {name}: finds {other} other translations")
        ratio = rates[OURS] / rates[ONE]
        if width > 1 and ratio < chosen.limit:
            missed.append(f"{search}: ours is {ratio:.2f} times as fast, expected at least {chosen.limit:g}")
        missed += [
            f"{search}: {name} is {rate / rates[OURS]:.2f} times as fast as ours, expected {1 + NOISE:.1f} at most"
            for name, rate in rates.items()
            if rate > (1 + NOISE) * rates[OURS]
        ]
    print("\n".join(missed), end="\n" if missed else "", file=sys.stderr)
    return 1 if missed else 0


def measured(
    ways: dict[str, Way], sources: list[list[int]], chosen: argparse.Namespace
) -> tuple[dict[str, float], dict[str, list[list[Hypothesis]]]]:
    """How many sentences a second each way translates, and its translations."""
    # One at a time as many as take about as long.
    given = {name: sources[: max(len(sources) // 6, 1)] if name == ONE else sources for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[list[Hypothesis]]] = {}
    for turn in range(chosen.rounds + 1):
        for name, translate in ways.items():
            began = time.process_time()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=chosen.precision == "bf16"):
                found[name] = translate(given[name])
            # The first turn warms up.
            seconds[name] += [time.process_time() - began] if turn else []
    return {name: len(given[name]) / statistics.median(seconds[name]) for name in ways}, found


if __name__ == "__main__":
    sys.exit(main())
