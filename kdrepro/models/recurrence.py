"""The loops of an LSTM encoder-decoder over time on a CPU, with gradients written by hand.

Input feeding makes every step of the decoder wait for the one before, so what a step costs is all that counts. Here a
step is one matrix product per layer and few operations beside it, autograd records none of them, and the gradients of
the weights, which autograd would add up step by step, are one product over all positions when the loop is done. Most
is done in place: on a CPU memory is what the small operations wait for. `fused_recurrence` has the loops of a GPU; the
functions outside of the loops serve both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kdrepro.models.dropout import kept
from kdrepro.types import precise

sigmoid_backward = torch.ops.aten.sigmoid_backward
tanh_backward = torch.ops.aten.tanh_backward


def by_sigmoid(values: Tensor) -> bool:
    """Say whether a tanh is had as 2σ(2x) − 1: on a CPU, torch's sigmoid is ten times as fast as its tanh.

    On a GPU the arithmetic costs nothing here, and each operation, however small, is a launch.
    """
    return values.device.type == "cpu"


def tanh_(values: Tensor) -> Tensor:
    """Take the tanh in place."""
    return values.mul_(2).sigmoid_().mul_(2).sub_(1) if by_sigmoid(values) else values.tanh_()


def cell_step(sums: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Open the gates i, f, o, g in place, (B, 4H): return the output gate, the new cell (B, H) and its tanh."""
    inputs, forget, output, new = sums.chunk(4, dim=1)
    if by_sigmoid(sums):
        new.mul_(2)
        sums.sigmoid_()
        new.mul_(2).sub_(1)
    else:
        sums[:, : -new.shape[1]].sigmoid_()
        new.tanh_()
    cell = torch.mul(forget, cell).addcmul_(inputs, new)
    return output, cell, tanh_(cell.clone()) if by_sigmoid(cell) else torch.tanh(cell)


def attend(
    query: Tensor, own: Tensor, keys: Tensor, values: Tensor, blocked: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the attentional vectors before their dropout (B, K, H) and the attention weights (B, K, S).

    K queries of each sentence, (B, K, H); `blocked` (B, 1, S) is −∞ at padding, else 0. Luong et al. (2015), equations
    5, 7 and 8: softmax over q·key, then tanh of the sum of the values and what the query itself gives, `own`. The keys
    and values, (B, S, H), are the source's states, already multiplied with W_a and with one half of W_c.
    """
    scores = torch.baddbmm(blocked, query, keys.transpose(1, 2))
    weights = torch.softmax(scores, dim=-1, dtype=precise(query.dtype))
    sums = torch.baddbmm(own, weights.to(values.dtype), values)
    return tanh_(sums.to(weights.dtype)), weights


class _CellGradients:
    """The way back through the cells of one layer; `sums` (L, B, 4H) collects the gradients of the gates' sums."""

    def __init__(self, saved: Sequence[Tensor], dtype: torch.dtype) -> None:
        self.gates, self.cells, self.squashed = saved[0::3], saved[1::3], saved[2::3]
        batch, size = self.cells[0].shape
        steps = len(self.gates)
        self.sums = self.cells[0].new_empty(steps, batch, 4 * size, dtype=dtype)
        self.opened = self.cells[0].new_empty(batch, 4 * size)
        self.sigmoids = self.sums[..., : 3 * size].unbind()
        self.tanhs = self.sums[..., 3 * size :].unbind()
        self.parts = [*self.opened.chunk(4, dim=1), self.opened[:, : 3 * size]]
        self.size = size

    def step(self, t: int, hidden: Tensor, cell: Tensor) -> Tensor:
        """Take the gradient of step t's hidden state, move `cell`'s one step back, in place; return the sums'."""
        gates, before, squashed = self.gates[t], self.cells[t], self.squashed[t]
        inputs, forget, output, new = gates.chunk(4, dim=1)
        to_input, to_forget, to_output, to_new, to_sigmoids = self.parts
        cell.add_(tanh_backward(hidden * output, squashed))
        torch.mul(cell, new, out=to_input)
        torch.mul(cell, before, out=to_forget)
        torch.mul(hidden, squashed, out=to_output)
        torch.mul(cell, inputs, out=to_new)
        sigmoid_backward(to_sigmoids, gates[:, : 3 * self.size], grad_input=self.sigmoids[t])
        tanh_backward(to_new, new, grad_input=self.tanhs[t])
        cell.mul_(forget)
        return self.sums[t]


class EncoderLayer(Function):
    """One LSTM layer over the sentences of a batch, from a state of zeros.

    `inputs` (S, B, 4H), what the layer below gives the gates i, f, o, g, bias and all; `weight` (4H, H), from the
    hidden state to the gates; `last` (B,), each sentence's last position. Gives the hidden states (S, B, H), and the
    hidden state and the cell at `last`, (B, H).
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch, _ = inputs.shape
        size, fine = weight.shape[1], precise(inputs.dtype)
        into_gates = weight.to(inputs.dtype).t()
        hidden = inputs.new_zeros(steps + 1, batch, size)
        states = hidden.unbind()
        cell = inputs.new_zeros(batch, size, dtype=fine)
        saved, cells = [], []
        for t, given in enumerate(inputs.unbind()):
            gates = torch.addmm(given, states[t], into_gates).to(fine)
            before = cell
            output, cell, squashed = cell_step(gates, before)
            torch.mul(output, squashed, out=states[t + 1])
            saved += [gates, before, squashed]
            cells.append(cell)
        ctx.save_for_backward(weight, last, hidden, *saved)
        rows = torch.arange(batch, device=last.device)
        return hidden[1:], hidden[last + 1, rows], torch.stack(cells)[last, rows]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, hidden_grads: Tensor, last_hidden: Tensor, last_cell: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        weight, last, hidden, *saved = ctx.saved_tensors
        steps, _, size = hidden_grads.shape
        back = _CellGradients(saved, hidden.dtype)
        from_gates = weight.to(hidden.dtype)
        fine = last_cell.dtype
        ends = (torch.arange(steps, device=last.device)[:, None] == last).to(fine).unsqueeze(2)
        totals = torch.addcmul(hidden_grads.to(fine), ends, last_hidden.to(fine)).unbind()
        last_cells = (ends * last_cell).unbind()
        to_cell = torch.zeros_like(last_cell)
        to_hidden: Tensor | None = None
        for t in range(steps - 1, -1, -1):
            to_cell.add_(last_cells[t])
            total = totals[t]
            if to_hidden is not None:
                total += to_hidden
            to_hidden = (back.step(t, total, to_cell) @ from_gates).to(fine)
        flat = back.sums.view(-1, 4 * size)
        return back.sums, (flat.t() @ hidden[:-1].reshape(-1, size)).to(weight.dtype), None


def unpacked(
    own: Tensor, layer_weights: Sequence[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """Return the decoder's weights by layer, and as products in `dtype` take them: biases, into the gates, `own`.

    `layer_weights` are those of each layer, each but the lowest followed by its bias.
    """
    weights = [layer_weights[0], *layer_weights[1::2]]
    biases = [bias.to(dtype) for bias in layer_weights[2::2]]
    return weights, biases, [weight.to(dtype).t() for weight in weights], own.to(dtype).t()


class DecoderLoop(Function):
    """The decoder with attention and input feeding over all positions: (L, B, 4H) → attentional vectors (L, B, H).

    `words` are what the words before give the lowest layer's gates, bias and all; `keys`, `values` and `blocked` as in
    `attend`; `hidden`, `cell` (layers, B, H) the first states; `dropped` what dropout multiplies with: (layers, L, B,
    H), between the layers and, in the last, on the attentional vector, or None. `own`: (H, H) from the highest hidden
    state to the attentional vector; `layer_weights`: (4H, 2H) of each layer, from what comes from below and its own
    hidden state to the gates, each but the lowest followed by its bias.
    """

    @staticmethod
    def forward(
        ctx: Any,
        words: Tensor,
        keys: Tensor,
        values: Tensor,
        blocked: Tensor,
        hidden: Tensor,
        cell: Tensor,
        dropped: Tensor | None,
        own: Tensor,
        *layer_weights: Tensor,
    ) -> Tensor:
        steps, batch, _ = words.shape
        layers, _, size = hidden.shape
        dtype, fine = words.dtype, precise(words.dtype)
        weights, biases, into_gates, into_own = unpacked(own, layer_weights, dtype)
        cells = list(cell.to(fine).unbind())
        # What each layer's product takes, step by step: from below, and its own hidden state.
        taken = words.new_zeros(layers, steps + 1, batch, 2 * size)
        taken[:, 0, :, size:] = hidden
        both = [each.unbind() for each in taken]
        below = [each.unbind() for each in taken[..., :size]]
        states = [each.unbind() for each in taken[..., size:]]
        saved: list[list[Tensor]] = [[] for _ in range(layers)]
        ends: list[Tensor] = []
        for t, given in enumerate(words.unbind()):
            for layer in range(layers):
                base = given if layer == 0 else biases[layer - 1]
                gates = torch.addmm(base, both[layer][t], into_gates[layer]).to(fine)
                before = cells[layer]
                output, cells[layer], squashed = cell_step(gates, before)
                torch.mul(output, squashed, out=states[layer][t + 1])
                saved[layer] += [gates, before, squashed]
                if layer < layers - 1:
                    _drop(states[layer][t + 1], dropped, layer, t, into=below[layer + 1][t])
            query = states[-1][t + 1]
            own_sums = (query @ into_own).unsqueeze(1)
            vector, weight = attend(query.unsqueeze(1), own_sums, keys, values, blocked)
            ends += [vector.squeeze(1), weight.squeeze(1)]
            _drop(vector.squeeze(1), dropped, -1, t, into=below[0][t + 1])
        ctx.save_for_backward(keys, values, dropped, own, taken, *weights, *chain(*saved, ends))
        return taken[0, 1:, :, :size].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        keys, values, dropped, own, taken, *rest = ctx.saved_tensors
        layers, _, batch, _ = taken.shape
        steps, _, size = grads.shape
        dtype, fine = taken.dtype, rest[-1].dtype
        grads = grads.to(fine)
        weights, rest = rest[:layers], rest[layers:]
        from_gates = [weight.to(dtype) for weight in weights]
        from_own = own.to(dtype)
        back = [
            _CellGradients(rest[3 * steps * layer : 3 * steps * (layer + 1)], dtype)
            for layer in range(layers)
        ]
        vectors, attention = rest[3 * steps * layers :: 2], rest[3 * steps * layers + 1 :: 2]
        sums = taken.new_empty(steps, batch, size)
        scores = taken.new_empty(steps, batch, keys.shape[1])
        to_cell = [torch.zeros_like(vectors[0]) for _ in range(layers)]
        to_hidden: list[Tensor | None] = [None] * layers
        fed: Tensor | None = None
        for t in range(steps - 1, -1, -1):
            total = grads[t]
            if fed is not None:
                total = total + fed
            if dropped is not None:
                total = total * dropped[-1, t]
            tanh_backward(total, vectors[t], grad_input=sums[t])
            # The softmax's gradient.
            weighted = attention[t] * torch.bmm(values, sums[t].unsqueeze(2)).squeeze(2)
            torch.addcmul(weighted, attention[t], weighted.sum(1, keepdim=True), value=-1, out=scores[t])
            through_own = (sums[t] @ from_own).unsqueeze(1)
            down = torch.baddbmm(through_own, scores[t].unsqueeze(1), keys).squeeze(1).to(fine)
            for layer in range(layers - 1, -1, -1):
                later = to_hidden[layer]
                if later is not None:
                    down = down + later
                both = (back[layer].step(t, down, to_cell[layer]) @ from_gates[layer]).to(fine)
                down, to_hidden[layer] = both[:, :size], both[:, size:]
                if layer and dropped is not None:
                    down = down * dropped[layer - 1, t]
            fed = down
        top = taken[-1, 1:, :, size:].contiguous()
        layer_grads: list[Tensor] = []
        for layer in range(layers):
            flat = back[layer].sums.view(-1, 4 * size)
            layer_grads.append((flat.t() @ taken[layer, :-1].view(-1, 2 * size)).to(weights[layer].dtype))
            if layer:
                layer_grads.append(flat.sum(0, dtype=fine).to(weights[layer].dtype))
        return (
            back[0].sums,
            torch.bmm(scores.permute(1, 2, 0), top.transpose(0, 1)),
            torch.bmm(torch.stack(list(attention)).to(dtype).permute(1, 2, 0), sums.transpose(0, 1)),
            None,
            torch.stack([each for each in to_hidden if each is not None]),
            torch.stack(to_cell),
            None,
            (sums.view(-1, size).t() @ top.view(-1, size)).to(own.dtype),
            *layer_grads,
        )


def _drop(values: Tensor, dropped: Tensor | None, layer: int, t: int, *, into: Tensor) -> None:
    if dropped is None:
        into.copy_(values)
    else:
        torch.mul(values, dropped[layer, t], out=into)


def dropout_factors(shape: Sequence[int], dropout: float, *, like: Tensor) -> Tensor:
    """Return what dropout multiplies with: 0 with probability `dropout`, else what keeps the mean."""
    if like.device.type != "cpu":
        keep = torch.rand(shape, device=like.device) >= dropout
    else:
        keep = kept(shape, dropout, like.device)
    return keep.to(precise(like.dtype)).mul_(1 / (1 - dropout))
