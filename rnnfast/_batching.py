"""The operators under torch.vmap: N samples are N times the rows of the batch, or, where they have weights of
their own, N times the groups. No loop over samples.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

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


def _is_any(dims: Any) -> bool:
    return any(d is not None for d in dims)


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
                f"w_hh: got {self.G} groups in alternating directions with weights for each sample of a vmap, "
                "expected an even number"
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

    def gates(self, input: Tensor, input_dim: Dim, w_ih: Tensor | None, w_dim: Dim) -> Tensor:
        """W_ih x of each sample, without w_ih what is given."""
        if w_ih is None:
            return self.array(input, input_dim)
        x, w = _at(input, input_dim, 0, self.N), _at(w_ih, w_dim, 0, self.N)
        gates = torch.bmm(x.flatten(1, -2), w.mT).unflatten(1, x.shape[1:-1])
        return self.array(gates, 0, joined=True)


def recurrence(
    info: Any,
    dims: tuple[Any, ...],
    input: Tensor,
    w_ih: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    cell: str,
    direction: int = 0,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    saves: bool = False,
    **options: Any,
) -> tuple[list[Tensor], list[int]]:
    """The rule of the operator of the same name."""
    N, states = info.batch_size, 3 if cell == "lstm" else 2
    if not _is_any(dims[W_IH : B_HH + 1]):
        rows = _Rows(N, batch_first, batch_sizes)
        x = rows.fold(input, dims[INPUT], rows.axis)
        h0, c0 = rows.fold(h0, dims[H0], 1), rows.fold(c0, dims[C0], 1)
        layout = (cell, direction, batch_first, rows.batch_sizes)
        results = _autograd.op(x, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0, *layout, saves, **options)
        axes = [1 if 1 <= i < states else rows.axis for i in range(len(results))]
        return [rows.unfold(r, axis) for r, axis in zip(results, axes, strict=True)], [axis + 1 for axis in axes]
    groups = _Groups(N, w_hh, dims[W_HH], direction)
    results = _autograd.op(
        groups.gates(input, dims[INPUT], w_ih, dims[W_IH]),
        None,
        *(groups.matrices(w, d) for w, d in ((w_hh, dims[W_HH]), (w_hr, dims[W_HR]))),
        *(groups.bias(b, d) for b, d in ((b_ih, dims[B_IH]), (b_hh, dims[B_HH]))),
        *(groups.state(s, d) for s, d in ((h0, dims[H0]), (c0, dims[C0]))),
        *(cell, direction, batch_first, batch_sizes, saves),
        **options,
    )
    found = [
        r.unflatten(0, (N, groups.G)) if 1 <= i < states else groups.split(r, joined=i == 0 and w_ih is not None)
        for i, r in enumerate(results)
    ]
    return found, [0] * len(found)


def recurrence_bptt(
    info: Any, dims: tuple[Any, ...], *args: Any, **options: Any
) -> tuple[list[Tensor], list[Dim]]:
    """The rule of the operator of the same name."""
    needs = args[18]
    # W_hr's gradient needs that of the state that it projects, which the operator keeps to itself. And what is
    # clipped has to be so all at once, also when this is differentiated: not each factor of W_hh's gradient.
    by_groups = _is_any(dims[4 + W_IH : 4 + B_HH + 1]) or needs & 1 << W_HR or options.get("clip") is not None
    found = (_bptt_by_groups if by_groups else _bptt_by_rows)(info.batch_size, dims, *args, **options)
    empty = args[12].new_empty(0)
    results = [found.get(i, empty) for i in range(NORMS + 1)]
    # Whatever is empty is so for all samples.
    return results, [0 if i in found else None for i in range(NORMS + 1)]


def _bptt_by_rows(
    N: int,
    dims: tuple[Any, ...],
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    dc: Tensor | None,
    input: Tensor | None,
    w_ih: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    y: Tensor,
    saved: list[Tensor],
    cell: str,
    direction: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
    needs: int,
    **options: Any,
) -> dict[int, Tensor]:
    """With weights that all samples share; each has gradients for them of its own."""
    rows = _Rows(N, batch_first, batch_sizes)
    arrays = [rows.fold(a, dims[i], rows.axis) for i, a in ((0, dy), (3, dc), (4, input), (12, y))]
    ends = [rows.fold(s, dims[i], 1) for i, s in ((1, dh_n), (2, dc_n), (10, h0), (11, c0))]
    dy, dc, input, y = arrays
    dh_n, dc_n, h0, c0 = ends
    saved = [rows.fold(s, d, rows.axis) for s, d in zip(saved, dims[13], strict=True)]

    def asks(*places: int) -> bool:
        return any(needs & 1 << i for i in places)

    gates_at = INPUT if w_ih is None else GATES  # without w_ih they are the same
    own = needs & (1 << INPUT | 1 << H0 | 1 << C0 | 1 << INNER | 1 << NORMS)
    own |= asks(W_IH, W_HH, B_IH, B_HH, GATES) << gates_at
    own |= (cell == "gru" and asks(W_HH, B_HH)) << INNER
    by, tensors = (dy, dh_n, dc_n, dc), (input, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0)
    layout = (cell, direction, batch_first, rows.batch_sizes)
    results = _autograd.op_bptt(*by, *tensors, y, saved, *layout, own, **options)

    found = {}
    for i, axis in ((INPUT, rows.axis), (H0, 1), (C0, 1), (INNER, rows.axis), (NORMS, rows.axis)):
        if asks(i) and results[i].numel() > 0:
            found[i] = rows.unfold(results[i], axis).movedim(axis + 1, 0)
    if asks(GATES):
        found[GATES] = rows.unfold(results[gates_at], rows.axis).movedim(rows.axis + 1, 0)
    if not asks(W_IH, W_HH, B_IH, B_HH):
        return found
    dgates = rows.samples(results[gates_at])  # (N, T B, G, K)
    G = dgates.size(2)
    if asks(W_IH) and w_ih is not None:
        found[W_IH] = torch.bmm(dgates.flatten(2).mT, rows.samples(arrays[2]))
    if asks(B_IH):
        found[B_IH] = _bias(dgates, G)
    if cell == "gru" and asks(W_HH, B_HH):
        inner = rows.samples(results[INNER])
        dgates = torch.cat([dgates[..., : 2 * inner.size(-1)], inner], -1)
    if asks(B_HH):
        found[B_HH] = _bias(dgates, G)
    if asks(W_HH):
        states = y.unflatten(-1, (G, y.size(-1) // G)) if w_ih is not None else y
        before = rows.samples(_states_before(states, h0, direction, Layout(batch_first, rows.batch_sizes)))
        found[W_HH] = torch.einsum("nsgk,nsgp->ngkp", dgates, before).reshape(N, *w_hh.shape)
    return found


def _bptt_by_groups(
    N: int,
    dims: tuple[Any, ...],
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    dc: Tensor | None,
    input: Tensor | None,
    w_ih: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    y: Tensor,
    saved: list[Tensor],
    cell: str,
    direction: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
    needs: int,
    **options: Any,
) -> dict[int, Tensor]:
    """With weights for each sample, whether they are the same or not."""
    groups, joined = _Groups(N, w_hh, dims[6], direction), w_ih is not None
    of_gates = any(needs & 1 << i for i in (INPUT, W_IH, B_IH, GATES))
    own = of_gates << INPUT | needs & sum(1 << i for i in (W_HH, W_HR, B_HH, H0, C0, INNER, NORMS))
    results = _autograd.op_bptt(
        groups.array(dy, dims[0], joined),
        *(groups.state(s, d) for s, d in ((dh_n, dims[1]), (dc_n, dims[2]))),
        groups.array(dc, dims[3]),
        None if input is None else groups.gates(input, dims[4], w_ih, dims[5]),
        None,
        *(groups.matrices(w, d) for w, d in ((w_hh, dims[6]), (w_hr, dims[7]))),
        *(groups.bias(b, d) for b, d in ((b_ih, dims[8]), (b_hh, dims[9]))),
        *(groups.state(s, d) for s, d in ((h0, dims[10]), (c0, dims[11]))),
        groups.array(y, dims[12], joined),
        [groups.array(s, d) for s, d in zip(saved, dims[13], strict=True)],
        *(cell, direction, batch_first, batch_sizes, own),
        **options,
    )
    found = {i: results[i].unflatten(0, (N, groups.G)) for i in (H0, C0) if needs & 1 << i}
    for i, w, d in ((W_HH, w_hh, dims[6]), (W_HR, w_hr, dims[7])):
        if needs & 1 << i and w is not None:
            found[i] = results[i].view(N, *_at(w, d, 0, N).shape[1:])
    if needs & 1 << B_HH:
        found[B_HH] = _bias(results[B_HH].view(N, 1, groups.G, -1), groups.G)
    if needs & 1 << INNER and cell == "gru":
        found[INNER] = groups.split(results[INNER])
    if needs & 1 << NORMS:
        found[NORMS] = groups.split(results[NORMS].unsqueeze(-1)).squeeze(-1)
    if not of_gates:
        return found
    dgates = groups.split(results[INPUT])  # (N, T, B, G, K) and so on
    if needs & 1 << GATES:
        found[GATES] = dgates
    flat = dgates.flatten(1, -3)
    if needs & 1 << B_IH:
        found[B_IH] = _bias(flat, groups.G)
    if w_ih is None:
        found[INPUT] = dgates
        return found
    assert input is not None
    if needs & 1 << INPUT:
        found[INPUT] = torch.bmm(flat.flatten(2), _at(w_ih, dims[5], 0, N)).unflatten(1, dgates.shape[1:-2])
    if needs & 1 << W_IH:
        found[W_IH] = torch.bmm(flat.flatten(2).mT, _at(input, dims[4], 0, N).flatten(1, -2))
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
    """For the operators of a layer."""
    torch.library.register_vmap("rnnfast::recurrence", recurrence)
    torch.library.register_vmap("rnnfast::recurrence_bptt", recurrence_bptt)
