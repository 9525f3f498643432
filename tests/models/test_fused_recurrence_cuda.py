"""The loops on a GPU, with kernels of their own and without: the numbers are those of a CPU."""

from __future__ import annotations

import copy
import random

import pytest
import torch
import torch._dynamo

from kdrepro.data.text import SentenceBatches
from kdrepro.losses.logits import hard_target_loss
from kdrepro.models import fused_recurrence
from kdrepro.models.seq2seq import LSTMSeq2Seq

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def full_fp32_and_no_kernel_missing():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    torch._dynamo.reset()
    # Else a function that is compiled for too many kinds of batches goes on uncompiled, and nothing tells.
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield
    torch.backends.cuda.matmul.allow_tf32 = before


def pairs(count: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(4, 50) for _ in range(draw.randint(1, 12))] for _ in range(count)]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_losses_and_gradients_are_those_of_a_cpu(half, compiled):
    if compiled:
        assert fused_recurrence.can_compile(torch.device("cuda"))
    sentences = pairs(75)
    batches = SentenceBatches(sentences, sentences[::-1], batch_size=32, seed=0)
    torch.manual_seed(0)
    on_cpu = LSTMSeq2Seq(50, 60, hidden=100, dropout=0.0)
    on_gpu = copy.deepcopy(on_cpu).cuda()
    on_gpu.compiled = compiled
    for place in range(2):
        for batch, other in zip(batches.to("cpu").epoch(place), batches.to("cuda").epoch(place), strict=True):
            found = []
            for student, given in ((on_cpu, batch), (on_gpu, other)):
                with torch.autocast(given.targets.device.type, torch.bfloat16, enabled=half):
                    logits = student(**given.inputs)
                loss = hard_target_loss(logits.float(), given.targets)[given.mask].mean()
                gradients = torch.autograd.grad(loss, list(student.parameters()))
                found.append([loss.detach().cpu(), *(each.cpu() for each in gradients)])
            for one, seen in zip(*found, strict=True):
                assert (seen - one).norm() <= (0.05 if half else 1e-4) * one.norm()
