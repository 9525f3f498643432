"""On which side of the numbers of Hinton et al. (2015) the students are that never saw some of the digits."""

from __future__ import annotations

from kdrepro.judging.wording import number
from kdrepro.ledger import Ledger
from kdrepro.verdicts import judge_paper

# The counts and rates of errors that the paper gives of these students.
_CLAIMS = ("H7", "H8", "H9", "H9a", "H11", "H12")


def missed(ledger: Ledger) -> str:
    """Say which of the paper's numbers our students miss, and to which side: Markdown made from rows."""
    judged = [each for each in judge_paper("hinton2015", ledger) if each.claim.id in _CLAIMS]
    known = [each for each in judged if each.mean is not None]
    if not known:
        return "Not run yet."
    missed = [each for each in known if each.verdict != "reproduced"]
    if not missed:
        return f"None of the paper's numbers ({', '.join(each.claim.id for each in known)}) is missed."
    sides = {
        "fewer": [each for each in missed if (each.mean or 0.0) < each.claim.value],
        "more": [each for each in missed if (each.mean or 0.0) >= each.claim.value],
    }
    told = [
        f"in {len(some)} our students make {side} errors than the paper's "
        f"({'; '.join(f'{each.claim.id}: {number(each.mean or 0.0)}, not {each.claim.value:g}' for each in some)})"
        for side, some in sides.items()
        if some
    ]
    return f"Of the {len(known)} numbers of errors in this section {len(missed)} are missed: {', and '.join(told)}."
