"""The program of sequence-level distillation on two text files of one's own."""

from __future__ import annotations

from sequence_kd_runs import CMU, metrics_read
from smoke_runs import runner

from kdrepro.claims import paper
from kdrepro.recipes.sequence_kd import OWN_ARMS, own_text


def test_two_files_of_ones_own_train_every_arm(tmp_path):
    lines = [f"a {word} dog number {number}" for number, word in enumerate(["red", "big", "old"] * 20)]
    files = tmp_path / "a.en", tmp_path / "a.de"
    files[0].write_text("\n".join(lines) + "\n", encoding="utf-8")
    files[1].write_text("\n".join(f"ein Hund {line}" for line in lines) + "\n", encoding="utf-8")
    recipe, digest, _ = own_text(*files)
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
    for name in ("a.en", "a.de"):
        lines = "".join(f"{name} sentence {number}\n" for number in range(100))
        (tmp_path / name).write_text(lines, encoding="utf-8")
    recipe, *_ = own_text(tmp_path / "a.en", tmp_path / "a.de")
    plan = runner(tmp_path / "runs", recipe).plan(OWN_ARMS, [0, 1, 2])
    assert [seed for name, seed in plan if name == "own_teacher"] == [0]
    assert len(plan) == 1 + 3 * len(OWN_ARMS)


def test_a_text_of_ones_own_is_cut_for_the_small_protocols_alone(tmp_path):
    for name in ("a.en", "a.de"):
        lines = "".join(f"{name} sentence {number}\n" for number in range(7_000))
        (tmp_path / name).write_text(lines, encoding="utf-8")
    recipe, *_ = own_text(tmp_path / "a.en", tmp_path / "a.de")
    sizes = {protocol: len(recipe.load(protocol).train) for protocol in ("smoke", "quick", "paper")}
    assert sizes == {"smoke": 300, "quick": 5_000, "paper": 6_300}
    # Sentences are not spelt: the nets of the demonstration are for that.
    settings = {protocol: recipe.config("own student", protocol) for protocol in ("quick", "paper")}
    assert settings["quick"]["hidden"] == settings["paper"]["hidden"] == 100


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
