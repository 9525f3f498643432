"""Features to try the losses of attention on, and maps and losses written as loops."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

bounded = settings(max_examples=30, deadline=None, derandomize=True)
MAPS = list(product((1, 2, 3, 4, 1.5), ("sum", "max")))
every_map = pytest.mark.parametrize(("power", "pool"), MAPS)
powers = st.sampled_from([1, 1.5, 2, 3, 4])
pools = st.sampled_from(["sum", "max"])


def random_pair(
    student: tuple[int, ...] = (4, 3, 5, 6),
    teacher: tuple[int, ...] = (4, 7, 5, 6),
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    first = torch.randn(student, generator=random, dtype=torch.float64)
    return first.to(dtype), torch.randn(teacher, generator=random, dtype=torch.float64).to(dtype)


@st.composite
def features(
    draw: st.DrawFn, samples: int = 2, height: int | None = None, width: int | None = None
) -> Tensor:
    sides = st.integers(1, 4)
    shape = (samples, draw(sides), height or draw(sides), width or draw(sides))
    # Zeros are common, and what is not 0 is far enough from it that the naive float64 loop does not underflow.
    sizes = st.one_of(st.just(0.0), st.floats(0.01, 100), st.floats(-100, -0.01))
    return torch.from_numpy(draw(arrays.arrays(np.float64, shape, elements=sizes)))


@st.composite
def feature_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    # Of a single position there is nothing to compare.
    height, width = draw(
        st.tuples(st.integers(1, 4), st.integers(1, 4)).filter(lambda sides: sides != (1, 1))
    )
    return draw(features(height=height, width=width)), draw(features(height=height, width=width))


# Oracles: one position at a time, in Python's own numbers.


def naive_energy(feature: np.ndarray, power: float, pool: str) -> list[list[float]]:
    channels, height, width = feature.shape
    reduce = sum if pool == "sum" else max
    return [
        [reduce([abs(float(feature[c, i, j])) ** power for c in range(channels)]) for j in range(width)]
        for i in range(height)
    ]


def naive_unit(energy: list[list[float]]) -> list[float]:
    flat = [value for row in energy for value in row]
    length = math.sqrt(sum(value**2 for value in flat))
    return [value / length for value in flat] if length else flat


def naive_map(feature: np.ndarray, power: float, pool: str) -> list[float]:
    return naive_unit(naive_energy(feature, power, pool))


def naive_loss(first: list[float], second: list[float], form: str) -> float:
    squares = [(a - b) ** 2 for a, b in zip(first, second, strict=True)]
    return math.sqrt(sum(squares)) if form == "paper" else sum(squares) / len(squares)


def naive_pooled(energy: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Adaptive average pooling by its definition: window i of n goes from floor(i·N/n) to ceil((i+1)·N/n)."""
    rows, columns = len(energy), len(energy[0])

    def window(place: int, count: int, whole: int) -> range:
        return range(place * whole // count, -((-(place + 1) * whole) // count))

    pooled = []
    for i in range(height):
        pooled.append([])
        for j in range(width):
            inside = [energy[a][b] for a in window(i, height, rows) for b in window(j, width, columns)]
            pooled[-1].append(sum(inside) / len(inside))
    return pooled
