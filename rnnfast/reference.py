"""The recurrences in plain torch, one step after the other: the oracle of the tests, the second derivative,
and what runs where no compiled kernel does. 16-bit values are computed in float32 and rounded once each step,
as the kernels do.

Arguments and shapes are those of the operators (see :mod:`rnnfast.ops`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .sequences import Layout, is_reversed


def elman(
    gates: Tensor,
    w_hh: Tensor,
    bias: Tensor | None = None,
    h0: Tensor | None = None,
    nonlinearity: str = "tanh",
    direction: int = 0,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = f(gates_t + bias + W_hh h_{t-1}) (Elman 1990); returns all h and each row's last."""
    layout = Layout(batch_first, batch_sizes)
    f = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]
    w, bias = _widened(w_hh), None if bias is None else _widened(bias)
    xs = layout.steps(gates)
    batch = xs[0].size(0) if h0 is None else h0.size(1)
    ys: list[list[Tensor]] = [[] for _ in xs]
    h_n = []
    for g in range(w_hh.size(0)):
        h = gates.new_zeros(batch, w_hh.size(-1)) if h0 is None else h0[g]
        for t in _order(len(xs), is_reversed(g, direction)):
            n = xs[t].size(0)  # rows beyond n have ended, or in reverse have not begun
            pre = xs[t][:, g] + _widened(h[:n]) @ w[g].T
            new = f(pre if bias is None else pre + bias[g]).to(gates.dtype)
            ys[t].append(new)
            h = torch.cat([new, h[n:]])
        h_n.append(h)
    return layout.join([torch.stack(groups, 1) for groups in ys]), torch.stack(h_n)


def elman_bptt(
    dy: Tensor | None,
    dh_n: Tensor | None,
    y: Tensor,
    w_hh: Tensor,
    nonlinearity: str = "tanh",
    direction: int = 0,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
) -> Tensor:
    """dgates_t = f'(h_t) * (dy_t + W_hh^T dgates_{t+1}), with dh_n entering at each row's last step."""
    layout = Layout(batch_first, batch_sizes)
    slope: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "tanh": lambda dh, h: dh * (1 - h * h),
        "relu": lambda dh, h: torch.where(h <= 0, torch.zeros_like(dh), dh),
    }
    w = _widened(w_hh)
    ys = layout.steps(y)
    dys = layout.steps(torch.zeros_like(y) if dy is None else dy)
    dgates: list[list[Tensor]] = [[] for _ in ys]
    for g in range(w_hh.size(0)):
        dh = w.new_zeros(ys[0].size(0), w.size(-1)) if dh_n is None else _widened(dh_n[g])
        for t in _order(len(ys), not is_reversed(g, direction)):
            n = ys[t].size(0)
            dgate = slope[nonlinearity](dh[:n] + dys[t][:, g], _widened(ys[t][:, g]))
            dgates[t].append(dgate.to(y.dtype))
            dh = torch.cat([dgate @ w[g], dh[n:]])
    return layout.join([torch.stack(groups, 1) for groups in dgates])


def _widened(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.bfloat16, torch.float16) else t


def _order(T: int, descending: bool) -> range:
    return range(T - 1, -1, -1) if descending else range(T)
