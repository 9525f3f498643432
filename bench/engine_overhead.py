"""How much longer `fit` takes than a loop written by hand that does the same work.

    python bench/engine_overhead.py [--limit 1.05] [--rounds 13] [--threads 1] [--device cpu] [--precision fp32]

Hinton's student (784-800-800-10) learns soft targets at T=20 from cached outputs, in batches of 250 of the embedded
digits. The two take turns, so that whatever else the machine does falls on both; the medians are compared. On a CPU
the time is that of the process, which other processes do not change, and one thread does not wait for another.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.optim import SGD

from kdrepro import Batches, HintonKD, cache_teacher, devices, fit
from kdrepro.caching import CachedTeacher
from kdrepro.data import mnist
from kdrepro.models.mlp import MLP

TEMPERATURE, SOFT_WEIGHT, LEARNING_RATE, EPOCHS = 20.0, 0.9, 0.1, 2


def net() -> nn.Module:
    torch.manual_seed(0)
    return MLP([784, 800, 800, 10])


def with_fit(student: nn.Module, data: Batches, cached: CachedTeacher, device: str, precision: str) -> None:
    fit(
        student,
        HintonKD(temperature=TEMPERATURE, soft_weight=SOFT_WEIGHT),
        data,
        teacher=cached,
        optimizer=lambda parameters: SGD(parameters, lr=LEARNING_RATE, momentum=0.9, fused=True),
        epochs=EPOCHS,
        device=device,
        precision=precision,
    )


def by_hand(
    student: nn.Module, data: Batches, cached: CachedTeacher, where: torch.device, precision: str
) -> None:
    student.to(where).train()
    inputs, targets, wanted = data.inputs.to(where), data.targets.to(where), cached.logits.to(where)
    optimizer = SGD(student.parameters(), lr=LEARNING_RATE, momentum=0.9, fused=True)
    for epoch in range(EPOCHS):
        generator = torch.Generator().manual_seed((data.seed << 20) + epoch)
        soft_sum, hard_sum = torch.zeros((), device=where), torch.zeros((), device=where)
        for index in torch.randperm(len(inputs), generator=generator).to(where).split(data.batch_size):
            with torch.autocast(where.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
                logits = student(inputs[index]).float()
            softened = log_softmax(logits / TEMPERATURE, dim=-1)
            teacher = log_softmax(wanted[index].float() / TEMPERATURE, dim=-1)
            soft = kl_div(softened, teacher, log_target=True, reduction="batchmean")
            soft = SOFT_WEIGHT * TEMPERATURE**2 * soft
            hard = (1 - SOFT_WEIGHT) * cross_entropy(logits, targets[index])
            optimizer.zero_grad(set_to_none=True)
            (soft + hard).backward()
            optimizer.step()
            soft_sum += soft.detach()
            hard_sum += hard.detach()
        if not torch.isfinite(soft_sum + hard_sum):
            raise FloatingPointError(f"epoch {epoch}: the loss is not finite")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--limit", type=float, default=1.05, help="largest ratio that passes (1.05)")
    parser.add_argument("--rounds", type=int, default=13, help="how often each of the two runs (13)")
    parser.add_argument("--threads", type=int, default=1, help="how many threads on a CPU (1)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps (cpu)")
    parser.add_argument("--precision", default="fp32", help="auto, fp32 or bf16 (fp32)")
    chosen = parser.parse_args()

    torch.set_num_threads(chosen.threads)
    where = devices.accelerator(chosen.device).device
    precision = devices.precision_for(chosen.precision, where)
    digits = mnist.load("mnist5k").train
    data = Batches(digits.inputs, digits.targets, batch_size=250, seed=0)
    teacher = MLP([784, 1200, 1200, 10], input_dropout=0.2, hidden_dropout=0.5)
    cached = cache_teacher(teacher, data, device=chosen.device, precision=precision)

    def clock() -> float:
        if where.type == "cpu":
            return time.process_time()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        return time.perf_counter()

    seconds: dict[str, list[float]] = {"fit": [], "by hand": []}
    ends: dict[str, list[torch.Tensor]] = {}
    for turn in range(chosen.rounds + 1):
        # Whoever goes second finds the caches warm, so they change places.
        for name in ("fit", "by hand") if turn % 2 else ("by hand", "fit"):
            student = net()
            began = clock()
            if name == "fit":
                with_fit(student, data, cached, chosen.device, precision)
            else:
                by_hand(student, data, cached, where, precision)
            took = clock() - began
            ends[name] = [parameter.detach() for parameter in student.parameters()]
            # The first turn warms up.
            seconds[name] += [took] if turn else []
    for one, other in zip(*ends.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)

    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ratio = medians["fit"] / medians["by hand"]
    steps = EPOCHS * len(data)
    for name, each in seconds.items():
        print(
            f"{name:8} {1000 * medians[name] / steps:6.2f} ms a step, median of {len(each)} runs of {steps} steps "
            f"({min(each):.2f} to {max(each):.2f} s)"
        )
    print(f"ratio    {ratio:6.3f} (limit {chosen.limit:g}) on {devices.describe(where)}, {precision}")
    if ratio > chosen.limit:
        print(
            f"fit takes {ratio:.3f} times as long as the loop by hand, expected {chosen.limit:g}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
