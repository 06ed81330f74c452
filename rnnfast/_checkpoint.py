"""Recurrences that keep states only, and compute everything else once more in the backward pass.

Steps are taken in chunks; of each the state that it begins with is kept, which an Elman RNN and a GRU have in
their output, and an LSTM but for c. The backward pass runs a chunk forward again, then through the adjoint, the
last one first: Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", arXiv:1604.06174.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _autograd
from ._autograd import NORMS, TENSORS
from ._noise import beginning_at
from ._torch import KernelsFunction, below_autograd, in_legacy_vmap, without_autocast
from .reference import HAVE_C
from .sequences import is_reversed

H0, C0 = TENSORS.index("h0"), TENSORS.index("c0")


class _Chunk(NamedTuple):
    """Steps begin .. end-1; how many rows there are at the first of them, and at the one after the last."""

    begin: int
    end: int
    rows: int
    rows_after: int


class _Steps:
    """The steps of a layout in chunks of so many."""

    def __init__(self, input: Tensor, every: int, batch_first: bool, batch_sizes: Tensor | None) -> None:
        self.batch_first, self.batch_sizes = batch_first and batch_sizes is None, batch_sizes
        self.axis = 1 if self.batch_first else 0
        if batch_sizes is None:
            T, B = input.size(self.axis), input.size(1 - self.axis)
            active = [B] * T + [0]
            self.places = list(range(T + 1))
        else:
            T, active = batch_sizes.numel(), [*batch_sizes.tolist(), 0]
            self.places = [0, *batch_sizes.cumsum(0).tolist()]
        self.chunks = [
            _Chunk(t, min(t + every, T), active[t], active[min(t + every, T)]) for t in range(0, T, every)
        ]

    def of(self, t: Tensor | None, begin: int, end: int) -> Any:
        """Those steps of an array, as a view."""
        first = self.places[begin]
        return None if t is None else t.narrow(self.axis, first, self.places[end] - first)

    def sizes(self, chunk: _Chunk) -> Tensor | None:
        """batch_sizes of a chunk."""
        return None if self.batch_sizes is None else self.batch_sizes[chunk.begin : chunk.end]

    def rows_at(self, t: Tensor, step: int, rows: int) -> Tensor:
        """The first rows of one step, (rows, W)."""
        return self.of(t, step, step + 1).flatten(0, -2)[:rows]


class _Direction:
    """One direction of a layer: a recurrence of a single group, chunk by chunk in its own order."""

    def __init__(self, g: int, direction: int, inputs: Any, cell: str, steps: _Steps, options: Any) -> None:
        x, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0 = inputs
        self.g, self.cell, self.steps, self.options = g, cell, steps, options
        # Without w_ih an array has the gates of each group.
        self.x = x if w_ih is not None else x[..., g : g + 1, :]
        G, self.weights = _groups(w_hh), [w_ih, w_hh, w_hr, b_ih, b_hh]
        if G > 1:
            of_group = [None if w is None else w[g] for w in self.weights[1:]]
            self.weights = [None if w_ih is None else w_ih.unflatten(0, (G, -1))[g], *of_group]
        self.h0, self.c0 = [None if s is None else s[g : g + 1] for s in (h0, c0)]
        self.reversed = is_reversed(g, direction)

    @property
    def chunks(self) -> list[_Chunk]:
        """In order of processing."""
        return self.steps.chunks[::-1] if self.reversed else self.steps.chunks

    def of_group(self, t: Tensor, width: int) -> Tensor:
        """Its own columns of an array of all groups, (..., G width), as the operator has them."""
        own = t[..., self.g * width : (self.g + 1) * width]
        return own if self.weights[0] is not None else own.unsqueeze(-2)

    def run(self, chunk: _Chunk, h: Tensor | None, c: Tensor | None, saves: bool) -> list[Tensor]:
        """The operator's results for a chunk that begins with a state."""
        x, sizes = self.steps.of(self.x, chunk.begin, chunk.end), self.steps.sizes(chunk)
        layout = (self.cell, int(self.reversed), self.steps.batch_first, sizes)
        return _autograd.op(x, *self.weights, h, c, *layout, saves, **self.options_of(chunk))

    def options_of(self, chunk: _Chunk) -> dict[str, Any]:
        """The operators', with noise as its steps and its group have it."""
        seed = beginning_at(self.options.get("seed"), chunk.begin, self.g)
        return self.options if seed is None else {**self.options, "seed": seed}

    def entering(self, chunk: _Chunk, given: Tensor | None, carried: Tensor | None) -> Tensor | None:
        """What the rows of a chunk begin with: those that go on with what is carried, the others as given."""
        going_on = chunk.rows_after if self.reversed else chunk.rows
        return _rows_of_both(carried, given, going_on, chunk.rows)

    def state_before(self, y: Tensor, chunk: _Chunk, P: int) -> Tensor | None:
        """The output that a chunk goes on from, (1, rows, P); None for the first."""
        step = chunk.end if self.reversed else chunk.begin - 1
        if not 0 <= step < self.steps.chunks[-1].end:
            return None
        rows = chunk.rows_after if self.reversed else chunk.rows
        return self.steps.rows_at(y, step, rows)[:, self.g * P : (self.g + 1) * P].unsqueeze(0)


def _groups(w_hh: Tensor) -> int:
    return w_hh.size(0) if w_hh.dim() == 3 else 1


def _rows_of_both(carried: Tensor | None, given: Tensor | None, going_on: int, rows: int) -> Tensor | None:
    """(1, rows, W): the first from what is carried, the others from what is given; None: all zero."""
    if carried is None:
        return None if given is None else given[:, :rows]
    carried = carried[:, :going_on]
    if going_on == rows:
        return carried
    others = carried.new_zeros(1, rows - going_on, carried.size(2)) if given is None else given[:, going_on:rows]
    return torch.cat([carried, others], 1)


class Checkpointed(KernelsFunction):
    """What :class:`~rnnfast._autograd.Recurrence` is, with so many steps to a chunk."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        *inputs, cell, direction, batch_first, batch_sizes, options, note, every = args
        steps = _Steps(inputs[0], every, batch_first, batch_sizes)
        ctx.steps, ctx.layout, ctx.options = steps, (cell, direction, batch_first), options
        ctx.note, boundaries = note, list[Tensor]()
        with below_autograd():
            if cell not in HAVE_C or len(steps.chunks) == 1:
                results = _autograd.op(*args[:12], False, **options)
            else:
                results, boundaries = _by_chunks(inputs, cell, direction, steps, options)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, batch_sizes, results[0], *boundaries)
        return tuple(results)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None = None) -> tuple[Any, ...]:
        absent, by = (None,) * 7, (dy, dh_n, dc_n, None)
        if all(d is None for d in by):
            return (None,) * len(TENSORS) + absent
        needs = ctx.needs_input_grad[: len(TENSORS)]
        kept = ctx.saved_tensors
        inputs, (batch_sizes, y, *boundaries) = list(kept[: len(TENSORS)]), kept[len(TENSORS) :]
        if in_legacy_vmap(*by) or _autograd.is_differentiated(*by, *inputs):
            if ctx.note is not None:
                with torch.no_grad(), below_autograd():
                    _gradients(ctx, inputs, y, boundaries, by, needs)
            given, again = (*ctx.layout, batch_sizes), torch.is_grad_enabled()
            return (*_autograd.by_reference(inputs, by, given, needs, again, ctx.options), *absent)
        with below_autograd():
            return (*_gradients(ctx, inputs, y, boundaries, by, needs), *absent)


def _by_chunks(
    inputs: Any, cell: str, direction: int, steps: _Steps, options: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """An LSTM's output, h_n and c_n, and each direction's c at the beginning of each chunk but its first."""
    x, w_ih, w_hh = inputs[:3]
    G, P = _groups(w_hh), w_hh.size(-1)
    y = x.new_empty(*(x.shape[:-1] if w_ih is not None else x.shape[:-2]), G * P)
    last, boundaries = [], []
    for g in range(G):
        of = _Direction(g, direction, inputs, cell, steps, options)
        h = c = None
        ends: list[list[Tensor]] = [[], []]
        for chunk in of.chunks:
            if c is not None:
                boundaries.append(c[:, : chunk.rows_after if of.reversed else chunk.rows])
            found = of.run(chunk, of.entering(chunk, of.h0, h), of.entering(chunk, of.c0, c), False)
            of.of_group(steps.of(y, chunk.begin, chunk.end), P).copy_(found[0])
            for rows, s in zip(ends, found[1:], strict=True):
                if not of.reversed:
                    rows.insert(0, s[:, chunk.rows_after :])  # those that end here: the longest rows come first
            h, c = found[1:]
        last.append((h, c) if of.reversed else tuple(torch.cat(rows, 1) for rows in ends))
    y = y if w_ih is not None else y.unflatten(-1, (G, P))
    return [y, *(torch.cat(s) for s in zip(*last, strict=True))], boundaries


def _gradients(ctx: Any, inputs: Any, y: Tensor, boundaries: list[Tensor], by: Any, needs: Any) -> list[Any]:
    """Those of :data:`TENSORS`, as far as they are needed."""
    cell, direction, _ = ctx.layout
    steps, G, P = ctx.steps, _groups(inputs[2]), inputs[2].size(-1)
    dy, dh_n, dc_n, _ = by
    has_c, projects = cell in HAVE_C, inputs[1] is not None
    if not projects:
        y, dy = y.flatten(-2), None if dy is None else dy.flatten(-2)
    dx = torch.empty_like(inputs[0]) if needs[0] else None
    norms, wide = None, torch.float32 if y.element_size() == 2 else y.dtype  # what many chunks add up in
    by_group: list[list[Any]] = []
    wanted = sum(1 << i for i, needed in enumerate(needs) if needed) | 1 << H0 | has_c << C0
    wanted |= (ctx.note is not None) << NORMS
    kept = iter(boundaries)
    for g in range(G):
        of = _Direction(g, direction, inputs, cell, steps, ctx.options)
        dh: Tensor | None = None
        dc: Tensor | None = None
        sums: list[Any] = [None] * len(TENSORS)
        ended: list[list[Tensor]] = [[], []]  # gradients for h0 and c0
        cs = [None, *(next(kept) for _ in of.chunks[1:])] if boundaries else [None] * len(of.chunks)
        for chunk, c in zip(of.chunks[::-1], cs[::-1], strict=True):
            h_in = of.entering(chunk, of.h0, of.state_before(y, chunk, P))
            c_in = of.entering(chunk, of.c0, c)
            found = of.run(chunk, h_in, c_in, True)
            own_dy = None if dy is None else of.of_group(steps.of(dy, chunk.begin, chunk.end), P)
            # The rows that go on beyond the chunk, in order of processing, have theirs from there.
            beyond = chunk.rows if of.reversed else chunk.rows_after
            ends = [None if d is None else d[g : g + 1] for d in (dh_n, dc_n)]
            by_h, by_c = [
                _rows_of_both(carried, end, beyond, chunk.rows)
                for carried, end in zip((dh, dc), ends, strict=True)
            ]
            results_count = _autograd.results_of(cell)
            layout = (cell, int(of.reversed), steps.batch_first, steps.sizes(chunk))
            x = steps.of(of.x, chunk.begin, chunk.end)
            d = _autograd.op_bptt(
                own_dy, by_h, by_c, None, x, *of.weights, h_in, c_in, found[0], found[results_count:],
                *layout, wanted, **of.options_of(chunk),
            )  # fmt: skip
            if dx is not None:
                own_dx = steps.of(dx, chunk.begin, chunk.end)
                own_dx = own_dx if projects else own_dx[..., g : g + 1, :]
                own_dx.copy_(d[0]) if g == 0 or not projects else own_dx.add_(d[0])
            for i in range(1, H0):
                if needs[i]:
                    sums[i] = d[i].to(wide) if sums[i] is None else sums[i].add_(d[i])
            if ctx.note is not None:
                if norms is None:
                    norms = d[NORMS].new_empty(*y.shape[:-1], G)
                steps.of(norms, chunk.begin, chunk.end)[..., g] = d[NORMS][..., 0]
            dh, dc = d[H0], d[C0] if has_c else None
            for rows, s in zip(ended, (dh, dc), strict=True):
                if of.reversed and s is not None:
                    rows.insert(0, s[:, chunk.rows_after :])  # those that began here
        states = [torch.cat(rows, 1) if rows else s for rows, s in zip(ended, (dh, dc), strict=True)]
        by_group.append([*sums[:H0], *states])
    if ctx.note is not None:
        ctx.note(norms)
    found = [dx]
    for i in range(1, len(TENSORS)):
        each = [of_group[i] for of_group in by_group]
        joined = torch.cat(each) if i >= H0 and needs[i] else torch.stack(each) if needs[i] else None
        found.append(None if joined is None else joined.to(y.dtype).view(inputs[i].shape))
    return found
