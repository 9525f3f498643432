"""Sequence-level distillation on a text of one's own: the program for its two files, and what it has trained at work.

from kdrepro.own_text import own_runner, translator

runner = own_runner("text.en", "text.de")
runner.run(runner.plan(["own_seq_inter"]))
translate = translator(runner)
translate(["A man is sleeping."])
"""

from __future__ import annotations

import dataclasses
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdrepro import checks
from kdrepro.arms import Recipe
from kdrepro.data.corpora import Corpus, encoded
from kdrepro.data.parallel import EncodedText, ParallelText, read_parallel
from kdrepro.ledger import Ledger, user_folder
from kdrepro.protocols import PROTOCOLS
from kdrepro.recipes import sequence_kd
from kdrepro.row import Row, device_kind
from kdrepro.runner import Runner
from kdrepro.translation import TranslationTest

# A student of each way to teach, and the one teacher that all seeds need. The combinations and pruning are asked for by
# name.
OWN_ARMS = ("own_student_alone", "own_word_kd", "own_seq_kd", "own_seq_inter")
# How many words the training pairs of the captions have, of the source and of the target.
_CAPTION_WORDS = 377_578, 360_856


def own_text(
    source_file: str | os.PathLike[str],
    target_file: str | os.PathLike[str],
    *,
    teacher: Mapping[str, Any] | None = None,
    student: Mapping[str, Any] | None = None,
) -> tuple[Recipe, str, Callable[[str], EncodedText]]:
    """Return the recipe for two text files of one's own, the text's digest, and its numbers at a protocol.

    Its arms are `own_teacher`, `own_student_alone`, `own_seq_kd`, … Protocols `smoke` and `quick` take the first few
    hundred and the first 5,000 pairs, the others all of them; the nets are those of the captions at all but `smoke`.
    So are the settings, which suit some 30,000 short pairs, but for three that follow the text: a translation may be a
    fifth longer than the longest target that is trained on, Seq-Inter takes half of the pairs, and what a teacher's
    search cuts off is left out of what is learned from it. `teacher` and `student` hold settings in their place, such
    as `{"epochs": 64}`.

    Line n of one file translates line n of the other; see `kdrepro.data.parallel.read_parallel` for what is refused.
    Every arm has one seed unless more are asked for, and then all learn from the teacher of seed 0.
    """
    data = read_parallel(source_file, target_file)

    def load(protocol: str) -> ParallelText:
        few = {"smoke": (300, 50, 50), "quick": (5_000, 500, 500)}.get(protocol)
        return data.few(train=few[0], valid=few[1], test=few[2]) if few else data

    corpora = {"own": Corpus(load)}
    changes = {"teacher": dict(teacher or {}), "student": dict(student or {})}
    recipe = sequence_kd.recipe_of(corpora, {"own": PROTOCOLS}, seeds=1, teachers=1, candidates={})
    settings = partial(_settings, corpora=corpora, changes=changes)
    for role, several in changes.items():
        for name in several:
            checks.choice(f"{role} setting", name, settings(f"own {role} retrain fine", "smoke"))
    return dataclasses.replace(recipe, config=settings), data.digest, partial(encoded, corpora["own"])


def _settings(
    base: str, protocol: str, *, corpora: dict[str, Corpus], changes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the settings of an arm at a protocol: the recipe's, those that follow the text, and the reader's own."""
    found, text = sequence_kd.config(base, protocol, corpora=corpora), encoded(corpora["own"], protocol)
    # As in the paper, about half.
    found["interpolation_sentences"] = (len(text.sources) + 1) // 2
    # The nets of smoke learn nothing, and where to end least of all.
    if protocol != "smoke":
        found["max_length"] = max(map(len, text.targets)) * 6 // 5 + 5
        found["leave_out_cut"] = True
    of_its_role = changes[base.split()[1]]
    return found | {name: value for name, value in of_its_role.items() if name in found}


def own_folder(digest: str) -> Path:
    """Return where the rows and weights of a text with this digest are: in a folder of its own among the user's."""
    return user_folder() / f"text-{digest.partition(':')[2]}"


def own_runner(
    source_file: str | os.PathLike[str],
    target_file: str | os.PathLike[str],
    *,
    protocol: str = "paper",
    folder: str | os.PathLike[str] | None = None,
    teacher: Mapping[str, Any] | None = None,
    student: Mapping[str, Any] | None = None,
    **options: Any,
) -> Runner:
    """Return what trains the arms of `own_text` and finds what is trained, with rows and weights in `folder`.

    By default that is where `kdrepro run sequence_kd --source … --target …` has them. Give another `folder` with other
    settings: a run's name does not tell them apart. `options` are those of `Runner`, such as `split="select"`; what
    making one does to the process stands there too.
    """
    recipe, digest, _ = own_text(source_file, target_file, teacher=teacher, student=student)
    where = Path(folder) if folder is not None else own_folder(digest)
    return Runner(recipe, protocol=protocol, ledger=Ledger(where), work=where, **options)


def translator(
    runner: Runner, arm: str = "own_seq_inter", *, seed: int = 0
) -> Callable[[Sequence[str]], list[str]]:
    """Return what translates sentences, with the beam that a trained arm is measured with.

    Weights know words by number, and which word has which number only the two text files tell: they have to be as they
    were. Raises `ValueError` where the arm was not trained on them, or its weights are gone.
    """
    data, run = runner.data(runner.recipe.arm(arm)), runner.run_id(arm, seed)
    row = runner.ledger.get(run)
    if row is None or row.data["digest"] != data.digest or not runner.weights(arm, seed).exists():
        raise ValueError(
            f"{run}: not trained on {data.name} as they are now, by what {runner.work} holds: train it with "
            "runner.run(runner.plan([...])). If it was, the files have changed since, and the numbers of the words "
            "with them: put them back"
        )
    settings = runner.settings(arm)
    search = TranslationTest(
        EncodedText.of(data, at_least=Corpus.at_least),
        width=settings["beam"],
        max_length=settings["max_length"],
        device=runner.where,
        precision=settings["precision"],
    )
    return partial(search.translate, runner.trained(arm, seed))


def estimated_seconds(arm: str, text: EncodedText, rows: Iterable[Row]) -> float | None:
    """Guess how long an arm trains on a CPU, from recorded `rows` of the same on captions; `None` without such rows.

    In proportion to the multiplications of the two layers: 16 of H² for a word of the source, 23 of H² and one of H·V
    for one of the target, of H units and V words.
    """
    alike = f"ende_{arm.removeprefix('own_')}"
    found = [row for row in rows if row.arm == alike and device_kind(row.device) == "cpu"]
    if not found:
        return None
    hidden, vocabulary = found[0].config["hidden"], found[0].config["target_words"]
    own_words = (sum(map(len, text.sources)), sum(map(len, text.targets)))
    works = [
        hidden * (16 * sources + 23 * targets) + targets * classes
        for (sources, targets), classes in ((own_words, len(text.target)), (_CAPTION_WORDS, vocabulary))
    ]
    return float(statistics.median(row.seconds for row in found) * works[0] / works[1])
