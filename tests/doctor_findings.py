"""A batch, a teacher that is right on it, and the codes of what the doctor finds."""

import torch
from small_networks import Fixed, batch
from torch import nn

from kdrepro.diagnoses import Finding

INPUTS, TARGETS = batch(64)


def right_teacher(*, wrong: int = 0, size: float = 6.0) -> nn.Module:
    """A sleeping, frozen teacher that is right on all but the first `wrong` of the 64."""
    logits = nn.functional.one_hot(TARGETS, 5).float() * size + torch.linspace(0, 0.5, 5)
    logits[:wrong] = logits[:wrong].roll(1, -1)
    return Fixed(logits).eval().requires_grad_(False)


def codes(findings: list[Finding]) -> list[str]:
    assert all(finding.message and finding.advice.endswith(".") for finding in findings)
    return [finding.code for finding in findings]


def only(findings: list[Finding], code: str, severity: str = "error") -> Finding:
    assert codes(findings) == [code]
    assert findings[0].severity == severity
    return findings[0]
