"""The recurrences in plain torch, one step after the other: the oracle of the tests, what is differentiated more
than once, and what runs where no compiled kernel does. 16-bit values are computed in float32; states are rounded
once each step, but for an LSTM's c, as the kernels do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ._noise import Noise, Rates
from ._torch import KernelsFunction, apply, is_within_a_kernel, without_autocast
from .sequences import Layout, is_reversed, packing


def _same(value: Tensor) -> Tensor:
    return value


class Around(NamedTuple):
    """What a step does besides its arithmetic."""

    clipped: Callable[[Tensor], Tensor] = _same  # its gradient, all told, is clipped
    dropped: Callable[[Tensor], Tensor] = _same
    seen: Callable[[Tensor], Tensor] = _same  # what tanh is taken of, for an LSTM's c
    zoned_c: Callable[[Tensor, Tensor], Tensor] = lambda candidate, before: candidate


def _elman_tanh(around: Around, x: Tensor, hh: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """h_t = tanh(x_t + hh), hh = W_hh h_{t-1} + b_hh (Elman 1990)."""
    return (around.dropped(torch.tanh(x + hh)),)


def _elman_relu(around: Around, x: Tensor, hh: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    return (around.dropped(torch.relu(x + hh)),)


def _lstm(around: Around, x: Tensor, hh: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """c_t = f c_{t-1} + i g, h_t = o tanh(c_t) (Hochreiter and Schmidhuber 1997; Gers et al. 2000)."""
    i, f, g, o = (x + hh).chunk(4, -1)
    candidate = torch.sigmoid(f) * c + torch.sigmoid(i) * around.dropped(torch.tanh(g))
    candidate = around.clipped(candidate)
    return torch.sigmoid(o) * torch.tanh(around.seen(candidate)), around.zoned_c(candidate, c)


def _gru(around: Around, x: Tensor, hh: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    """h_t = (1 - z) n + z h_{t-1}, n = tanh(x_n + r hh_n) (Cho et al. 2014, in torch's form)."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), hh.chunk(3, -1)
    n = around.dropped(torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n))
    return (n + torch.sigmoid(x_z + h_z) * (h - n),)


class _Bounds:
    """The same state; BPTT notes the norms of its gradient's rows and keeps them between -clip and clip."""

    @staticmethod
    def forward(state: Tensor, clip: float | None, norms: Tensor | None) -> Tensor:
        return state.view_as(state)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.clip, ctx.norms = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.norms is not None:
            ctx.norms.copy_(gradient.detach().norm(dim=-1))
        return gradient if ctx.clip is None else gradient.clamp(-ctx.clip, ctx.clip), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Any) -> Tensor:
        return tangent.view_as(tangent)


class _Bounded(_Bounds, Function):
    """For torch.func, which takes it over."""

    generate_vmap_rule = True


class _BoundedWithinAKernel(_Bounds, KernelsFunction):
    """For the transform that is calling."""


def _bounded(state: Tensor, clip: float | None, norms: Tensor | None = None) -> Tensor:
    if is_within_a_kernel():
        return apply(_BoundedWithinAKernel, state, clip, norms)
    return _Bounded.apply(state, clip, norms)


# How many gates a unit has.
GATES = {"elman_tanh": 1, "elman_relu": 1, "lstm": 4, "gru": 3, "layer_norm_lstm": 4}
HAVE_C = ("lstm", "layer_norm_lstm")  # cells with a c besides h
STEPS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "elman_tanh": _elman_tanh,
    "elman_relu": _elman_relu,
    "lstm": _lstm,
    "layer_norm_lstm": _lstm,
    "gru": _gru,
}


class _Normalisation:
    """That of a layer-normalised LSTM (Ba, Kiros and Hinton, arXiv:1607.06450, equations 20 to 22).

    Args: vector: gains of W_hh h, (K), gains and biases of c, (H).
    """

    def __init__(self, vector: Tensor, H: int) -> None:
        self.gain, self.gain_c, self.bias_c = vector.split([len(vector) - 2 * H, H, H])

    def of_gates(self, hh: Tensor) -> Tensor:
        return F.layer_norm(hh, hh.shape[-1:], self.gain)

    def of_c(self, c: Tensor) -> Tensor:
        return F.layer_norm(c, c.shape[-1:], self.gain_c, self.bias_c)


def recurrence(
    gates: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None = None,
    bias: Tensor | None = None,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    cell: str = "elman_tanh",
    direction: int = 0,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    clip: float | None = None,
    norms: Tensor | None = None,
    inner: Tensor | None = None,
    noise: Rates | None = None,
    seed: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """All h and each row's last; of an LSTM, further each row's last c and all c.

    Args:
        gates: (T, B, G, K) and so on, W_ih x + b_ih; w_hh: (G, K, P); w_hr: (G, P, H); bias: b_hh, (G, K), of a
            layer-normalised LSTM gains and biases, (G, K + 2 H); h0: (G, B, P); c0: (G, B, H). The others: as in
            ``csrc/ops.cpp``; clip and norms, which is filled, are BPTT's. inner: (T, B, G, H), added to a GRU's
            W_hn h + b_hn. noise, seed: likewise.
    """
    dtype, bounded = gates.dtype, clip is not None or norms is not None
    H = w_hh.size(-2) // GATES[cell]
    layout = Layout(batch_first, batch_sizes)
    w, b, w_r = _widened(w_hh), _widened(bias), _widened(w_hr)
    xs, inners = layout.steps(gates), None if inner is None else layout.steps(inner)
    if not xs:
        return _of_no_steps(gates, w_hh, H, cell)
    widths = (w_hh.size(-1), H) if cell in HAVE_C else (w_hh.size(-1),)
    results: list[list[list[Tensor]]] = [[[] for _ in xs] for _ in widths]  # by state, step and group
    last: list[list[Tensor]] = [[] for _ in widths]
    for g in range(w_hh.size(0)):
        state = [
            xs[0].new_zeros(xs[0].size(0), width) if given is None else given[g]
            for given, width in zip((h0, c0), widths, strict=False)
        ]
        state = [_widened(s) for s in state]
        noisy = None if noise is None else Noise(noise, seed, g)
        factor = None if noisy is None else noisy.factor(xs[0].size(0), H, state[0])
        norm = _Normalisation(b[g], H) if cell == "layer_norm_lstm" else None
        for t in _order(len(xs), is_reversed(g, direction)):
            n = xs[t].size(0)  # rows beyond n have ended, or in reverse have not begun
            hh = state[0][:n] @ w[g].T
            if norm is not None:
                hh = norm.of_gates(hh)
            elif b is not None:
                hh = hh + b[g]
            if inners is not None:
                hh = hh + F.pad(inners[t][:, g], (hh.size(1) - inners[t].size(2), 0))
            around = Around(partial(_bounded, clip=clip) if bounded else _same)
            if noisy is not None:
                dropped = _same if factor is None else partial(torch.mul, factor[:n])
                around = around._replace(dropped=dropped, zoned_c=partial(noisy.zoned, 1, step=t))
            if norm is not None:
                around = around._replace(seen=norm.of_c)
            new = STEPS[cell](around, xs[t][:, g], hh, *(s[:n] for s in state))
            h = new[0] if w_r is None else new[0] @ w_r[g].T
            h = h if noisy is None else noisy.zoned(0, h, state[0][:n], t)
            new = (_widened(h.to(dtype)), *new[1:])
            if bounded:
                noted = None if norms is None else layout.steps(norms)[t][:, g]
                new = (_bounded(new[0], clip, noted), *new[1:])
            for all_steps, s in zip(results, new, strict=True):
                all_steps[t].append(s.to(dtype))
            state = [torch.cat([s, old[n:]]) for s, old in zip(new, state, strict=True)]
        for ends, s in zip(last, state, strict=True):
            ends.append(s.to(dtype))
    joined = [layout.join([torch.stack(groups, 1) for groups in steps]) for steps in results]
    ends_joined = [torch.stack(groups) for groups in last]
    return (joined[0], *ends_joined, *joined[1:])


@without_autocast
def layer(
    input: Tensor,
    w_ih: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *args: Any,
    added: Tensor | None = None,
    stretches: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, ...]:
    """What the operator of the same arguments returns without `saves`; of an LSTM, always with all c.

    Args: as in ``csrc/ops.cpp``; added: to W_ih x + b_ih; options: those of :func:`recurrence`.
    """
    if stretches is not None:
        arrays = (input, added, options.pop("inner", None))
        return _packed_layer(arrays, (w_ih, w_hh, w_hr, b_ih, b_hh), args, stretches, options)
    w_hh, w_hr = [w.unsqueeze(0) if w is not None and w.dim() == 2 else w for w in (w_hh, w_hr)]
    gate_shape = w_hh.shape[:2]
    if w_ih is None:
        gates = input if b_ih is None else input + b_ih.view(gate_shape)
    else:
        gates = F.linear(input, w_ih, None if b_ih is None else b_ih.flatten()).unflatten(-1, gate_shape)
    if added is not None:
        gates = gates + added
    bias = None if b_hh is None else b_hh.view(len(w_hh), -1)
    y, *others = recurrence(gates, w_hh, w_hr, bias, *args, **options)
    return (y if w_ih is None else y.flatten(-2), *others)


def _of_no_steps(gates: Tensor, w_hh: Tensor, H: int, cell: str) -> tuple[Tensor, ...]:
    """Of a packed batch without rows: nothing, in the shapes of results, with gradients of zero."""
    y = torch.einsum("ngk,gkp->ngp", gates, w_hh)
    c = y[..., :1].expand(0, -1, H)
    each = [y, c] if cell in HAVE_C else [y]
    return (y, *(s.transpose(0, 1) for s in each), *each[1:])


def _packed_layer(
    arrays: tuple[Any, ...],
    weights: tuple[Any, ...],
    args: tuple[Any, ...],
    table: Tensor,
    options: dict[str, Any],
) -> tuple[Tensor, ...]:
    """A padded :func:`layer` in stretches, as a packed one.

    Args: arrays: input, added, inner; args: h0, c0, cell, direction, batch_first and so on.
    """
    h0, c0, cell, direction, batch_first, _, *others = args
    lead = arrays[0].shape[:2]
    steps, rows = lead[::-1] if batch_first else lead
    batch_sizes, index, inverse = packing(table, steps, rows, batch_first)

    def moved(a: Tensor | None, to: Tensor, shape: Sequence[int]) -> Any:
        return None if a is None else rows_at(a.flatten(2 if len(shape) == 1 else 1), to, shape)

    x, added, inner = [
        None if a is None else moved(a, index, index.shape).unflatten(-1, a.shape[2:]) for a in arrays
    ]
    results = layer(
        x, *weights, h0, c0, cell, direction, False, batch_sizes, *others, added=added, inner=inner, **options
    )
    of_steps = [r if i not in (1, 2 if cell in HAVE_C else 1) else None for i, r in enumerate(results)]
    return tuple(
        r if own is None else moved(own, inverse, lead).unflatten(-1, own.shape[1:])
        for r, own in zip(results, of_steps, strict=True)
    )


def rows_at(rows: Tensor, index: Tensor, lead: Sequence[int]) -> Tensor:
    """The operator of the same name."""
    W = rows.size(-1)
    rows = rows.reshape(-1, W)
    extended = torch.cat([rows, rows.new_zeros(1, W)])  # what -1 takes
    return extended.index_select(0, index % len(extended)).reshape(*lead, W)


def _widened(t: Tensor | None) -> Any:
    return t.float() if t is not None and t.dtype in (torch.bfloat16, torch.float16) else t


def _order(T: int, descending: bool) -> range:
    return range(T - 1, -1, -1) if descending else range(T)
