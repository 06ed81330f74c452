"""The operators under torch.vmap: N samples are N times the rows of the batch, or, where they have weights of
their own, N times the groups. No loop over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _autograd
from ._autograd import GATES, INNER, NORMS, TENSORS
from .sequences import Layout, is_reversed

INPUT, W_IH, W_HH, W_HR, B_IH, B_HH, H0, C0 = range(len(TENSORS))
Dim = int | None  # which dimension of a tensor is that of the samples


def _at(t: Tensor, dim: Dim, axis: int, N: int) -> Tensor:
    """With the samples' dimension at an axis, all alike if there was none."""
    if dim is not None:
        return t.movedim(dim, axis)
    return t.unsqueeze(axis).expand(*t.shape[:axis], N, *t.shape[axis:])


class _Rows:
    """The samples beside one another in the batch: row b of sample n is row b N + n."""

    def __init__(self, N: int, batch_first: bool, batch_sizes: Tensor | None) -> None:
        self.N, self.axis = N, 0 if batch_first or batch_sizes is not None else 1
        self.batch_sizes = None if batch_sizes is None else batch_sizes * N

    def fold(self, t: Tensor | None, dim: Dim, axis: int) -> Any:
        """`axis`: that of the rows."""
        return None if t is None else _at(t, dim, axis + 1, self.N).flatten(axis, axis + 1)

    def unfold(self, t: Tensor, axis: int) -> Tensor:
        """The samples' dimension is the one behind `axis` then."""
        return t.unflatten(axis, (t.size(axis) // self.N, self.N))

    def samples(self, t: Tensor) -> Tensor:
        """An array (T, B N, ...) and so on as (N, T B, ...)."""
        t = self.unfold(t, self.axis).movedim(self.axis + 1, 0)
        return t.flatten(1, 2) if self.batch_sizes is None else t


class _Groups:
    """The samples as groups: group g of sample n is group n G + g."""

    def __init__(self, N: int, w_hh: Tensor, dim: Dim, direction: int) -> None:
        self.N, one = N, w_hh.dim() - (dim is not None) == 2
        self.G = 1 if one else _at(w_hh, dim, 0, N).size(1)
        if direction == 2 and self.G % 2 == 1:
            raise NotImplementedError(
                f"w_hh: got {self.G} groups in alternating directions under vmap, expected an even number where "
                "samples have weights of their own, W_hr's gradient is wanted or gradients are clipped"
            )

    def matrices(self, w: Tensor | None, dim: Dim) -> Any:
        """(G, K, P) or (K, P) of each sample as (N G, K, P)."""
        if w is None:
            return None
        w = _at(w, dim, 0, self.N)
        return w.flatten(0, 1) if w.dim() == 4 else w

    def bias(self, b: Tensor | None, dim: Dim) -> Any:
        return None if b is None else _at(b, dim, 0, self.N).reshape(self.N * self.G, -1)

    def state(self, s: Tensor | None, dim: Dim) -> Any:
        return None if s is None else _at(s, dim, 0, self.N).flatten(0, 1)

    def array(self, a: Tensor | None, dim: Dim, joined: bool = False) -> Any:
        """(T, B, G, W) and so on; `joined`: (T, B, G W)."""
        if a is None:
            return None
        a = _at(a, dim, 0, self.N)
        a = a.unflatten(-1, (self.G, a.size(-1) // self.G)) if joined else a
        return a.movedim(0, -3).flatten(-3, -2)

    def split(self, a: Tensor, joined: bool = False) -> Tensor:
        """The inverse of :meth:`array`, samples first."""
        a = a.unflatten(-2, (self.N, self.G)).movedim(-3, 0)
        return a.flatten(-2) if joined else a

    def split_state(self, s: Tensor) -> Tensor:
        """The inverse of :meth:`state`."""
        return s.unflatten(0, (self.N, self.G))

    def gates(self, input: Tensor, input_dim: Dim, w_ih: Tensor | None, w_dim: Dim) -> Tensor:
        """W_ih x of each sample, without w_ih what is given."""
        if w_ih is None:
            return self.array(input, input_dim)
        x, w = _at(input, input_dim, 0, self.N), _at(w_ih, w_dim, 0, self.N)
        gates = torch.bmm(x.flatten(1, -2), w.mT).unflatten(1, x.shape[1:-1])
        return self.array(gates, 0, joined=True)


class _Layer(NamedTuple):
    """The operator's arguments, or which dimension of each is that of the samples."""

    input: Any
    w_ih: Any
    w_hh: Any
    w_hr: Any
    b_ih: Any
    b_hh: Any
    h0: Any
    c0: Any
    cell: Any
    direction: Any = 0
    batch_first: Any = False
    batch_sizes: Any = None
    saves: Any = False
    stretches: Any = None
    seed: Any = None


class _Adjoint(NamedTuple):
    """The same for the adjoint."""

    dy: Any
    dh_n: Any
    dc_n: Any
    dc: Any
    input: Any
    w_ih: Any
    w_hh: Any
    w_hr: Any
    b_ih: Any
    b_hh: Any
    h0: Any
    c0: Any
    y: Any
    saved: Any
    cell: Any
    direction: Any
    batch_first: Any
    batch_sizes: Any
    needs: Any
    stretches: Any = None
    seed: Any = None

    def asks(self, *places: int) -> bool:
        return any(self.needs & 1 << i for i in places)


def _have_weights(dims: _Layer | _Adjoint) -> bool:
    """Whether samples have weights of their own."""
    return any(d is not None for d in (dims.w_ih, dims.w_hh, dims.w_hr, dims.b_ih, dims.b_hh))


Rule = Callable[..., tuple[list[Tensor], list[Dim]]]


def _rule(operator: str) -> Callable[[Any], Rule]:
    """What all rules share: no samples at all, and what cannot be batched."""

    def of(rule: Any) -> Rule:
        @wraps(rule)
        def call(info: Any, dims: tuple[Any, ...], *args: Any, **options: Any) -> Any:
            for arg, dim in zip(args, dims, strict=False):
                if dim is not None and isinstance(arg, Tensor) and not arg.is_floating_point():
                    raise NotImplementedError(
                        f"batch_sizes: got {arg.size(dim)} samples under vmap, expected the same for all of them"
                    )
            if info.batch_size > 0:
                return rule(info, dims, *args, **options)
            one = [_one_of_none(arg, dim) for arg, dim in zip(args, dims, strict=False)]
            results = getattr(_autograd, operator)(*one, *args[len(one) :], **options)
            return [r.new_empty((0, *r.shape)) for r in results], [0] * len(results)

        return call

    return of


def _refuse(a: _Layer | _Adjoint) -> None:
    if a.stretches is not None:
        raise NotImplementedError("stretches: got some under vmap, expected a packed batch")
    if a.cell == "layer_norm_lstm" or a.seed is not None:
        name = "seed" if a.seed is not None else "layer_norm"
        raise NotImplementedError(f"{name}: got one under vmap, expected none, for layers run in plain torch then")


def _one_of_none(arg: Any, dim: Any) -> Any:
    """An argument as one sample would have it, where there is none."""
    if isinstance(arg, list):
        return [_one_of_none(a, d) for a, d in zip(arg, dim, strict=True)]
    return arg if dim is None else arg.new_zeros(arg.movedim(dim, 0).shape[1:])


@_rule("op")
def recurrence(info: Any, dims: tuple[Any, ...], *args: Any, **options: Any) -> tuple[list[Tensor], list[int]]:
    """The rule of the operator of the same name."""
    a, d, N = _Layer(*args), _Layer(*dims), info.batch_size
    _refuse(a)
    is_state = [False, True, a.cell == "lstm", *[False] * 3]
    if not _have_weights(d):
        rows = _Rows(N, a.batch_first, a.batch_sizes)
        folded = a._replace(
            input=rows.fold(a.input, d.input, rows.axis),
            h0=rows.fold(a.h0, d.h0, 1),
            c0=rows.fold(a.c0, d.c0, 1),
            batch_sizes=rows.batch_sizes,
        )
        results = _autograd.op(*folded, **options)
        axes = [1 if of_state else rows.axis for of_state, _ in zip(is_state, results, strict=False)]
        return [rows.unfold(r, axis) for r, axis in zip(results, axes, strict=True)], [axis + 1 for axis in axes]
    groups = _Groups(N, a.w_hh, d.w_hh, a.direction)
    folded = a._replace(
        input=groups.gates(a.input, d.input, a.w_ih, d.w_ih),
        w_ih=None,
        w_hh=groups.matrices(a.w_hh, d.w_hh),
        w_hr=groups.matrices(a.w_hr, d.w_hr),
        b_ih=groups.bias(a.b_ih, d.b_ih),
        b_hh=groups.bias(a.b_hh, d.b_hh),
        h0=groups.state(a.h0, d.h0),
        c0=groups.state(a.c0, d.c0),
    )
    y, *others = _autograd.op(*folded, **options)
    found = [groups.split(y, joined=a.w_ih is not None)]
    for of_state, r in zip(is_state[1:], others, strict=False):
        found.append(groups.split_state(r) if of_state else groups.split(r))
    return found, [0] * len(found)


@_rule("op_bptt")
def recurrence_bptt(
    info: Any, dims: tuple[Any, ...], *args: Any, **options: Any
) -> tuple[list[Tensor], list[Dim]]:
    """The rule of the operator of the same name."""
    a, d = _Adjoint(*args), _Adjoint(*dims)
    _refuse(a)
    # W_hr's gradient needs that of the state that it projects, which the operator keeps to itself. And what is
    # clipped has to be so all at once, also when this is differentiated: not each factor of W_hh's gradient.
    by_groups = _have_weights(d) or a.asks(W_HR) or options.get("clip") is not None
    found = (_bptt_by_groups if by_groups else _bptt_by_rows)(info.batch_size, a, d, options)
    empty = a.y.new_empty(0)
    # Whatever is empty is so for all samples.
    return [found.get(i, empty) for i in range(NORMS + 1)], [0 if i in found else None for i in range(NORMS + 1)]


@_rule("op_cell")
def cell(info: Any, dims: tuple[Any, ...], *args: Any) -> tuple[list[Tensor], list[int]]:
    """The rule of the operator of the same name: that of a layer of one step."""

    def of_layer(given: tuple[Any, ...], change: Callable[[Any], Any]) -> tuple[Any, ...]:
        input, w_ih, w_hh, b_ih, b_hh, h, c = given[:7]
        h0, c0 = [None if s is None else change(s) for s in (h, c)]
        return None if input is None else change(input), w_ih, w_hh, None, b_ih, b_hh, h0, c0

    name = args[7]
    layer = (*of_layer(args, lambda t: t.unsqueeze(0)), name)
    (_, *states), (_, *at) = recurrence(info, (*of_layer(dims, lambda d: d + 1), None), *layer)
    return [s.movedim(d, 0).squeeze(1) for s, d in zip(states, at, strict=True)], [0] * len(states)


def rows_at(info: Any, dims: tuple[Any, ...], rows: Tensor, *places: Any) -> tuple[Tensor, int]:
    """The rule of the operator of the same name: a row of all samples is as wide as they are together."""
    if dims[1] is not None or dims[2] is not None:
        raise NotImplementedError("index: got one for each sample of a vmap, expected the same for all of them")
    joined = rows.movedim(dims[0], -2)
    found = _autograd.op_rows_at(joined.flatten(-2), *places)
    return found.unflatten(-1, joined.shape[-2:]), found.dim() - 1


def _bptt_by_rows(N: int, a: _Adjoint, d: _Adjoint, options: dict[str, Any]) -> dict[int, Tensor]:
    """With weights that all samples share; each has gradients for them of its own."""
    rows = _Rows(N, a.batch_first, a.batch_sizes)
    gates_at = INPUT if a.w_ih is None else GATES  # without w_ih they are the same
    own = a.needs & (1 << INPUT | 1 << H0 | 1 << C0 | 1 << INNER | 1 << NORMS)
    own |= a.asks(W_IH, W_HH, B_IH, B_HH, GATES) << gates_at
    own |= (a.cell == "gru" and a.asks(W_HH, B_HH)) << INNER
    folded = a._replace(
        dy=rows.fold(a.dy, d.dy, rows.axis),
        dh_n=rows.fold(a.dh_n, d.dh_n, 1),
        dc_n=rows.fold(a.dc_n, d.dc_n, 1),
        dc=rows.fold(a.dc, d.dc, rows.axis),
        input=rows.fold(a.input, d.input, rows.axis),
        h0=rows.fold(a.h0, d.h0, 1),
        c0=rows.fold(a.c0, d.c0, 1),
        y=rows.fold(a.y, d.y, rows.axis),
        saved=[rows.fold(s, dim, rows.axis) for s, dim in zip(a.saved, d.saved, strict=True)],
        batch_sizes=rows.batch_sizes,
        needs=own,
    )
    results = _autograd.op_bptt(*folded, **options)

    found = {}
    for i, axis in ((INPUT, rows.axis), (H0, 1), (C0, 1), (INNER, rows.axis), (NORMS, rows.axis)):
        if a.asks(i) and results[i].numel() > 0:
            found[i] = rows.unfold(results[i], axis).movedim(axis + 1, 0)
    if a.asks(GATES):
        found[GATES] = rows.unfold(results[gates_at], rows.axis).movedim(rows.axis + 1, 0)
    if not a.asks(W_IH, W_HH, B_IH, B_HH):
        return found
    dgates = rows.samples(results[gates_at])  # (N, T B, G, K)
    G = dgates.size(2)
    if a.asks(W_IH) and a.w_ih is not None:
        found[W_IH] = torch.bmm(dgates.flatten(2).mT, rows.samples(folded.input))
    if a.asks(B_IH):
        found[B_IH] = _bias(dgates, G)
    if a.cell == "gru" and a.asks(W_HH, B_HH):
        inner = rows.samples(results[INNER])
        dgates = torch.cat([dgates[..., : 2 * inner.size(-1)], inner], -1)
    if a.asks(B_HH):
        found[B_HH] = _bias(dgates, G)
    if a.asks(W_HH):
        y = folded.y if a.w_ih is None else folded.y.unflatten(-1, (G, folded.y.size(-1) // G))
        before = _states_before(y, folded.h0, a.direction, Layout(a.batch_first, rows.batch_sizes))
        products = torch.einsum("nsgk,nsgp->ngkp", dgates, rows.samples(before))
        found[W_HH] = products.reshape(N, *a.w_hh.shape)
    return found


def _bptt_by_groups(N: int, a: _Adjoint, d: _Adjoint, options: dict[str, Any]) -> dict[int, Tensor]:
    """With weights for each sample, whether they are the same or not."""
    groups, joined = _Groups(N, a.w_hh, d.w_hh, a.direction), a.w_ih is not None
    of_gates = a.asks(INPUT, W_IH, B_IH, GATES)
    own = of_gates << INPUT | a.needs & sum(1 << i for i in (W_HH, W_HR, B_HH, H0, C0, INNER, NORMS))
    folded = _Adjoint(
        dy=groups.array(a.dy, d.dy, joined),
        dh_n=groups.state(a.dh_n, d.dh_n),
        dc_n=groups.state(a.dc_n, d.dc_n),
        dc=groups.array(a.dc, d.dc),
        input=None if a.input is None else groups.gates(a.input, d.input, a.w_ih, d.w_ih),
        w_ih=None,
        w_hh=groups.matrices(a.w_hh, d.w_hh),
        w_hr=groups.matrices(a.w_hr, d.w_hr),
        b_ih=groups.bias(a.b_ih, d.b_ih),
        b_hh=groups.bias(a.b_hh, d.b_hh),
        h0=groups.state(a.h0, d.h0),
        c0=groups.state(a.c0, d.c0),
        y=groups.array(a.y, d.y, joined),
        saved=[groups.array(s, dim) for s, dim in zip(a.saved, d.saved, strict=True)],
        cell=a.cell,
        direction=a.direction,
        batch_first=a.batch_first,
        batch_sizes=a.batch_sizes,
        needs=own,
    )
    results = _autograd.op_bptt(*folded, **options)

    found = {i: groups.split_state(results[i]) for i in (H0, C0) if a.asks(i)}
    for i, w, dim in ((W_HH, a.w_hh, d.w_hh), (W_HR, a.w_hr, d.w_hr)):
        if a.asks(i) and w is not None:
            found[i] = results[i].view(N, *_at(w, dim, 0, N).shape[1:])
    if a.asks(B_HH):
        found[B_HH] = _bias(results[B_HH].view(N, 1, groups.G, -1), groups.G)
    if a.asks(INNER) and a.cell == "gru":
        found[INNER] = groups.split(results[INNER])
    if a.asks(NORMS):
        found[NORMS] = groups.split(results[NORMS].unsqueeze(-1)).squeeze(-1)
    if not of_gates:
        return found
    dgates = groups.split(results[INPUT])  # (N, T, B, G, K) and so on
    flat = dgates.flatten(1, -3)
    if a.asks(GATES):
        found[GATES] = dgates
    if a.asks(B_IH):
        found[B_IH] = _bias(flat, groups.G)
    if a.w_ih is None:
        found[INPUT] = dgates
        return found
    if a.asks(INPUT):
        found[INPUT] = torch.bmm(flat.flatten(2), _at(a.w_ih, d.w_ih, 0, N)).unflatten(1, dgates.shape[1:-2])
    if a.asks(W_IH):
        found[W_IH] = torch.bmm(flat.flatten(2).mT, _at(a.input, d.input, 0, N).flatten(1, -2))
    return found


def _bias(d: Tensor, G: int) -> Tensor:
    """Sums over all (N, S, G, K), as the operator has them."""
    return d.sum(1).squeeze(1) if G == 1 else d.sum(1)


def _states_before(y: Tensor, h0: Tensor | None, direction: int, layout: Layout) -> Tensor:
    """The state that each step begins with, (T, B, G, P) and so on."""
    steps, groups = layout.steps(y), []
    for g in range(y.size(-2)):
        own = [s[:, g] for s in steps]
        first = own[0].new_zeros(own[0].shape) if h0 is None else h0[g]
        if is_reversed(g, direction):
            before = [torch.cat([after, first[len(after) : len(now)]]) for now, after in pairwise(own)]
            before.append(first[: len(own[-1])])
        else:
            before = [first, *(s[: len(now)] for s, now in pairwise(own))]
        groups.append(before)
    return layout.join([torch.stack(of_step, 1) for of_step in zip(*groups, strict=True)])


def register() -> None:
    """For all operators that have derivatives."""
    for rule in (recurrence, recurrence_bptt, cell, rows_at):
        torch.library.register_vmap(f"rnnfast::{rule.__name__}", rule)
