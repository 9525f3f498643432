"""Translations to read: a beam laid out with what a student is trained on, and those of several nets side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from kdrepro.judging.readings import rows_shown
from kdrepro.ledger import Ledger

RECIPE = "sequence_kd"
_BEAM_COLUMNS = ("Translation", "Probability", "BLEU with the reference", "A student of")


def beam_table(
    hypotheses: Sequence[str],
    probabilities: Sequence[float],
    reference: str,
    *,
    score: Callable[[str, str], float],
) -> pd.DataFrame:
    """A line for each hypothesis of a beam, the likeliest first, and which one a student is trained on.

    Seq-KD takes the likeliest, Seq-Inter the one that `score(hypothesis, reference)` puts nearest to the reference,
    of equally near ones the first (Kim & Rush 2016, sections 3.2 and 3.3). The last line is the reference, which
    plain training and word-level distillation take. Raises `ValueError` for no hypothesis, or another number of
    probabilities.
    """
    if not hypotheses or len(hypotheses) != len(probabilities):
        raise ValueError(
            f"probabilities: got {len(probabilities)} of them for {len(hypotheses)} hypotheses, expected one each, "
            "and at least one"
        )
    scores = [score(each, reference) for each in hypotheses]
    nearest = scores.index(max(scores))
    records = []
    for place, (text, probability, near) in enumerate(zip(hypotheses, probabilities, scores, strict=True)):
        taken = [name for name, chosen in (("Seq-KD", 0), ("Seq-Inter", nearest)) if place == chosen]
        records.append((text, f"{100 * probability:.3g} %", f"{near:.1f}", " and ".join(taken) or "–"))
    records.append((reference, "–", "–", "labels and word level: the reference"))
    return pd.DataFrame(records, columns=_BEAM_COLUMNS)


def recorded_beam(
    ledger: Ledger, arm: str, *, score: Callable[[str, str], float], protocol: str = "paper"
) -> pd.DataFrame:
    """The beam of a recorded net for the first test sentence, laid out as by `beam_table`; empty where none was run.

    The first line is the sentence itself, the last one its reference. Who is trained on what is left out: it is a test
    sentence.
    """
    for row in rows_shown(ledger, RECIPE, protocol):
        if row.arm == arm and row.samples.get("n_best"):
            said = row.samples
            odds = [float(each) for each in said["n_best_probability"]]
            frame = beam_table(said["n_best"], odds, said["reference"][0], score=score)
            first = pd.DataFrame([(said["source"][0], "–", "–", "")], columns=_BEAM_COLUMNS)
            # Nobody is trained on a test sentence.
            return pd.concat([first, frame], ignore_index=True)[list(_BEAM_COLUMNS[:3])]
    return pd.DataFrame(columns=_BEAM_COLUMNS[:3])


def recorded_lesson(
    ledger: Ledger, family: str, *, score: Callable[[str, str], float], protocol: str = "paper"
) -> tuple[str, pd.DataFrame]:
    """A training sentence and its teacher's beam, laid out as by `beam_table`; both empty where no row has kept one.

    Rows of arms that learn from the nearest hypothesis keep one, and the best few of the beam that they took it from.
    `family` begins the names of the arms (`ende`).
    """
    for row in rows_shown(ledger, RECIPE, protocol):
        if row.arm.startswith(f"{family}_") and row.samples.get("training_beam"):
            said = row.samples
            source, reference = said["training_pair"]
            odds = [float(each) for each in said["training_beam_probability"]]
            return source, beam_table(said["training_beam"], odds, reference, score=score)
    return "", pd.DataFrame(columns=_BEAM_COLUMNS)


def side_by_side(
    ledger: Ledger, arms: Mapping[str, str], *, search: str = "greedy", protocol: str = "paper"
) -> pd.DataFrame:
    """The first test sentences with their references and what each arm makes of them, a block of lines a sentence.

    `arms` are what the arms are called, with their names; of each the run of the lowest seed is shown, and arms that
    have none are left out.
    """
    said: dict[str, Mapping[str, Sequence[str]]] = {}
    for row in rows_shown(ledger, RECIPE, protocol):
        for name, arm in arms.items():
            if row.arm == arm and row.samples.get(search):
                said.setdefault(name, row.samples)
    records = []
    first = next(iter(said.values()), {"source": [], "reference": []})
    for place, (source, reference) in enumerate(zip(first["source"], first["reference"], strict=True)):
        records += [("source", source), ("reference", reference)]
        records += [(name, said[name][search][place]) for name in arms if name in said]
    return pd.DataFrame(records, columns=("Of", "Text"))
