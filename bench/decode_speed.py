"""How many sentences a second beam search translates in batches, and how many one at a time.

    python bench/decode_speed.py [--limit 3] [--sentences 192] [--rounds 3] [--hidden 500] [--precision fp32]

A 2x500 net with 8,000 words, on sentences as long as those of Multi30k, of words drawn at random. It has learnt
nothing, so two things are put in that a trained net has: it is sure of its words, and a sentence ends where it should,
more or less. Beside one at a time stands the plain way to decode in batches: in the order of the sentences, all to the
end of the longest, the likeliest taken from all words of all hypotheses. The ways take turns, so that whatever else
the machine does falls on all; the medians are compared. The time is that of the process, which others do not change.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdrepro.decode import Hypothesis, beam_search, greedy
from kdrepro.models import seq2seq
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.types import END, PAD, START, UNKNOWN

WORDS, WIDTH, MAX_LENGTH = 8_000, 5, 60
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
def plain_beams(net: Translator, sources: list[list[int]], batch_size: int) -> list[list[Hypothesis]]:
    """Beam search in batches without anything that makes it quick."""
    net.eval()
    found = []
    for first in range(0, len(sources), batch_size):
        batch = sources[first : first + batch_size]
        longest, count = max(map(len, batch)), len(batch)
        state = net.encode(torch.tensor([each + [PAD] * (longest - len(each)) for each in batch]))
        state = state.select(torch.arange(count).repeat_interleave(WIDTH))
        scores = torch.full((count, WIDTH), -torch.inf)
        scores[:, 0] = 0
        history = torch.full((count * WIDTH, 1), START)
        finished: list[list[Hypothesis]] = [[] for _ in batch]
        for _ in range(MAX_LENGTH):
            logits, state = net.step(state, history[:, -1])
            log_probs = logits.float().log_softmax(dim=1)
            log_probs[:, [PAD, START]] = -torch.inf
            sums = (log_probs.view(count, WIDTH, -1) + scores.unsqueeze(2)).flatten(1)
            scores, place = sums.topk(WIDTH, dim=1)
            rows = (place // WORDS + torch.arange(0, count * WIDTH, WIDTH).unsqueeze(1)).flatten()
            state = state.select(rows)
            history = torch.cat([history[rows], (place % WORDS).view(-1, 1)], dim=1)
            for row, column in ((place % WORDS == END) & (scores > -torch.inf)).nonzero().tolist():
                tokens = history[row * WIDTH + column, 1:-1].tolist()
                finished[row].append(Hypothesis(tokens, float(scores[row, column]), True))
                scores[row, column] = -torch.inf
            best = torch.tensor(
                [max((each.log_prob for each in several), default=-torch.inf) for several in finished]
            )
            if bool((best >= scores.amax(dim=1)).all()):
                break
        found += [[max(several, key=lambda each: each.log_prob)] for several in finished]
    return found


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
    # As many as take about as long one at a time.
    few = sources[: max(chosen.sentences // 6, 1)]

    def greedily(batch_size: int) -> Callable[[list[list[int]]], list[list[Hypothesis]]]:
        return lambda given: [
            [each] for each in greedy(net, given, max_length=MAX_LENGTH, batch_size=batch_size)
        ]

    def with_beams(batch_size: int) -> Callable[[list[list[int]]], list[list[Hypothesis]]]:
        return lambda given: beam_search(
            net, given, width=WIDTH, max_length=MAX_LENGTH, batch_size=batch_size
        )

    ways = {
        "greedy, one at a time": (greedily(1), few),
        "greedy, batched": (greedily(128), sources),
        f"beam {WIDTH}, one at a time": (with_beams(1), few),
        f"beam {WIDTH}, batched the plain way": (lambda given: plain_beams(net, given, 128), sources),
        f"beam {WIDTH}, batched": (with_beams(128), sources),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[list[Hypothesis]]] = {}
    for turn in range(chosen.rounds + 1):
        for name, (translate, given) in ways.items():
            began = time.process_time()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=chosen.precision == "bf16"):
                found[name] = translate(given)
            # The first turn warms up.
            seconds[name] += [time.process_time() - began] if turn else []
    rates = {}
    for name, (_, given) in ways.items():
        rates[name] = len(given) / statistics.median(seconds[name])
        lengths = [len(several[0].tokens) for several in found[name]]
        print(
            f"{name:30} {rates[name]:7.1f} sentences a second, {statistics.mean(lengths):.1f} words each "
            f"(median of {chosen.rounds}, {min(seconds[name]):.2f} to {max(seconds[name]):.2f} s)"
        )
    if chosen.precision == "fp32":
        # However they are found, they are the same ones, but for what the order of a sum changes.
        plain, batched = found[f"beam {WIDTH}, batched the plain way"], found[f"beam {WIDTH}, batched"]
        same = sum(one[0].tokens == other[0].tokens for one, other in zip(plain, batched, strict=True))
        if same < 0.98 * len(sources):
            raise AssertionError(f"the plain way finds {len(sources) - same} other translations")
    ratio = rates[f"beam {WIDTH}, batched"] / rates[f"beam {WIDTH}, one at a time"]
    print(
        f"ratio of beam {WIDTH}: {ratio:.2f} (at least {chosen.limit:g} wanted), 2x{chosen.hidden}, {WORDS} words, "
        f"{chosen.precision}, {chosen.threads} thread{'s' * (chosen.threads > 1)}"
    )
    missed = []
    if ratio < chosen.limit:
        missed.append(f"batched beams are {ratio:.2f} times as fast, expected at least {chosen.limit:g}")
    for search in ("greedy", f"beam {WIDTH}"):
        slower = [
            name for name in ways if name.startswith(search) and rates[name] > rates[f"{search}, batched"]
        ]
        missed += [f"{name} is faster than {search}, batched, expected none to be" for name in slower]
    print("\n".join(missed), end="\n" if missed else "", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
