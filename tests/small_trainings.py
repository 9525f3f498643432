"""Trainings of a few steps: through the engine, and as anybody would write them."""

import torch
from small_networks import batch, network
from small_objectives import OBJECTIVE
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from kdrepro import Batches, Supervised, fit
from kdrepro.data.text import SentenceBatches
from kdrepro.models.seq2seq import LSTMSeq2Seq


def batches(count: int = 50, **changes) -> Batches:
    inputs, targets = batch(count)
    return Batches(**{"inputs": inputs, "targets": targets, "batch_size": 16, "seed": 3, **changes})


def sgd(parameters) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.9)


def train(student: nn.Module, **changes):
    """Three epochs of soft targets on the CPU in float32, with the `changes` of a test."""
    arguments = {
        "objective": OBJECTIVE,
        "batches": batches(),
        "teacher": network(0),
        "optimizer": sgd,
        "epochs": 3,
        "device": "cpu",
        "precision": "fp32",
    }
    return fit(student, **(arguments | changes))


def without_dropout(seed: int) -> nn.Sequential:
    net = network(seed)
    net[3].p = 0.0
    return net


def without_batch_norm(seed: int) -> nn.Sequential:
    net = without_dropout(seed)
    return nn.Sequential(net[0], net[2], net[4])


def hand_written(student: nn.Module, teacher: nn.Module, data: Batches, *, epochs: int, clip=None):
    """Hinton's soft targets as anybody would write them, without this package's losses and loop."""
    optimizer = sgd(student.parameters())
    steps, step = epochs * len(data), 0
    student.train()
    teacher.eval()
    terms: list[list[tuple[float, float]]] = []
    for epoch in range(epochs):
        terms.append([])
        for part in data.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - step / steps)
            logits = student(part.inputs)
            with torch.no_grad():
                wanted = log_softmax(teacher(part.inputs) / 4, dim=-1)
            soft = (
                0.9 * 16 * kl_div(log_softmax(logits / 4, -1), wanted, log_target=True, reduction="batchmean")
            )
            hard = (1 - 0.9) * cross_entropy(logits, part.targets)
            optimizer.zero_grad()
            (soft + hard).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(student.parameters(), clip)
            optimizer.step()
            terms[-1].append((soft.item(), hard.item()))
            step += 1
    return [[sum(each) / len(data) for each in zip(*epoch, strict=True)] for epoch in terms]


def falling(optimizer) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 1 - step / (3 * len(batches())))


def translator() -> LSTMSeq2Seq:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return LSTMSeq2Seq(9, 9, hidden=8, layers=1, dropout=0.0)


def train_translator(net: nn.Module):
    """Sentences of very different length, so that two halves of a batch have not as many words."""
    lengths = (6, 1, 5, 1, 1, 4, 2, 6, 1, 3)
    pairs = [[4 + place % 5] * length for place, length in enumerate(lengths)]
    data = SentenceBatches(pairs, pairs, batch_size=4, seed=3)
    options = {"optimizer": sgd, "epochs": 2, "device": "cpu", "precision": "fp32"}
    return fit(net, Supervised(), data, **options)
