"""Word-level distillation against loops over positions, and the teacher's translations: the same file after a kill."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from terms_and_gradients import gradient, total

from kdrepro import translation_files
from kdrepro.decode import beam_search
from kdrepro.methods import sequence_kd
from kdrepro.methods.sequence_kd import WordLevelKD, closest_to_reference, teacher_translations
from kdrepro.models.seq2seq import LSTMSeq2Seq
from kdrepro.text_metrics import sentence_bleu
from kdrepro.types import Batch, Outputs

VOCABULARY = 7


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    shape = (3, 4, VOCABULARY)
    student = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
    targets = torch.randint(VOCABULARY, shape[:2], generator=generator)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    return student, teacher, Batch(torch.zeros(3, 4), targets, mask)


def test_word_level_is_the_mean_over_the_words_that_count(case):
    student, teacher, batch = case
    soft = hard = 0.0
    for row in range(3):
        for place in range(4):
            if batch.mask[row, place]:
                q, p = log_softmax(student[row, place].tolist()), log_softmax(teacher[row, place].tolist())
                soft += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)) / 7
                hard -= q[batch.targets[row, place]] / 7
    terms = WordLevelKD(soft_weight=0.3)(Outputs(student), Outputs(teacher), batch)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"soft": 0.3 * soft, "hard": 0.7 * hard}
    )
    assert set(WordLevelKD(soft_weight=1.0)(Outputs(student), Outputs(teacher), batch)) == {"soft"}
    assert set(WordLevelKD(soft_weight=0.0)(Outputs(student), Outputs(teacher), batch)) == {"hard"}


def test_padding_gets_no_gradient_and_the_first_word_does(case):
    student, teacher, batch = case
    # What stands in the padding must not matter, whatever it is.
    teacher[~batch.mask] = torch.nan
    terms = WordLevelKD()(Outputs(student), Outputs(teacher), batch)
    touched = gradient(total(terms), student).abs().sum(dim=-1) > 0
    assert torch.equal(touched, batch.mask)


def test_word_level_needs_a_teacher_with_the_same_vocabulary(case):
    student, teacher, batch = case
    with pytest.raises(ValueError, match="teacher: got None"):
        WordLevelKD()(Outputs(student), None, batch)
    with pytest.raises(ValueError, match=r"teacher_logits: got 6 classes, expected the student's 7"):
        WordLevelKD()(Outputs(student), Outputs(teacher[..., :6]), batch)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(1)
    return LSTMSeq2Seq(9, VOCABULARY, hidden=8, layers=1, dropout=0.0)


@pytest.fixture(scope="module")
def sources():
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(1, 6, (30,), generator=generator).tolist()
    return [torch.randint(4, 9, (length,), generator=generator).tolist() for length in lengths]


SEARCH = {"width": 3, "n_best": 2, "max_length": 6, "device": "cpu", "teacher_id": "sha256:1"}


def test_the_translations_are_those_of_the_beam(teacher, sources):
    found = teacher_translations(teacher, sources, **SEARCH)
    search = {key: value for key, value in SEARCH.items() if key != "teacher_id"}
    assert found.hypotheses == beam_search(teacher, sources, batch_size=128, **search)


def test_a_search_that_was_killed_ends_with_the_same_file(teacher, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_kd, "_CHUNK", 8)
    whole = tmp_path / "whole.jsonl"
    first = teacher_translations(teacher, sources, file=whole, **SEARCH)
    content = whole.read_bytes()
    assert first == teacher_translations(teacher, sources, file=whole, **SEARCH)
    assert whole.read_bytes() == content
    for kept in (0, 10, content.index(b"\n") + 1, len(content) // 2, len(content) - 1):
        killed = tmp_path / "killed.jsonl"
        killed.write_bytes(content[:kept])
        assert teacher_translations(teacher, sources, file=killed, **SEARCH) == first
        assert killed.read_bytes() == content


def test_a_finished_file_is_read_and_nothing_is_searched(teacher, sources, tmp_path, monkeypatch):
    file = tmp_path / "found.jsonl"
    first = teacher_translations(teacher, sources, file=file, **SEARCH)
    monkeypatch.setattr(sequence_kd, "beam_search", None)
    assert teacher_translations(teacher, sources, file=file, **SEARCH) == first


def test_a_teacher_without_a_name_is_known_by_its_weights(teacher, sources, tmp_path):
    search = {key: value for key, value in SEARCH.items() if key != "teacher_id"}
    file = tmp_path / "found.jsonl"
    found = teacher_translations(teacher, sources, file=file, **search)
    assert teacher_translations(copy.deepcopy(teacher), sources, file=file, **search) == found
    trained = copy.deepcopy(teacher)
    with torch.no_grad():
        next(trained.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match=r"belongs to another search \(teacher differ\)"):
        teacher_translations(trained, sources, file=file, **search)


@pytest.mark.parametrize(
    "other", [{"teacher_id": "sha256:2"}, {"width": 4}, {"max_length": 5}, {"n_best": 1}, {"batch_size": 2}]
)
def test_a_file_of_another_search_is_refused(teacher, sources, tmp_path, other):
    file = tmp_path / "found.jsonl"
    teacher_translations(teacher, sources, file=file, **SEARCH)
    with pytest.raises(ValueError, match=r"found.jsonl: belongs to another search \(\w+ differ\)"):
        teacher_translations(teacher, sources, file=file, **SEARCH | other)
    with pytest.raises(ValueError, match=r"belongs to another search \(sources, sentences differ\)"):
        teacher_translations(teacher, sources[1:], file=file, **SEARCH)
    file.write_text("no translations\n")
    with pytest.raises(ValueError, match=r"found.jsonl: not a file of translations"):
        teacher_translations(teacher, sources, file=file, **SEARCH)


def test_a_search_does_not_go_on_in_another_precision_and_one_that_is_done_is_read(
    teacher, sources, tmp_path, monkeypatch
):
    monkeypatch.setattr(sequence_kd, "_CHUNK", 8)
    file = tmp_path / "found.jsonl"
    found = teacher_translations(teacher, sources, file=file, **SEARCH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert teacher_translations(teacher, sources, file=file, **SEARCH) == found
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:-1]))
        with pytest.raises(ValueError, match=r"belongs to another search \(arithmetic differ\)"):
            teacher_translations(teacher, sources, file=file, **SEARCH)


def test_a_teacher_in_another_precision_does_not_go_on_either(teacher, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_kd, "_CHUNK", 8)
    file = tmp_path / "found.jsonl"
    options = SEARCH | {"teacher_id": "one", "width": np.int64(SEARCH["width"])}
    teacher_translations(teacher, sources, file=file, **options)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"belongs to another search \(arithmetic differ\)"):
        teacher_translations(copy.deepcopy(teacher).bfloat16(), sources, file=file, **options)


def test_two_processes_do_not_write_one_file(teacher, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_kd, "_CHUNK", 8)
    monkeypatch.setattr(translation_files, "_PATIENCE", 0.01)
    file = tmp_path / "found.jsonl"
    refused = []

    def other(done: int, of: int) -> None:
        with pytest.raises(RuntimeError, match=r"found.jsonl: another process writes the same translations"):
            teacher_translations(teacher, sources, file=file, **SEARCH)
        refused.append(done)

    found = teacher_translations(teacher, sources, file=file, progress=other, **SEARCH)
    assert refused == [8, 16, 24, 30]
    # Whoever comes afterwards reads it.
    assert teacher_translations(teacher, sources, file=file, **SEARCH) == found


def test_a_finished_file_is_read_where_nobody_can_write(teacher, sources, tmp_path, monkeypatch):
    def no_lock(self):
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "found.jsonl"
    found = teacher_translations(teacher, sources, file=file, **SEARCH)
    monkeypatch.setattr(translation_files.FileLock, "acquire", no_lock)
    assert teacher_translations(teacher, sources, file=file, **SEARCH) == found
    with pytest.raises(PermissionError):
        teacher_translations(teacher, sources, file=tmp_path / "other.jsonl", **SEARCH)


@pytest.mark.parametrize("lines", [[0, 1, 4], [0, 1, 2, 3, 3, 4], [0, 1, 2, 3, 4, 4]])
def test_a_file_whose_pieces_are_not_those_of_one_search_is_refused(
    teacher, sources, tmp_path, monkeypatch, lines
):
    monkeypatch.setattr(sequence_kd, "_CHUNK", 8)
    file = tmp_path / "found.jsonl"
    teacher_translations(teacher, sources, file=file, **SEARCH)
    content = file.read_text().splitlines(keepends=True)
    file.write_text("".join(content[line] for line in lines))
    with pytest.raises(ValueError, match=r"found.jsonl: holds \d+ sentences in pieces of other lengths"):
        teacher_translations(teacher, sources, file=file, **SEARCH)


def test_a_text_of_somebody_elses_is_not_overwritten(teacher, sources, tmp_path):
    file = tmp_path / "notes.txt"
    for content in ("important notes", "important\nnotes", '{"teacher": "sha256:1"}\n5\n'):
        file.write_text(content)
        with pytest.raises(ValueError, match=r"notes\.txt: "):
            teacher_translations(teacher, sources, file=file, **SEARCH)
        assert file.read_text() == content


def test_a_sentence_that_cannot_be_read_is_named_before_anything_is_translated(teacher, sources, monkeypatch):
    monkeypatch.setattr(sequence_kd, "_CHUNK", 8)
    told = []
    search = SEARCH | {"progress": lambda done, of: told.append(done)}
    with pytest.raises(ValueError, match="sources: got no word in sentence 30"):
        teacher_translations(teacher, [*sources, []], **search)
    with pytest.raises(TypeError, match="as sentence 0, expected a list of word numbers"):
        teacher_translations(teacher, [torch.tensor([5, 6])], **search)
    with pytest.raises(ValueError, match="device: got 'auto', expected a device of torch's"):
        teacher_translations(teacher, sources, **search | {"device": "auto"})
    assert told == []


def test_a_file_that_is_no_text_is_refused_by_name(teacher, sources, tmp_path):
    file = tmp_path / "found.jsonl"
    file.write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"found.jsonl: not a file of translations"):
        teacher_translations(teacher, sources, file=file, **SEARCH)


def test_progress_is_told_and_a_file_holds_one_line_for_each_piece(teacher, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_kd, "_CHUNK", 12)
    told = []
    file = tmp_path / "found.jsonl"
    search = SEARCH | {"progress": lambda done, of: told.append((done, of))}
    teacher_translations(teacher, sources, file=file, **search)
    assert told == [(12, 30), (24, 30), (30, 30)]
    assert [len(json.loads(line)) for line in file.read_text().splitlines()[1:]] == [12, 12, 6]


def test_the_closest_is_the_one_of_the_highest_sentence_bleu():
    reference = "a man in a red shirt is riding a horse ."
    beam = [
        "a man rides .",
        "a man in a red shirt rides a horse .",
        "two men in red shirts .",
        reference[:-2],
    ]
    scores = [sentence_bleu(each, reference) for each in beam]
    assert closest_to_reference(beam, reference) == scores.index(max(scores))
    assert closest_to_reference([reference, reference], reference) == 0
    with pytest.raises(ValueError, match="hypotheses: got none"):
        closest_to_reference([], reference)


def test_nearness_is_that_of_the_hypothesis_to_the_reference():
    # By brevity the first has 60.7 and by precision the second 58.7; the other way round, 50.8 and 60.7.
    beam = ["a man rides a", "a man rides a horse today in the park"]
    assert closest_to_reference(beam, "a man rides a horse today") == 0
