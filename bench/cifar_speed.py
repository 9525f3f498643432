"""How much faster `fit` trains on CIFAR-sized images than the ordinary way, and a cohort than its arms one by one.

    python bench/cifar_speed.py [--steps 40] [--rounds 3] [--seeds 5] [--threads 2]

WRN-16-2 teaches WRN-16-1 with soft targets, in batches of 128 crops, mirrored at random. The ordinary way is per-image
torchvision transforms in a `DataLoader` with two workers, float32, channels first, in a process of its own; `fit` is
called as `kdrepro run` calls it, in a process that keeps what it frees. A cohort of five is five such students under
one teacher. The images are noise of CIFAR's size, since no pixel changes the time. The ways take turns, so that
whatever else the machine does falls on all; the medians are compared. An epoch of CIFAR has 391 steps: the more of them
are measured, the less what comes before the first weighs.

That the faster way loses no accuracy is shown by training both ways on the embedded digits: same initial weights, same
batches, same views, a rate that falls to 0, without which the last steps decide; the difference in test errors is
paired by seed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdrepro import Batches, HintonKD, Supervised, devices, fit, metrics, predict
from kdrepro.data import cifar, mnist
from kdrepro.data.batches import CropFlip
from kdrepro.engine import fit_cohort
from kdrepro.judging.intervals import mean_interval
from kdrepro.models.wide_resnet import WideResNet
from kdrepro.training.members import Member

BATCH, TEMPERATURE, SOFT_WEIGHT, ARMS = 128, 4.0, 0.9, 5
# What is asked of them.
LEAST_FASTER, LEAST_COHORT = 2.5, 1.3


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as PIL gives them, transformed one by one when they are asked for."""

    def __init__(self, pixels: np.ndarray, targets: Tensor) -> None:
        self.pixels, self.targets = pixels, targets
        mean, deviation = (
            [each / 255 for each in values] for values in (cifar.MEAN, cifar.STANDARD_DEVIATION)
        )
        self.transform = transforms.Compose(
            [
                transforms.Pad(4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.RandomCrop(32),
                transforms.ToTensor(),
                transforms.Normalize(mean, deviation),
            ]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[position])), int(self.targets[position])


def sgd(parameters: object) -> SGD:
    # Fused, as in the recipes: for both ways, so that it is no part of what is compared.
    return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)


def falling(steps: int) -> Callable[[Optimizer], LRScheduler]:
    """Return what lowers the learning rate to 0 within so many steps."""
    return lambda optimizer: LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))


def by_hand(
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    *,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
) -> None:
    """Train on soft targets and labels as a plain script would, in float32."""
    optimizer = sgd(student.parameters())
    rate = schedule(optimizer) if schedule is not None else None
    student.train()
    for inputs, targets in batches:
        with torch.no_grad():
            wanted = teacher(inputs)
        logits = student(inputs)
        soft = kl_div(
            log_softmax(logits / TEMPERATURE, dim=-1),
            log_softmax(wanted / TEMPERATURE, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        loss = SOFT_WEIGHT * TEMPERATURE**2 * soft + (1 - SOFT_WEIGHT) * cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rate is not None:
            rate.step()


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def noise(steps: int) -> tuple[Tensor, Tensor]:
    """Return pictures of CIFAR's size, (N, 32, 32, 3), and their classes, for so many batches."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (steps * BATCH, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(10, (len(pixels),), generator=generator)


def ordinary_seconds(steps: int, threads: int) -> float:
    """Return the seconds of so many steps in the ordinary way."""
    torch.set_num_threads(threads)
    pixels, targets = noise(steps)
    loader = DataLoader(Pictures(pixels.numpy(), targets), batch_size=BATCH, shuffle=True, num_workers=2)
    teacher = WideResNet(16, 2).eval().requires_grad_(False)
    return timed(lambda: by_hand(WideResNet(16, 1), teacher, iter(loader)))


def speed(steps: int, rounds: int, threads: int) -> tuple[float, float, float]:
    """Return the seconds of a step: in the ordinary way, with `fit`, and of each arm of a cohort."""
    devices.keep_freed_memory()
    torch.set_num_threads(threads)
    pixels, targets = noise(steps)
    teacher = WideResNet(16, 2).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    inputs = pixels.permute(0, 3, 1, 2).float().sub(120).div(64).contiguous()
    batches = Batches(inputs, targets, batch_size=BATCH, seed=0, augment=CropFlip())

    def member() -> Member:
        objective = HintonKD(temperature=TEMPERATURE, soft_weight=SOFT_WEIGHT)
        return Member(student=WideResNet(16, 1), objective=objective, optimizer=sgd)

    def cohort(size: int) -> None:
        fit_cohort([member() for _ in range(size)], batches, epochs=1, teacher=teacher, device="cpu")

    found: dict[str, list[float]] = {"ordinary": [], "fit": [], "cohort": []}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as plain:
        for turn in range(rounds + 1):
            times = {
                "ordinary": plain.submit(ordinary_seconds, steps, threads).result() / steps,
                "fit": timed(lambda: cohort(1)) / steps,
                "cohort": timed(lambda: cohort(ARMS)) / steps / ARMS,
            }
            # The first turn warms up.
            for name, seconds in times.items() if turn else ():
                found[name].append(seconds)
    ordinary, alone, together = (statistics.median(found[name]) for name in ("ordinary", "fit", "cohort"))
    return ordinary, alone, together


def lost_errors(seeds: int, epochs: int = 6) -> list[float]:
    """Return the share of test errors that `fit` makes more than the plain script, seed by seed."""
    digits = mnist.load("mnist5k")
    augment = CropFlip(pixels=2, flip=False)
    torch.manual_seed(0)
    teacher = WideResNet(10, 2, in_channels=1)
    everything = Batches(digits.train.inputs, digits.train.targets, batch_size=BATCH, seed=99)
    schedule = falling(epochs * len(everything))
    fit(teacher, Supervised(), everything, optimizer=sgd, schedule=schedule, epochs=epochs, device="cpu")
    teacher.eval().requires_grad_(False)
    plain_teacher = copy.deepcopy(teacher).to(memory_format=torch.contiguous_format)
    differences = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        first = WideResNet(10, 1, in_channels=1)
        second = copy.deepcopy(first)
        batches = Batches(
            digits.train.inputs, digits.train.targets, batch_size=BATCH, seed=seed, augment=augment
        )
        views = ((batch.inputs, batch.targets) for epoch in range(epochs) for batch in batches.epoch(epoch))
        by_hand(first, plain_teacher, views, schedule=schedule)
        objective = HintonKD(temperature=TEMPERATURE, soft_weight=SOFT_WEIGHT)
        fit(
            second,
            objective,
            batches,
            teacher=teacher,
            optimizer=sgd,
            schedule=schedule,
            epochs=epochs,
            device="cpu",
        )
        wrong = [
            metrics.errors(predict(net, digits.test.inputs, device="cpu"), digits.test.targets)
            for net in (first, second)
        ]
        differences.append((wrong[1] - wrong[0]) / len(digits.test))
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40, help="batches of 128 in a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way, after a warm-up")
    parser.add_argument("--seeds", type=int, default=5, help="pairs of students for the accuracy")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    words = parser.parse_args()
    ordinary, alone, together = speed(words.steps, words.rounds, words.threads)
    print(
        f"WRN-16-2 → WRN-16-1, batch {BATCH}, seconds a step: the ordinary way {ordinary:.3f}, fit {alone:.3f} "
        f"({ordinary / alone:.2f} times as fast, at least {LEAST_FASTER} wanted), an arm of a cohort of {ARMS} "
        f"{together:.3f} ({alone / together:.2f} times as fast again, at least {LEAST_COHORT} wanted)"
    )
    lost = mean_interval(lost_errors(words.seeds))
    print(
        f"errors on embedded digits, fit minus the ordinary way: {lost.mean:+.2%}, "
        f"95 % interval {lost.low:+.2%} to {lost.high:+.2%}, {words.seeds} pairs"
    )
    held = (
        ordinary / alone >= LEAST_FASTER and alone / together >= LEAST_COHORT and lost.low <= 0 <= lost.high
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
