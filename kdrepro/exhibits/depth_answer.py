"""What the depth study of Romero et al. (2015), section 4.1, shows, in words made from rows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from kdrepro.claims import Comparison, Side, paper
from kdrepro.exhibits.thin_nets import DEPTHS, KINDS, hint_left
from kdrepro.judging.readings import compare, difference, readings, rows_shown, summary
from kdrepro.judging.wording import from_to
from kdrepro.ledger import Ledger, Row

_LEARNS = 0.5
_STAGES = {
    "hint": "after two stages",
    "joint": "after one",
    "joint_labels": "after one without soft targets",
}
# Section 4.1, at the paper's own length: the deepest net that each way trains.
_PAPER = (
    "The paper, at its full length, trains up to {alone.deepest} layers with labels, {kd.deepest} with soft targets "
    "and {hint.deepest} with hints"
).format_map(KINDS)


def answer(ledger: Ledger, *, protocol: str = "reduced") -> str:
    """Say which depths have learned in which way, and whether their teacher is better than a shallow net.

    A net has learned if it gets more than half of the test pictures right; of a depth whose runs differ it is said.
    """
    rows = rows_shown(ledger, "fitnets", protocol)
    told, runs = [], set()
    for kind, (name, *_) in KINDS.items():
        outcome: dict[str, list[str]] = {"": [], "some runs of ": [], "not ": []}
        for depth in DEPTHS:
            found = readings(rows, Side.of(f"depth{depth}_{kind}", "test_error_rate"))
            learned = {each.value < _LEARNS for each in found}
            runs |= {len(found)} if found else set()
            if learned:
                words = "some runs of " if len(learned) > 1 else "" if learned == {True} else "not "
                outcome[words].append(str(depth))
        said = [f"{words}{_listed(depths)}" for words, depths in outcome.items() if depths]
        if said:
            told.append(f"{name} {', '.join(said)}")
    if not told:
        return "**Not run yet.**"
    first = (
        f"**Nets of how many layers have learned when a short schedule ends? With {'; with '.join(told)}.**"
    )
    return " ".join([first, f"{_PAPER}; {_length(rows, runs)}.", *_teacher(rows)])


def _length(rows: Sequence[Row], runs: set[int]) -> str:
    """How long these nets were trained, and how often."""
    students = [row.config for row in rows if row.arm.startswith("depth")]
    epochs = {config["epochs"] // config["shorter"] for config in students if "shorter" in config}
    trained, times = from_to(epochs) if epochs else "fewer", from_to(runs)
    there = "there is 1 run" if times == "1" else f"there are {times} runs"
    return f"here a net has {trained} epochs, and {there} of each"


def _listed(depths: list[str]) -> str:
    return depths[0] if len(depths) == 1 else f"{', '.join(depths[:-1])} and {depths[-1]}"


def _teacher(rows: Sequence[Row]) -> list[str]:
    """Two sentences where the runs do not show that the teacher is better than the shallowest net on labels alone."""
    sides = [Side.of(arm, "test_error_rate") for arm in ("cifar_teacher", f"depth{DEPTHS[0]}_alone")]
    teacher, shallow = (summary(rows, side) for side in sides)
    # Of fewer runs than the claims ask for nothing is said of what they read.
    if shallow is None or shallow[1] < paper("romero2015").claim("S21").seeds:
        return []
    # As in the premise of the claims: there is one teacher, and it is compared with every run of the net.
    less = difference(compare(rows, Comparison(*sides), one_run=sides[0].arms))
    if teacher is None or shallow is None or less is None or less.high < 0:
        return []
    return [
        f"Their teacher makes {100 * teacher[0].mean:.1f} % errors and the net of {DEPTHS[0]} layers, on labels alone, "
        f"{100 * shallow[0].mean:.1f} %.",
        "The rules, written before the runs, ask for a teacher that is shown to be better, so what was learned from "
        "this one reads `inconclusive`, whatever the figure shows.",
    ]


def hint_kept(ledger: Ledger, *, protocol: str = "reduced") -> str:
    """Say how far from the hint the guided layer ends after two stages and after one; nothing without runs of both.

    In percent of the distance of the hint's mean at each position, see `kdrepro.exhibits.thin_nets.hint_left`.
    """
    rows = rows_shown(ledger, "fitnets", protocol)
    told = []
    for depth in KINDS["joint"].depths:
        said = {}
        for kind, words in _STAGES.items():
            left = hint_left([row for row in rows if row.arm == f"depth{depth}_{kind}"])
            if left:
                said[kind] = f"{fmean(left):.0f} % {words}"
        if "hint" in said and len(said) > 1:
            told.append(f"with {depth} layers {_listed(list(said.values()))}")
    if not told:
        return ""
    return (
        "How far the guided layer is from the hint when the training ends, seen through its regressor, in percent of "
        f"how far the hint's mean is: {'; '.join(told)}. After two stages the regressor is that of the first, which "
        "knows nothing of how the layer moved in the second: a number near 100 or above says that the layer no longer "
        "means the same, not that it no longer tells what the hint does."
    )
