"""The arms of sequence-level distillation, their teachers and nets, and what the claims say of them."""

from __future__ import annotations

from recorded_rows import make_row
from sequence_kd_runs import CMU, UNTAUGHT, metrics_read

from kdrepro.arms import candidates
from kdrepro.claims import paper
from kdrepro.ledger import recorded
from kdrepro.recipes import sequence_kd
from kdrepro.recipes.sequence_kd import RECIPE, config
from kdrepro.row import run_id
from kdrepro.verdicts import judge


def test_the_arms_are_those_that_the_claims_name():
    named = {arm for claim in paper("kim2016").claims for arm in claim.needs}
    families = {"ende", "deen"}
    assert {name.partition("_")[0] for name in named} == families
    assert named <= set(RECIPE.arms)
    for family in families:
        assert {name.removeprefix(f"{family}_") for name in RECIPE.arms if name.startswith(family)} == CMU


def judged(seeds: int) -> dict[str, str]:
    """The verdicts by made rows of every arm that a claim names, on metrics that all differ."""
    claims = paper("kim2016").claims
    metrics = sorted({metric for claim in claims for metric in metrics_read(claim)})
    rows = []
    for place, arm in enumerate(sorted({arm for claim in claims for arm in claim.needs})):
        taught = RECIPE.arm(arm).needs
        for seed in range(seeds):
            values = {name: 1.0 + place + 0.01 * seed + 100 * number for number, name in enumerate(metrics)}
            teachers = [
                run_id(recipe="sequence_kd", arm=name, protocol="paper", seed=of) for name, of in taught(seed)
            ]
            rows.append(
                make_row(
                    arm,
                    seed,
                    recipe="sequence_kd",
                    protocol="paper",
                    metrics=values,
                    teacher=teachers[0] if teachers else None,
                )
            )
    return {claim.id: judge(claim, rows).verdict for claim in claims}


def test_five_seeds_judge_every_claim_and_four_those_of_teachers_alone():
    verdicts = judged(5)
    stand_ins = {claim.id for claim in paper("kim2016").claims if claim.kind != "out of reach"}
    assert {key for key, verdict in verdicts.items() if verdict == "out of reach"} == set(
        verdicts
    ) - stand_ins
    assert not [key for key in stand_ins if verdicts[key] == "not run"]
    few = judged(4)
    open_claims = {key for key in stand_ins if few[key] == "not run"}
    of_teachers = {
        claim.id
        for claim in paper("kim2016").claims
        if claim.id in stand_ins and all("teacher" in arm for arm in claim.needs)
    }
    assert open_claims == stand_ins - of_teachers
    assert of_teachers


def test_each_of_five_students_has_a_teacher_of_its_own():
    for family in ("ende", "deen", "cmu"):
        assert RECIPE.arm(f"{family}_teacher").seeds == 5
        # A sixth would learn from the first teacher; a teacher that goes on learns from none but itself.
        assert list(RECIPE.arm(f"{family}_seq_kd").needs(5)) == [(f"{family}_teacher", 0)]
        assert list(RECIPE.arm(f"{family}_teacher_inter").needs(5)) == [(f"{family}_teacher", 5)]
        for name in CMU - UNTAUGHT - {"teacher_inter"}:
            arm = RECIPE.arm(f"{family}_{name}")
            assert arm.seeds == 5, name
            assert [list(arm.needs(seed)) for seed in (0, 2, 4)] == [
                [(f"{family}_teacher", seed)] for seed in (0, 2, 4)
            ], name


def test_the_nets_are_those_of_the_papers_smaller_pair():
    for role, hidden in (("teacher", 500), ("student", 100)):
        settings = config(f"cmu {role}", "paper")
        assert (settings["layers"], settings["hidden"], settings["beam"]) == (2, hidden, 5)
        net = RECIPE.build(settings)
        assert (net.hidden, net.layers) == (hidden, 2)
    assert config("cmu student fine", "paper")["fine_rate"] == 0.1
    assert RECIPE.arm("ende_word_kd").overrides == {"soft_weight": 0.5}


def test_a_run_has_the_settings_of_what_it_does_and_no_others():
    later = {"fine_rate", "fine_epochs"}, {"retrain_rate", "retrain_epochs"}
    for name, steps in (("seq_kd", ()), ("teacher", ()), ("seq_inter", later[:1]), ("pruned_80", later)):
        for protocol in ("smoke", "paper"):
            settings = config(RECIPE.arm(f"cmu_{name}").base, protocol)
            assert {key for key in settings if key.startswith(("fine", "retrain"))} == set().union(*steps)
    assert config("cmu student fine", "smoke")["fine_epochs"] == 1
    assert config("cmu teacher fine", "paper")["hidden"] == 500


def test_candidates_are_the_settings_that_were_tried():
    tried = candidates(RECIPE)
    rows = recorded().rows(recipe="sequence_kd", split="select")
    assert len(rows) == sum(len(settings) for settings in RECIPE.candidates.values())
    for row in rows:
        arm = tried.arm(row.arm)
        base = sequence_kd._TEACHER if arm.base.endswith("teacher") else sequence_kd._STUDENT
        today = base | arm.overrides
        assert {key: row.config[key] for key in today} == today, row.run
