"""Pairs of logits, drawn by Hypothesis or from a seed."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

bounded = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5))
    values = arrays.arrays(np.float64, shape, elements=st.floats(-30, 30, width=16))
    return torch.from_numpy(draw(values)), torch.from_numpy(draw(values))


def random_pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    student = torch.randn(shape, generator=random, dtype=torch.float64)
    teacher = torch.randn(shape, generator=random, dtype=torch.float64)
    return (3 * student).to(dtype), (3 * teacher).to(dtype)
