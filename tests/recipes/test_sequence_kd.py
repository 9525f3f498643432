"""The program of sequence-level distillation on spelling, whole, at its smallest: its rows and translations."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from sequence_kd_runs import CMU, FOUND, UNTAUGHT
from smoke_runs import runner

from kdrepro import text_metrics
from kdrepro.claims import paper
from kdrepro.data import corpora
from kdrepro.data.parallel import EncodedText
from kdrepro.decode import Hypothesis, beam_search, greedy
from kdrepro.ledger import Row
from kdrepro.methods.sequence_kd import closest_to_reference
from kdrepro.methods.supervised import Supervised
from kdrepro.recipes import sequence_kd
from kdrepro.recipes.sequence_kd import RECIPE, config
from kdrepro.run import Run
from kdrepro.runner import Runner
from kdrepro.translator_training import TranslatorTraining

FINE = {"teacher_inter", "inter", "word_inter", "seq_inter", "seq_word_inter"}
PRUNED = {"pruned_0", "pruned_50", "pruned_80", "pruned_85", "pruned_90"}
WORD_LEVEL = {"word_kd", "seq_word", "seq_word_inter"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Every arm on spelling, with seed 0."""
    its = runner(tmp_path_factory.mktemp("runs"), RECIPE)
    its.run(its.plan([f"cmu_{name}" for name in sorted(CMU)], [0]))
    return its


@pytest.fixture(scope="module")
def rows(done: Runner) -> dict[str, Row]:
    return {row.arm.removeprefix("cmu_"): row for row in done.ledger.rows()}


@pytest.fixture(scope="module")
def text(done: Runner) -> EncodedText:
    return EncodedText.of(done.data(RECIPE.arm("cmu_teacher")))


def translations(done: Runner, width: int) -> list[list[dict[str, object]]]:
    file = done.work / "translations" / f"sequence_kd.smoke.cmu_teacher.s0.beam{width}.jsonl"
    _, *pieces = [json.loads(line) for line in file.read_text().splitlines()]
    return [several for piece in pieces for several in piece]


def test_the_settings_that_the_deviations_show_are_there(rows):
    shown = re.findall(r"\{(\w+)\.(\w+)\}", " ".join(each.ours for each in paper("kim2016").deviations))
    assert len(shown) > 5
    for arm, key in shown:
        _, _, name = arm.partition("_")
        assert key in rows[name].config.keys() | FOUND, (arm, key)


def test_every_arm_leaves_a_row_with_its_metrics_and_settings(rows):
    assert set(rows) == CMU
    for name, row in rows.items():
        arm = RECIPE.arm(f"cmu_{name}")
        assert arm.base.startswith("cmu teacher" if name.startswith("teacher") else "cmu student"), name
        settings = config(arm.base, "smoke") | arm.overrides
        assert settings.items() <= row.config.items(), name
        assert set(row.config) - set(settings) <= FOUND | {"translations_10"}, name
        assert ("soft_weight" in row.config) == (name in WORD_LEVEL), name
        taught = name not in UNTAUGHT
        assert row.teacher == ("sequence_kd.smoke.cmu_teacher.s0" if taught else None), name
        compared = {"teacher_agreement", "speedup_over_teacher_greedy", "speedup_over_teacher_beam5"}
        assert compared & set(row.metrics) == (compared if taught else set()), name
        assert {
            "phoneme_error_rate_greedy",
            "word_accuracy_beam5",
            "test_perplexity",
            "mode_mass",
            "words_per_second_beam5",
        } <= set(row.metrics), name
        assert (row.data["name"], row.config["train_size"]) == ("cmudict", 200), name


def test_where_a_net_starts_and_what_it_is_trained_on(rows):
    starts = {
        "teacher_inter": "teacher",
        "teacher_longer": "teacher",
        "student_longer": "student_alone",
        "inter": "student_alone",
        "word_inter": "word_kd",
        "seq_inter": "seq_kd",
        "seq_word_inter": "seq_word",
    } | dict.fromkeys(PRUNED, "seq_kd")
    for name, row in rows.items():
        start = f"sequence_kd.smoke.cmu_{starts[name]}.s0" if name in starts else None
        assert row.config.get("starts_from") == start, name
        assert ("translations_5" in row.config) == (name in {"seq_kd", "seq_word"} | PRUNED), name
        assert ("translations_10" in row.config) == (name in FINE | PRUNED), name
        assert ("text_same" in row.metrics) == (name in {"seq_kd", "seq_word"} | FINE | PRUNED), name
    # One corpus for all that learn from one teacher.
    for key in ("translations_5", "translations_10"):
        assert len({row.config[key] for row in rows.values() if key in row.config}) == 1


def test_the_corpus_is_what_the_teachers_beam_gives(done, text):
    teacher = done.trained("cmu_teacher", 0)
    found = beam_search(teacher, text.sources, width=5, max_length=12, device="cpu")
    kept = translations(done, 5)
    assert [several[0]["tokens"] for several in kept] == [several[0].tokens for several in found]
    base = done.work / "translations" / "sequence_kd.smoke.cmu_teacher.s0.beam5.jsonl"
    sources = base.with_suffix(".source.txt").read_text().splitlines()
    targets = base.with_suffix(".target.txt").read_text().splitlines()
    assert sources == [source for source, _ in text.data.train]
    assert targets == [text.written(several[0].tokens) for several in found]


def test_interpolation_trains_on_the_nearest_of_a_wide_beam(done, text, monkeypatch):
    trained_on: list[tuple[list[list[int]], list[list[int]]]] = []
    real = TranslatorTraining.fit

    def noted(self, pairs, *rest, **options):
        trained_on.append(pairs)
        return real(self, pairs, *rest, **options)

    monkeypatch.setattr(TranslatorTraining, "fit", noted)
    again = runner(done.work / "again", RECIPE, work=done.work)
    again.run([("cmu_seq_inter", 0)])
    ((sources, targets),) = trained_on
    several = translations(done, 10)
    assert sources == text.sources
    assert len(targets) == len(several) == 200
    changed = 0
    for chosen, beam, (_, reference) in zip(targets, several, text.data.train, strict=True):
        place = closest_to_reference([text.written(each["tokens"]) for each in beam], reference)
        assert chosen == beam[place]["tokens"]
        changed += place > 0
    assert changed > 0


def test_how_near_the_texts_come_to_the_references_is_told(done, rows, text):
    """Of the nets above nothing is right; of a text that is partly the references it is that part, and a BLEU."""
    for name, width in (("seq_kd", 5), ("seq_inter", 10)):
        file = done.work / "translations" / f"sequence_kd.smoke.cmu_teacher.s0.beam{width}.closest.jsonl"
        chosen = json.loads(file.read_text())["chosen"] if name == "seq_inter" else [0] * len(text.targets)
        beams = translations(done, width)
        said = [several[place]["tokens"] for several, place in zip(beams, chosen, strict=True)]
        same = sum(one == other for one, other in zip(said, text.targets, strict=True))
        assert rows[name].metrics["text_same"] == same / len(text.targets)
        cut = sum(not several[place]["finished"] for several, place in zip(beams, chosen, strict=True))
        assert rows[name].metrics["text_cut"] == cut / len(text.targets)
    run = Run(done, "cmu_seq_kd", RECIPE.arm("cmu_seq_kd"), 0)
    training = TranslatorTraining(run, at_least=1, phonemes=False)
    places = [3, 5, 8, 9]
    targets = [Hypothesis(text.targets[place], -1.0, finished=True) for place in places]
    training._compare(places, targets)
    assert training.about_text == {"text_same": 1.0, "text_cut": 0.0, "text_bleu": pytest.approx(100.0)}
    training._compare(places, [*targets[:3], Hypothesis(text.targets[0], -1.0, finished=False)])
    assert (training.about_text["text_same"], training.about_text["text_cut"]) == (0.75, 0.25)
    assert 0 < training.about_text["text_bleu"] < 100


@pytest.mark.parametrize("steps", [4, 5])
def test_long_trainings_ask_for_kernels(done, text, monkeypatch, steps):
    monkeypatch.setattr("kdrepro.translator_training._WORTH_COMPILING", steps)
    monkeypatch.setattr(Run, "fit", lambda self, net, *rest, **options: net.compiled)
    training = TranslatorTraining(
        Run(done, "cmu_student_alone", RECIPE.arm("cmu_student_alone"), 0), at_least=1, phonemes=True
    )
    # 200 words are four batches.
    assert training.fit((text.sources, text.targets), Supervised(), epochs=1) is (steps == 4)
    # On a CPU none are made.
    assert "compiled" not in training.settings


def test_longer_training_is_on_the_references_of_the_pairs_that_interpolation_takes(done, text, monkeypatch):
    monkeypatch.setitem(sequence_kd._SPELLING, "interpolation_sentences", 100)
    trained_on: list[tuple[list[list[int]], list[list[int]]]] = []
    steps: list[dict[str, object]] = []
    real = TranslatorTraining.fit

    def noted(self, pairs, *rest, **options):
        trained_on.append(pairs)
        steps.append(options)
        return real(self, pairs, *rest, **options)

    monkeypatch.setattr(TranslatorTraining, "fit", noted)
    its = runner(done.work / "longer", RECIPE)
    names = ["teacher", "student_alone", "inter", "student_longer"]
    its.run([(f"cmu_{name}", 0) for name in names])
    *_, nearest, longer = trained_on
    assert longer == (text.sources[::2], text.targets[::2])
    assert nearest[0] == longer[0]
    assert nearest[1] != longer[1]
    assert steps[-1] == steps[-2]


def test_what_is_nearest_is_found_once_for_all_that_learn_from_a_teacher(done, monkeypatch):
    (file,) = (done.work / "translations").glob("*cmu_teacher.s0.beam10.closest.jsonl")
    before = file.read_bytes()
    assert len(json.loads(before)["chosen"]) == 200
    monkeypatch.setattr("kdrepro.translator_training.closest_to_reference", None)
    again = runner(done.work / "found", RECIPE, work=done.work)
    again.run([("cmu_inter", 0)])
    monkeypatch.undo()
    # What was found for other references is not taken for these.
    file.write_text(json.dumps(json.loads(before) | {"asked": "something else", "chosen": [1]}))
    runner(done.work / "sought", RECIPE, work=done.work).run([("cmu_inter", 0)])
    assert file.read_bytes() == before


def test_what_is_nearest_in_another_beam_is_not_taken_for_this_ones(tmp_path):
    its = SimpleNamespace(
        settings={"interpolation_beam": 2, "translations_2": "one"},
        text=SimpleNamespace(target=SimpleNamespace(digest="words"), written=" ".join),
    )

    def chosen(*beams: str, reference: str = "a dog runs") -> list[int]:
        several = [[SimpleNamespace(tokens=each.split()) for each in beams]]
        return TranslatorTraining._chosen(its, several, [reference], file=tmp_path / "chosen.jsonl")

    assert chosen("a cat sits", "a dog runs") == [1]
    assert chosen("a dog runs", "a cat sits") == [1]
    its.settings["translations_2"] = "another"
    assert chosen("a dog runs", "a cat sits") == [0]
    # Nor for other references, nor of another vocabulary.
    assert chosen("a dog runs", "a cat sits", reference="a cat sits") == [1]
    its.text.target.digest = "other words"
    assert chosen("a cat sits", "a dog runs", reference="a cat sits") == [0]


def test_a_teacher_whose_answers_do_not_fit_is_asked_at_every_step(done, rows, monkeypatch):
    assert rows["word_kd"].config["teacher_cached"] is True
    monkeypatch.setattr("kdrepro.translator_training._MOST_CACHED", 1000)
    (row,) = runner(done.work / "asked", RECIPE, work=done.work).run([("cmu_word_kd", 0)])
    assert row.config == rows["word_kd"].config | {"teacher_cached": False}
    for name, curve in rows["word_kd"].curves.items():
        assert row.curves[name] == pytest.approx(curve, rel=1e-5), name


def test_interpolation_takes_its_pairs_from_the_whole_text(done, text, monkeypatch):
    monkeypatch.setitem(sequence_kd._SPELLING, "interpolation_sentences", 100)
    again = runner(done.work / "half", RECIPE)
    again.run(again.plan(["cmu_teacher"], [0]))
    arm = RECIPE.arm("cmu_teacher_inter")
    training = TranslatorTraining(Run(again, "cmu_teacher_inter", arm, 0), at_least=1, phonemes=True)
    sources, targets = training.closest()
    assert sources == text.sources[::2]
    beams = beam_search(training.teacher, sources, width=10, n_best=10, max_length=12, device="cpu")
    for chosen, several, (_, reference) in zip(targets, beams, text.data.train[::2], strict=True):
        place = closest_to_reference([text.written(each.tokens) for each in several], reference)
        assert chosen == several[place].tokens


def test_the_recorded_numbers_are_those_of_the_weights(done, rows, text):
    net = done.trained("cmu_seq_kd", 0)
    references = [target.split() for _, target in text.data.test]
    for way, found in (
        ("greedy", greedy(net, text.test_sources, max_length=12, device="cpu")),
        (
            "beam5",
            [each[0] for each in beam_search(net, text.test_sources, width=5, max_length=12, device="cpu")],
        ),
    ):
        written = [text.target.decode(each.tokens) for each in found]
        rate = text_metrics.phoneme_error_rate(written, references)
        assert rows["seq_kd"].metrics[f"phoneme_error_rate_{way}"] == pytest.approx(rate)
    mass = text_metrics.mode_mass([each.log_prob for each in found])
    assert rows["seq_kd"].metrics["mode_mass"] == pytest.approx(mass)


def test_pruned_weights_stay_zero_and_are_not_counted(done, rows):
    for share in (50, 80, 90):
        net = done.trained(f"cmu_pruned_{share}", 0)
        zeros = sum(int((each == 0).sum()) for each in net.parameters())
        everything = sum(each.numel() for each in net.parameters())
        assert rows[f"pruned_{share}"].parameters == everything - zeros
        assert zeros / everything == pytest.approx(share / 100, abs=0.08)
        attention = net.score.weight
        assert rows[f"pruned_{share}"].metrics["kept_score"] == (attention != 0).float().mean().item()
    assert not any(name.startswith("kept_") for name in rows["seq_kd"].metrics)
    assert rows["seq_kd"].parameters == sum(
        each.numel() for each in done.trained("cmu_seq_kd", 0).parameters()
    )


def test_a_search_that_was_killed_leaves_the_same_rows(done, rows, tmp_path):
    """Half of the teacher's translations are there; the rest is found, and the student trains on the same text."""
    for folder in ("weights", "translations"):
        (tmp_path / folder).mkdir()
        for file in (done.work / folder).glob("*cmu_teacher.s0*"):
            content = file.read_bytes()
            cut = len(content) // 2 if file.name.endswith("beam5.jsonl") else len(content)
            (tmp_path / folder / file.name).write_bytes(content[:cut])
    (row,) = runner(tmp_path, RECIPE).run([("cmu_seq_kd", 0)])
    timed = {name for name in row.metrics if "second" in name or "speedup" in name}
    assert timed
    assert {name: value for name, value in row.metrics.items() if name not in timed} == {
        name: value for name, value in rows["seq_kd"].metrics.items() if name not in timed
    }
    assert row.config == rows["seq_kd"].config
    assert row.curves == rows["seq_kd"].curves


def test_settings_are_chosen_on_the_pairs_for_choosing(tmp_path):
    its = runner(tmp_path, replace(RECIPE, held_out=50), split="select")
    whole, held = (
        corpora.loaded(sequence_kd.CORPORA["cmu"], "smoke"),
        its.data(RECIPE.arm("cmu_teacher")),
    )
    assert held.test == whole.valid
    assert held.train == whole.train
    assert not set(held.test) & set(whole.test)
