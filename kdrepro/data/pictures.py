"""Which pictures the protocols of a recipe use."""

from __future__ import annotations

from kdrepro.data import cifar, mnist
from kdrepro.data.examples import DataSet
from kdrepro.protocols import EVIDENCE


def digits(protocol: str, *, smoke: tuple[int, int] = (400, 200)) -> DataSet:
    """Return all of MNIST, at `quick` the 5,000 embedded digits, or at `smoke` a few to train on and to test with."""
    if protocol in EVIDENCE:
        return mnist.load("mnist")
    few = mnist.load("mnist5k")
    return few.few(*smoke) if protocol == "smoke" else few


def cifar10(protocol: str) -> DataSet:
    """Return CIFAR-10, or at `reduced` its JPEG copy."""
    return cifar.load("cifar10-jpeg" if protocol == "reduced" else "cifar10")
