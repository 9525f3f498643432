"""Rows of the recipe of sequence-level distillation, made up for the tests of its figures and tables."""

from __future__ import annotations

import math

from recorded_rows import make_row

from kdrepro.ledger import Row
from kdrepro.mode_masses import shares

SAID = {
    "source": ["A dog runs.", "Two men talk."],
    "reference": ["Ein Hund rennt.", "Zwei Männer reden."],
    "greedy": ["Ein Hund läuft.", "Zwei Männer sprechen."],
    "beam5": ["Ein Hund läuft.", "Zwei Männer reden."],
    "n_best": ["Ein Hund läuft.", "Ein Hund rennt.", "Der Hund läuft."],
    "n_best_probability": ["0.31", "0.2", "0.05"],
}
# BLEU in greedy decoding, what the beam adds, words a second in greedy decoding, and the probability of the best.
LEVELS = {
    "teacher": (36.0, 1.5, 800.0, 0.05),
    "teacher_inter": (37.5, 0.3, 800.0, 0.2),
    "student_alone": (29.0, 2.0, 4000.0, 0.02),
    "word_kd": (30.0, 1.8, 4000.0, 0.03),
    "seq_kd": (34.0, 0.4, 4000.0, 0.3),
    "seq_inter": (35.0, 0.3, 4000.0, 0.25),
    "seq_word_inter": (35.5, 0.2, 4000.0, 0.2),
    "pruned_0": (35.2, 0.3, 4000.0, 0.25),
    "pruned_50": (34.9, 0.3, 4000.0, 0.25),
    "pruned_80": (34.5, 0.3, 4000.0, 0.25),
    "pruned_85": (33.5, 0.3, 4000.0, 0.25),
    "pruned_90": (32.0, 0.3, 4000.0, 0.25),
}


def translation_row(
    arm: str, seed: int, bleu: float, *, gain: float = 1.0, rate: float = 1000.0, **changes
) -> Row:
    """A row of one arm with so much BLEU in greedy decoding, and so much more with the beam."""
    mass = changes.pop("mass", 0.1)
    metrics = {
        "bleu_greedy": bleu,
        "bleu_beam5": bleu + gain,
        "beam_gain": gain,
        "words_per_second_greedy": rate,
        "words_per_second_beam5": rate / 4,
        "greedy_speedup": 4.0,
        "mode_mass": mass,
        **shares([math.log(mass)] * 3 + [math.log(mass) - 5.0]),
    }
    if "_pruned_" in arm:
        left = 1 - int(arm.rpartition("_")[2]) / 100
        metrics |= {"kept_output": left, "kept_score": left / 4}
    if not arm.endswith(("teacher", "student_alone")):
        metrics["speedup_over_teacher_beam5"] = rate / 200
    settings = {"recipe": "sequence_kd", "metrics": metrics, "samples": SAID}
    return make_row(arm, seed, 0.0, **(settings | changes))


def translation_rows(family: str = "ende", seeds: int = 3) -> list[Row]:
    """Rows of all arms of a family, some seeds of each."""
    return [
        translation_row(
            f"{family}_{arm}", seed, bleu + 0.2 * seed, gain=gain, rate=rate + 10 * seed, mass=mass
        )
        for arm, (bleu, gain, rate, mass) in LEVELS.items()
        for seed in range(seeds)
    ]
