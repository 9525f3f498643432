"""The loops over time: gradients written by hand against differences, and what dropout leaves."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from kdrepro.models import fused_recurrence, recurrence
from kdrepro.models.recurrence import cell_step, dropout_factors, tanh_

BATCH, STEPS, SOURCE, HIDDEN = 2, 3, 4, 3


def numbers(*shape: int, seed: int, requires_grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)


@pytest.fixture(params=["on a CPU", "on a GPU", "compiled"])
def loops(request, monkeypatch):
    """An encoder's layer and the decoder, as a CPU takes them, as a GPU does, and as functions that are traced."""
    if request.param == "on a CPU":
        return recurrence.EncoderLayer.apply, recurrence.DecoderLoop.apply
    compiled = request.param == "compiled"
    if compiled:
        monkeypatch.setattr(fused_recurrence, "_compiled", traced)
    return (
        partial(fused_recurrence.EncoderLayer.apply, compiled),
        partial(fused_recurrence.DecoderLoop.apply, compiled),
    )


@cache
def traced(step):
    """What torch.compile follows, without the minute that it takes to write kernels."""
    return torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=False)


def test_the_encoders_gradients_are_right(loops):
    encode, _ = loops
    inputs, weight = numbers(SOURCE, BATCH, 4 * HIDDEN, seed=0), numbers(4 * HIDDEN, HIDDEN, seed=1)
    assert gradcheck(encode, (inputs, weight, torch.tensor([3, 1])))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("dropout", [False, True])
def test_the_decoders_gradients_are_right(loops, layers, dropout):
    _, decode = loops
    words = numbers(STEPS, BATCH, 4 * HIDDEN, seed=0)
    keys, values = numbers(BATCH, SOURCE, HIDDEN, seed=1), numbers(BATCH, SOURCE, HIDDEN, seed=2)
    blocked = torch.zeros(BATCH, 1, SOURCE, dtype=torch.float64)
    blocked[1, :, 2:] = -torch.inf
    states = [numbers(layers, BATCH, HIDDEN, seed=seed) for seed in (3, 4)]
    dropped = None
    if dropout:
        # Anything may stand here, so that a wrong factor shows.
        dropped = numbers(layers, STEPS, BATCH, HIDDEN, seed=5, requires_grad=False)
    own = numbers(HIDDEN, HIDDEN, seed=6)
    weights = [numbers(4 * HIDDEN, 2 * HIDDEN, seed=7)]
    for layer in range(1, layers):
        weights += [
            numbers(4 * HIDDEN, 2 * HIDDEN, seed=7 + 2 * layer),
            numbers(4 * HIDDEN, seed=8 + 2 * layer),
        ]
    # All gradients at once, in a random direction.
    assert gradcheck(
        decode,
        (words, keys, values, blocked, *states, dropped, own, *weights),
        fast_mode=layers > 1,
    )


def test_a_second_derivative_is_refused_and_not_wrong(loops):
    encode, _ = loops
    inputs, weight = numbers(SOURCE, BATCH, 4 * HIDDEN, seed=0), numbers(4 * HIDDEN, HIDDEN, seed=1)
    hidden, _, _ = encode(inputs, weight, torch.tensor([3, 3]))
    (first,) = torch.autograd.grad(hidden.square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("by_sigmoid", [True, False])
def test_a_step_of_a_cell_is_torchs(monkeypatch, by_sigmoid):
    monkeypatch.setattr(recurrence, "by_sigmoid", lambda values: by_sigmoid)
    cell = torch.nn.LSTMCell(5, HIDDEN).double()
    inputs, hidden, before = (
        numbers(BATCH, size, seed=size, requires_grad=False) for size in (5, HIDDEN, HIDDEN)
    )
    with torch.no_grad():
        sums = torch.nn.functional.linear(inputs, cell.weight_ih, cell.bias_ih)
        sums += torch.nn.functional.linear(hidden, cell.weight_hh, cell.bias_hh)
        # torch has the gates in the order i, f, g, o.
        i, f, g, o = sums.chunk(4, dim=1)
        output, new, squashed = cell_step(torch.cat([i, f, o, g], dim=1), before)
        expected = cell(inputs, (hidden, before))
        torch.testing.assert_close((output * squashed, new), expected)
        sums = torch.cat([i, f, o, g], dim=1)
        torch.testing.assert_close(fused_recurrence.cell_forward(sums, before), expected)


@pytest.mark.parametrize("by_sigmoid", [True, False])
def test_tanh_holds_far_from_zero_and_near_it(monkeypatch, by_sigmoid):
    monkeypatch.setattr(recurrence, "by_sigmoid", lambda values: by_sigmoid)
    values = torch.tensor([-1e4, -20.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 20.0, 1e4])
    torch.testing.assert_close(tanh_(values.clone()), values.tanh(), rtol=0, atol=2e-7)


@pytest.mark.parametrize("dropout", [0.1, 0.3, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(dropout):
    torch.manual_seed(0)
    factors = dropout_factors((100, 1_001), dropout, like=torch.zeros(1))
    assert factors.shape == (100, 1_001)
    assert factors.unique().tolist() == pytest.approx([0, 1 / (1 - dropout)])
    assert (factors == 0).double().mean().item() == pytest.approx(dropout, abs=0.005)
    assert factors.mean().item() == pytest.approx(1, abs=0.03)
    # Neighbours, which are made of the same random number, know nothing of one another.
    gone = (factors.flatten()[: 4 * 25_000] == 0).double().view(-1, 4)
    together = (gone.t() @ gone / len(gone)).fill_diagonal_(dropout**2)
    assert together.sub(dropout**2).abs().max() < 0.01


def test_dropout_is_a_function_of_torchs_seed():
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(dropout_factors((7, 9), 0.5, like=torch.zeros(1)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_dropout_just_below_one_leaves_nothing_rather_than_everything():
    torch.manual_seed(0)
    factors = dropout_factors((10_000,), 1 - 1e-9, like=torch.zeros(1))
    assert (factors > 0).sum() < 10


def test_where_no_kernel_can_be_made_there_is_a_warning_and_it_goes_on(monkeypatch):
    def refuse(step):
        raise RuntimeError("no C compiler\nand much more")

    monkeypatch.setattr(torch, "compile", refuse)
    fused_recurrence.can_compile.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"for cpu \(RuntimeError: no C compiler\); going on without"):
            assert not fused_recurrence.can_compile(torch.device("cpu"))
        # Said once.
        assert not fused_recurrence.can_compile(torch.device("cpu"))
    finally:
        fused_recurrence.can_compile.cache_clear()
