"""How sure a translator is of its best translation: over the sentences of a test set, before and after distillation.

The mode mass of a sentence is the probability of the best translation that beam search finds (Kim & Rush 2016,
section 5). Its mean hides that it goes from next to nothing to nearly 1, so rows keep the shares of the sentences in
bins, half a power of ten wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# The powers of ten between which sentences are counted; what is less than the first is counted with the first bin.
EDGES = (-4.0, -3.5, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0)
# What the share of each bin is called in a row.
METRICS = tuple(f"mode_mass_share_{place}" for place in range(len(EDGES) - 1))


def shares(log_probs: Sequence[float]) -> dict[str, float]:
    """Return the share of the sentences in each bin, as metrics of a row, given log p of each best one, in nats.

    >>> found = shares([math.log(0.5), math.log(0.4), math.log(0.02), -100.0])
    >>> [found[f"mode_mass_share_{place}"] for place in range(8)]
    [0.25, 0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.5]

    Raises `ValueError` for none.
    """
    if len(log_probs) == 0:
        raise ValueError("log_probs: got none, expected one for each sentence")
    powers = [value / math.log(10) for value in log_probs]
    counts = [0] * len(METRICS)
    for power in powers:
        counts[sum(power >= edge for edge in EDGES[1:-1])] += 1
    return {name: count / len(powers) for name, count in zip(METRICS, counts, strict=True)}
