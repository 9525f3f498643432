"""The program of sequence-level distillation on two text files of one's own, and what translates with its nets."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
from project_files import ROOT
from recorded_rows import make_row
from sequence_kd_runs import CMU, metrics_read
from smoke_runs import runner

from kdrepro import own_text as module
from kdrepro.claims import paper
from kdrepro.decode import Hypothesis
from kdrepro.methods.supervised import Supervised
from kdrepro.own_text import OWN_ARMS, estimated_seconds, own_runner, own_text, translator
from kdrepro.recipes import sequence_kd
from kdrepro.run import Run
from kdrepro.translator_training import TranslatorTraining

SMALL = {"hidden": 8, "epochs": 1}


def two_files(folder: Path, *, lines: int = 60) -> tuple[Path, Path]:
    """Sentences of six words, and their translations of eight."""
    words = ["red", "big", "old"] * lines
    texts = [
        [f"a {words[number]} dog number {number} {start}" for number in range(lines)]
        for start in ("sits", "sitzt da ohne")
    ]
    files = folder / "text.en", folder / "text.de"
    for file, text in zip(files, texts, strict=True):
        file.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return files


def test_two_files_of_ones_own_train_every_arm(tmp_path):
    recipe, digest, _ = own_text(*two_files(tmp_path))
    its = runner(tmp_path / "runs", recipe)
    names = ["own_student_alone", "own_seq_kd", "own_seq_inter"]
    found = {row.arm: row for row in its.run(its.plan(names))}
    assert set(found) == {*names, "own_teacher"}
    assert {row.data["digest"] for row in found.values()} == {digest}
    for row in found.values():
        assert 0 <= row.metrics["bleu_greedy"] <= 100
        assert row.config["bleu_signature"].startswith("nrefs:1|case:mixed")
    assert set(recipe.arms) == {f"own_{name}" for name in CMU}
    # These are the metrics of every row about sentences, and the claims are judged by no others.
    read = {metric for claim in paper("kim2016").claims for metric in metrics_read(claim)}
    assert read <= set(found["own_seq_inter"].metrics)


def test_more_seeds_share_the_one_teacher(tmp_path):
    recipe, *_ = own_text(*two_files(tmp_path))
    plan = runner(tmp_path / "runs", recipe).plan(OWN_ARMS, [0, 1, 2])
    assert [seed for name, seed in plan if name == "own_teacher"] == [0]
    assert len(plan) == 1 + 3 * len(OWN_ARMS)


def test_a_text_of_ones_own_is_cut_for_the_small_protocols_alone(tmp_path):
    recipe, *_ = own_text(*two_files(tmp_path, lines=7_000))
    sizes = {protocol: len(recipe.load(protocol).train) for protocol in ("smoke", "quick", "paper")}
    assert sizes == {"smoke": 300, "quick": 5_000, "paper": 6_300}
    # Sentences are not spelt: the nets of the demonstration are for that.
    settings = {protocol: recipe.config("own student", protocol) for protocol in ("quick", "paper")}
    assert settings["quick"]["hidden"] == settings["paper"]["hidden"] == 100


def test_three_settings_follow_the_text_and_those_of_the_captions_stay(tmp_path):
    files = two_files(tmp_path)
    target = files[1].read_text(encoding="utf-8").splitlines()
    held_out = {
        pair[1] for part in ("valid", "test") for pair in getattr(own_text(*files)[0].load("paper"), part)
    }
    longest = next(place for place, line in enumerate(target) if line not in held_out)
    target[longest] = " ".join(["lang"] * 100)
    files[1].write_text("".join(f"{line}\n" for line in target), encoding="utf-8")
    recipe, *_ = own_text(*files)
    settings = recipe.config("own student fine", "paper")
    # 54 pairs to train on, and a fifth and five more than a hundred words.
    assert (settings["interpolation_sentences"], settings["max_length"]) == (27, 125)
    assert settings["leave_out_cut"] is True
    smoke = recipe.config("own student fine", "smoke")
    assert (smoke["interpolation_sentences"], smoke["max_length"]) == (27, 12)
    assert "leave_out_cut" not in smoke
    spelling = sequence_kd.config("cmu student fine", "paper")
    assert (spelling["interpolation_sentences"], spelling["max_length"]) == (2_000, 30)
    assert "leave_out_cut" not in spelling


def test_settings_of_ones_own_go_before(tmp_path):
    files = two_files(tmp_path)
    recipe, *_ = own_text(*files, teacher={"hidden": 8}, student={"epochs": 64, "fine_epochs": 9})
    assert recipe.config("own teacher", "paper")["hidden"] == 8
    student = recipe.config("own student", "paper")
    assert (student["hidden"], student["epochs"]) == (100, 64)
    # A run has the settings of what it does.
    assert "fine_epochs" not in student
    assert recipe.config("own student fine", "paper")["fine_epochs"] == 9
    with pytest.raises(ValueError, match=r"student setting: got 'epoch', expected .* did you mean 'epochs'"):
        own_text(*files, student={"epoch": 64})


def test_settings_are_tried_on_the_pairs_for_choosing(tmp_path):
    files = two_files(tmp_path)
    tried = own_runner(*files, protocol="smoke", folder=tmp_path / "runs", split="select", progress=False)
    text = own_text(*files)[0].load("smoke")
    assert tried.data(tried.recipe.arm("own_student_alone")).test == text.valid
    (row,) = tried.run([("own_student_alone", 0)])
    assert row.split == "select"


CUT = Hypothesis([4, 5, 4, 5], -3.0, finished=False)


def training(folder: Path, arm: str, *, cut: int, protocol: str = "paper", **options) -> TranslatorTraining:
    """Of a student whose teacher's search cuts off the first translations."""
    its = own_runner(
        *two_files(folder), protocol=protocol, folder=folder / "runs", teacher=SMALL, student=SMALL, **options
    )
    its.run(its.plan(["own_teacher"]))
    found = TranslatorTraining(Run(its, arm, its.recipe.arm(arm), 0), at_least=2, phonemes=False)

    def search(sources, *, width, n_best):
        found.settings[f"translations_{width}"] = "made up"
        ended = Hypothesis([4, 5, 6], -1.0, finished=True)
        return [[CUT if place < cut else ended] for place in range(len(sources))], its.work / "made.jsonl"

    found._search = search
    return found


def test_what_the_search_cuts_off_is_not_taught_as_if_it_ended_there(tmp_path, capsys):
    its = training(tmp_path, "own_seq_kd", cut=3, device="cpu")
    capsys.readouterr()
    pairs = its.translations()
    assert pairs == (its.text.sources[3:], [[4, 5, 6]] * 51)
    written = [
        (tmp_path / "runs" / f"made.{side}.txt").read_text().splitlines() for side in ("source", "target")
    ]
    assert written[0] == [source for source, _ in its.text.data.train[3:]]
    assert written[1] == [its.text.written([4, 5, 6])] * 51
    assert its.about_text["text_cut"] == pytest.approx(3 / 54)
    assert capsys.readouterr().out == (
        "Warning: own_seq_kd seed 0: 5.6% of the teacher's translations do not end within "
        f"{its.settings['max_length']} words and are left out: it has learned too little, so give it more pairs or "
        "more epochs\n"
    )
    its.fit(pairs, Supervised(), epochs=1)


def test_of_the_nearest_too(tmp_path, capsys):
    its = training(tmp_path, "own_teacher_inter", cut=2, device="cpu", progress=False)
    # Every second pair.
    assert its.closest() == (its.text.sources[::2][2:], [[4, 5, 6]] * 25)
    assert "Warning" not in capsys.readouterr().out


@pytest.mark.parametrize(("cut", "protocol"), [(0, "paper"), (3, "smoke")])
def test_nothing_is_said_of_none_and_nothing_left_out_of_nets_too_small_to_learn(
    cut, protocol, tmp_path, capsys
):
    its = training(tmp_path, "own_seq_kd", cut=cut, protocol=protocol, device="cpu")
    assert its.translations()[0] == its.text.sources
    assert "Warning" not in capsys.readouterr().out


def test_a_teacher_that_ends_nothing_is_named(tmp_path):
    its = training(tmp_path, "own_seq_kd", cut=54, device="cpu", progress=False)
    with pytest.raises(
        ValueError, match=r"own_seq_kd\.s0: none of the teacher's 54 translations ends within 14"
    ):
        its.translations()
    assert not (tmp_path / "runs" / "made.target.txt").exists()


def test_what_a_text_of_ones_own_leaves_unknown_is_told(tmp_path):
    for name in ("a.en", "a.de"):
        rare = "seldom" if name == "a.en" else "dog"
        lines = "".join(
            f"dog dog {rare + str(number) if name == 'a.en' else rare}\n" for number in range(100)
        )
        (tmp_path / name).write_text(lines, encoding="utf-8")
    *_, encoded = own_text(tmp_path / "a.en", tmp_path / "a.de")
    assert encoded("paper").described() == (
        "90 pairs to train on, 5 to test with; of the words of these 33.3% in the source and 0.0% in the target are "
        "unknown, as no or too few training pairs have them"
    )


def test_a_translator_writes_what_the_row_of_its_net_shows(tmp_path):
    files = two_files(tmp_path)
    its = own_runner(*files, folder=tmp_path / "runs", student={"hidden": 32}, progress=False, device="cpu")
    (row,) = its.run(its.plan(["own_student_alone"]))
    again = own_runner(*files, folder=tmp_path / "runs", student={"hidden": 32}, device="cpu")
    translate = translator(again, "own_student_alone")
    assert translate(row.samples["source"]) == row.samples["beam5"]
    assert any(row.samples["beam5"])
    with pytest.raises(TypeError, match="sentences: got 'a dog', expected a list of sentences"):
        translate("a dog")
    with pytest.raises(ValueError, match="sources: got no word in sentence 1"):
        translate(["a dog", " "])


def test_a_translator_of_files_that_have_changed_is_refused(tmp_path, runs_folder):
    files = two_files(tmp_path)
    its = own_runner(*files, protocol="smoke", progress=False)
    says = r"own_seq_kd\.s0: not trained on text\.en and text\.de as they are now, by what .*text-.* holds: train it"
    with pytest.raises(ValueError, match=says):
        translator(its, "own_seq_kd")
    its.run(its.plan(["own_student_alone"]))
    assert translator(its, "own_student_alone")(["a dog"])
    files[0].write_text(files[0].read_text().replace("dog", "cat"))
    for folder in (None, its.work):
        changed = own_runner(*files, protocol="smoke", folder=folder)
        with pytest.raises(ValueError, match="If it was, the files have changed since"):
            translator(changed, "own_student_alone")


def test_an_estimate_follows_the_words_and_the_vocabulary(tmp_path):
    *_, encoded = own_text(*two_files(tmp_path))
    text = encoded("paper")
    config = {"hidden": 100, "target_words": 8_018}
    rows = [
        make_row("ende_seq_kd", seed, recipe="sequence_kd", seconds=seconds, device=device, config=config)
        for seed, (seconds, device) in enumerate(
            [(900.0, "cpu: a"), (7_000.0, "cpu: b"), (800.0, "cpu: a"), (1.0, "cuda: c")]
        )
    ]
    # In thousands of multiplications a pair: of the source, of the target, and of its words' scores.
    sources, targets = sum(map(len, text.sources)), sum(map(len, text.targets))
    own = 160 * sources + 230 * targets + 0.1 * len(text.target) * targets
    captions = 160 * 377_578 + 230 * 360_856 + 0.1 * 8_018 * 360_856
    assert estimated_seconds("own_seq_kd", text, rows) == pytest.approx(900 * own / captions)
    assert estimated_seconds("own_word_kd", text, rows) is None


def snippets() -> list[str]:
    notebook = json.loads((ROOT / "notebooks" / "sequence_kd.ipynb").read_text(encoding="utf-8"))
    (cell,) = (cell for cell in notebook["cells"] if cell["id"] == "own")
    return re.findall(r"^```python\n(.*?)^```$", "".join(cell["source"]), flags=re.DOTALL | re.MULTILINE)


def test_the_code_of_the_chapter_runs(tmp_path, runs_folder, monkeypatch, capsys):
    two_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "own_runner", partial(own_runner, protocol="smoke", device="cpu"))
    uses, tries, transformer = snippets()
    space: dict[str, object] = {}
    exec(compile(uses, "uses", "exec"), space)
    assert "own_seq_inter" in capsys.readouterr().out
    exec(compile(tries.replace("(16, 32, 64)", "(1, 2)"), "tries", "exec"), space)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said if re.fullmatch(r"\d+ [\d.]+", line)] == ["1", "2"]
    # What is trained with settings of one's own has its own folder.
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} >= {"epochs1", "epochs2"}
    compile(transformer, "transformer", "exec")
