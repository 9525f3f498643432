"""The loops of `recurrence` for a GPU, where each operation, however small, is a launch that takes longer than it.

What lies between two matrix products is one function here, of tensors that it does not change, so that
`torch.compile` can make one kernel of it. The gates are not kept for the way back, but opened once more: memory is what
they would cost.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kdrepro.models.recurrence import sigmoid_backward, tanh_backward, unpacked
from kdrepro.types import precise

Step = Callable[..., Any]


@cache
def can_compile(device: torch.device) -> bool:
    """Try whether `torch.compile` makes a kernel for this device, and warn where it does not.

    It needs Triton, a compiler for C, and not too old a GPU.
    """
    try:
        torch.compile(_tried)(torch.zeros(2, device=device))
    except Exception as error:
        warnings.warn(
            f"compiled: torch.compile makes no kernel for {device} ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}); going on without",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _tried(values: Tensor) -> Tensor:
    return values.sigmoid() + 1


@cache
def _compiled(step: Step) -> Step:
    # Batches have few sizes, and a kernel for each is the faster one; sentences have many lengths.
    return torch.compile(step, dynamic=step in (attention_weights, scores_back))


def _fused(step: Step, compiled: bool) -> Step:
    return _compiled(step) if compiled else step


def _open(sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gates i, f, o, g, each (B, H), of their sums (B, 4H)."""
    inputs, forget, output, new = sums.to(precise(sums.dtype)).chunk(4, dim=1)
    return inputs.sigmoid(), forget.sigmoid(), output.sigmoid(), new.tanh()


def cell_forward(sums: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Take the gates' sums (B, 4H) and the cell before (B, H); return the hidden state and the cell."""
    inputs, forget, output, new = _open(sums)
    cell = torch.addcmul(forget * cell, inputs, new)
    return (output * cell.tanh()).to(sums.dtype), cell


def cell_dropped(sums: Tensor, cell: Tensor, factors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same, with the hidden state after dropout, for the layer above."""
    hidden, cell = cell_forward(sums, cell)
    return hidden, cell, (hidden * factors).to(hidden.dtype)


def cell_back(
    sums: Tensor, before: Tensor, cell: Tensor, from_hidden: Tensor, from_cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Take the gradients of the hidden state and the cell; return those of the sums and of the cell before."""
    inputs, forget, output, new = _open(sums)
    squashed = cell.tanh()
    from_cell = from_cell + tanh_backward(from_hidden * output, squashed)
    found = [
        sigmoid_backward(from_cell * new, inputs),
        sigmoid_backward(from_cell * before, forget),
        sigmoid_backward(from_hidden * squashed, output),
        tanh_backward(from_cell * inputs, new),
    ]
    return torch.cat(found, dim=1).to(sums.dtype), from_cell * forget


def encoder_back(
    sums: Tensor,
    before: Tensor,
    cell: Tensor,
    given: Tensor,
    later: Tensor,
    from_cell: Tensor,
    last_cell: Tensor,
) -> tuple[Tensor, Tensor]:
    """`cell_back` where gradients come from outside (`given`, `last_cell`) and from the step behind."""
    return cell_back(sums, before, cell, given + later.to(given.dtype), from_cell + last_cell)


def layer_back(
    sums: Tensor, before: Tensor, cell: Tensor, above: Tensor, later: Tensor, from_cell: Tensor
) -> tuple[Tensor, Tensor]:
    """`cell_back` where gradients come from above and from the step behind."""
    return cell_back(sums, before, cell, above.to(cell.dtype) + later.to(cell.dtype), from_cell)


def dropped_layer_back(
    sums: Tensor,
    before: Tensor,
    cell: Tensor,
    above: Tensor,
    later: Tensor,
    from_cell: Tensor,
    factors: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same where dropout lies between this layer and the one above."""
    return cell_back(sums, before, cell, above.to(cell.dtype) * factors + later.to(cell.dtype), from_cell)


def attention_weights(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax over the source, as products take it and precisely."""
    weights = torch.softmax(scores, dim=-1, dtype=precise(scores.dtype))
    return weights.to(scores.dtype), weights


def vector_forward(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Return the attentional vector precisely, and as it is fed back."""
    vector = sums.to(precise(sums.dtype)).tanh()
    return vector, vector.to(sums.dtype)


def vector_dropped(sums: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """The same with dropout."""
    vector, _ = vector_forward(sums)
    return vector, (vector * factors).to(sums.dtype)


def vector_back(given: Tensor, fed: Tensor, vector: Tensor) -> Tensor:
    """Return the gradient of the sums before the tanh, of those from outside and from the step behind."""
    total = given.to(vector.dtype) + fed.to(vector.dtype)
    return tanh_backward(total, vector).to(given.dtype)  # type: ignore[no-any-return]


def dropped_vector_back(given: Tensor, fed: Tensor, vector: Tensor, factors: Tensor) -> Tensor:
    """The same with dropout."""
    total = (given.to(vector.dtype) + fed.to(vector.dtype)) * factors
    return tanh_backward(total, vector).to(given.dtype)  # type: ignore[no-any-return]


def scores_back(weights: Tensor, dots: Tensor) -> Tensor:
    """Return the gradient of what the softmax was taken of, (B, S), of that of its result, `dots`."""
    weighted = weights * dots
    return (weighted - weights * weighted.sum(1, keepdim=True)).to(dots.dtype)


class EncoderLayer(Function):
    """`recurrence.EncoderLayer`, with or without kernels of its own."""

    @staticmethod
    def forward(
        ctx: Any, compiled: bool, inputs: Tensor, weight: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        _, batch, _ = inputs.shape
        size = weight.shape[1]
        into_gates = weight.to(inputs.dtype).t()
        step = _fused(cell_forward, compiled)
        states = [inputs.new_zeros(batch, size)]
        cells = [inputs.new_zeros(batch, size, dtype=precise(inputs.dtype))]
        sums = []
        for given in inputs.unbind():
            sums.append(torch.addmm(given, states[-1], into_gates))
            hidden, cell = step(sums[-1], cells[-1])
            states.append(hidden)
            cells.append(cell)
        hidden = torch.stack(states)
        ctx.compiled = compiled
        ctx.save_for_backward(weight, last, hidden, *sums, *cells)
        rows = torch.arange(batch, device=last.device)
        return hidden[1:], hidden[last + 1, rows], torch.stack(cells[1:])[last, rows]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, hidden_grads: Tensor, last_hidden: Tensor, last_cell: Tensor
    ) -> tuple[None, Tensor, Tensor, None]:
        weight, last, hidden, *rest = ctx.saved_tensors
        steps, _, size = hidden_grads.shape
        sums, cells = rest[:steps], rest[steps:]
        step = _fused(encoder_back, ctx.compiled)
        from_gates = weight.to(hidden.dtype)
        fine = last_cell.dtype
        ends = (torch.arange(steps, device=last.device)[:, None] == last).to(fine).unsqueeze(2)
        totals = torch.addcmul(hidden_grads.to(fine), ends, last_hidden.to(fine)).unbind()
        last_cells = (ends * last_cell).unbind()
        from_cell, later = torch.zeros_like(last_cell), torch.zeros_like(hidden[0])
        found: list[Tensor] = [later] * steps
        for t in range(steps - 1, -1, -1):
            found[t], from_cell = step(
                sums[t], cells[t], cells[t + 1], totals[t], later, from_cell, last_cells[t]
            )
            later = found[t] @ from_gates
        grads = torch.stack(found)
        flat = grads.view(-1, 4 * size)
        return None, grads, (flat.t() @ hidden[:-1].reshape(-1, size)).to(weight.dtype), None


class DecoderLoop(Function):
    """`recurrence.DecoderLoop`, with or without kernels of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        compiled: bool,
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
        plain, drops = _fused(cell_forward, compiled), _fused(cell_dropped, compiled)
        softmax = _fused(attention_weights, compiled)
        vector_plain, vector_drops = _fused(vector_forward, compiled), _fused(vector_dropped, compiled)
        keys_across = keys.transpose(1, 2)
        # What each layer's product takes, step by step: from below, and its own hidden state.
        taken = words.new_empty(layers, steps, batch, 2 * size)
        states = list(hidden.detach().to(dtype).unbind())
        cells = [[each] for each in cell.detach().to(fine).unbind()]
        sums: list[list[Tensor]] = [[] for _ in range(layers)]
        tops, vectors, attention, feds = [], [], [], [words.new_zeros(batch, size)]
        for t, given in enumerate(words.unbind()):
            below = feds[-1]
            for layer in range(layers):
                base = given if layer == 0 else biases[layer - 1]
                both = torch.cat([below, states[layer]], dim=1, out=taken[layer, t])
                sums[layer].append(torch.addmm(base, both, into_gates[layer]))
                if layer < layers - 1 and dropped is not None:
                    states[layer], after, below = drops(sums[layer][-1], cells[layer][-1], dropped[layer, t])
                else:
                    states[layer], after = plain(sums[layer][-1], cells[layer][-1])
                    below = states[layer]
                cells[layer].append(after)
            query = states[-1].unsqueeze(1)
            tops.append(states[-1])
            rough, weight = softmax(torch.baddbmm(blocked, query, keys_across))
            mixed = torch.baddbmm((states[-1] @ into_own).unsqueeze(1), rough, values).squeeze(1)
            vector, fed = vector_plain(mixed) if dropped is None else vector_drops(mixed, dropped[-1, t])
            vectors.append(vector)
            attention.append(weight.squeeze(1))
            feds.append(fed)
        ctx.compiled = compiled
        kept = chain(*sums, *cells, vectors, attention)
        ctx.save_for_backward(keys, values, dropped, own, taken, torch.stack(tops), *weights, *kept)
        return torch.stack(feds[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        keys, values, dropped, own, taken, top, *rest = ctx.saved_tensors
        layers, steps, batch, _ = taken.shape
        left: list[Tensor] = rest
        size, dtype = grads.shape[2], taken.dtype

        def some(count: int) -> list[Tensor]:
            """Take the first so many of what is left."""
            nonlocal left
            found, left = left[:count], left[count:]
            return found

        weights = some(layers)
        sums = [some(steps) for _ in range(layers)]
        cells = [some(steps + 1) for _ in range(layers)]
        vectors, attention = some(steps), some(steps)
        fine = vectors[0].dtype
        from_gates = [weight.to(dtype) for weight in weights]
        from_own = own.to(dtype)
        softmax = _fused(scores_back, ctx.compiled)
        vector_plain = _fused(vector_back, ctx.compiled)
        vector_drops = _fused(dropped_vector_back, ctx.compiled)
        plain, drops = _fused(layer_back, ctx.compiled), _fused(dropped_layer_back, ctx.compiled)
        # A kernel is for how its numbers lie. What comes has the sentences first; what is fed back are halves of one.
        grads = grads.contiguous()
        fed, nothing = grads.new_zeros(batch, 2 * size).chunk(2, dim=1)
        from_cells = [grads.new_zeros(batch, size, dtype=fine) for _ in range(layers)]
        later = [nothing] * layers
        of_sums: list[list[Tensor]] = [[nothing] * steps for _ in range(layers)]
        of_vectors, of_scores = [nothing] * steps, [nothing] * steps
        for t in range(steps - 1, -1, -1):
            own_sums = (
                vector_plain(grads[t], fed, vectors[t])
                if dropped is None
                else vector_drops(grads[t], fed, vectors[t], dropped[-1, t])
            )
            dots = torch.bmm(values, own_sums.unsqueeze(2)).squeeze(2)
            scores = softmax(attention[t], dots)
            of_vectors[t], of_scores[t] = own_sums, scores
            down = torch.baddbmm((own_sums @ from_own).unsqueeze(1), scores.unsqueeze(1), keys).squeeze(1)
            for layer in range(layers - 1, -1, -1):
                given = (sums[layer][t], cells[layer][t], cells[layer][t + 1], down, later[layer])
                if layer < layers - 1 and dropped is not None:
                    moved = drops(*given, from_cells[layer], dropped[layer, t])
                else:
                    moved = plain(*given, from_cells[layer])
                of_sums[layer][t], from_cells[layer] = moved
                down, later[layer] = (of_sums[layer][t] @ from_gates[layer]).chunk(2, dim=1)
            fed = down
        layer_grads: list[Tensor] = []
        of_words = [torch.stack(each) for each in of_sums]
        for layer in range(layers):
            flat = of_words[layer].view(-1, 4 * size)
            layer_grads.append((flat.t() @ taken[layer].view(-1, 2 * size)).to(weights[layer].dtype))
            if layer:
                layer_grads.append(flat.sum(0, dtype=fine).to(weights[layer].dtype))
        scores_of_all, vectors_of_all = torch.stack(of_scores), torch.stack(of_vectors)
        return (
            None,
            of_words[0],
            torch.bmm(scores_of_all.permute(1, 2, 0), top.transpose(0, 1)),
            torch.bmm(torch.stack(attention).to(dtype).permute(1, 2, 0), vectors_of_all.transpose(0, 1)),
            None,
            torch.stack(later),
            torch.stack(from_cells),
            None,
            (vectors_of_all.view(-1, size).t() @ top.view(-1, size)).to(own.dtype),
            *layer_grads,
        )
