"""What each step adds to the gradient of the recurrent weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from ..sequences import is_reversed
from .figures import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class StepTerms(NamedTuple):
    r"""The factors of each step's contribution to the gradient of W_hh, :math:`\delta_t^\top h_{t-1}`.

    Shapes: delta (T, B, K), dL/d(W_hh h_{t-1} + b_hh); previous (T, B, P), the state that the step began with.
    """

    delta: Tensor
    previous: Tensor

    def matrices(self) -> Tensor:
        """The contributions, (T, K, P); their sum over steps is the gradient."""
        return self.delta.transpose(1, 2) @ self.previous

    def norms(self) -> list[float]:
        """Their Frobenius norms, one step's matrix at a time."""
        pairs = zip(self.delta, self.previous, strict=True)
        return [float(torch.linalg.matrix_norm(delta.T @ previous)) for delta, previous in pairs]


@dataclass
class Contributions:
    """The size of each step's contribution to the gradients of a layer's recurrent matrices.

    Args:
        norms: Frobenius norms for t = 0, 1, ..., by the parameter's name.
        total: the norm of their sum, which is the parameter's gradient.
    """

    norms: dict[str, list[float]]
    total: dict[str, float]

    def share_of_last(self, steps: int, name: str = "weight_hh_l0") -> float:
        """What the last steps' norms are of the sum of all norms."""
        norms = self.norms[name]
        return sum(norms[-steps:]) / sum(norms) if any(norms) else 0.0

    def draw(self) -> Figure:
        """A line for each matrix, on a logarithmic axis."""
        figure, (axes,) = panels()
        for name, norms in self.norms.items():
            axes.semilogy([v or math.nan for v in norms], label=name)
        axes.set(xlabel="step t", ylabel="norm of the contribution to the gradient")
        axes.legend()
        return figure


def weight_contributions(layer: Any, x: Tensor, loss: Callable[..., Tensor], hx: Any = None) -> Contributions:
    r"""The norm of what each step adds to dL/dW_hh.

    .. math::
        \frac{\partial L}{\partial W_{hh}} = \sum_t \delta_t^\top h_{t-1}, \qquad
        \delta_t = \frac{\partial L}{\partial (W_{hh} h_{t-1} + b_{hh})}

    Args:
        layer: RNN, LSTM or GRU of rnnfast or torch.nn. Dropout is off.
        x: a padded batch, (B, T, I) or (T, B, I) as the layer says.
        loss: from what the layer returns, output and last state, to a number.
        hx: initial state, zero if not given.

    Raises:
        TypeError: for another kind of module.

    Example:
        >>> layer = rnnfast.GRU(10, 32, batch_first=True)
        >>> found = weight_contributions(layer, torch.randn(4, 50, 10), lambda output, h_n: output[:, -1].sum())
        >>> len(found.norms["weight_hh_l0"])
        50
    """
    terms = step_terms(layer, x, loss, hx)
    norms = {name: term.norms() for name, term in terms.items()}
    total = {
        name: float(torch.linalg.matrix_norm(torch.einsum("tbk,tbp->kp", *term))) for name, term in terms.items()
    }
    return Contributions(norms, total)


def step_terms(layer: Any, x: Tensor, loss: Callable[..., Tensor], hx: Any = None) -> dict[str, StepTerms]:
    """The factors of every step's contribution, by the parameter's name; arguments as of
    :func:`weight_contributions`.
    """
    if not isinstance(layer, nn.RNNBase):
        raise TypeError(f"layer: got {type(layer).__name__}, expected RNN, LSTM or GRU")
    with torch.enable_grad():
        passes, result = _forward(layer, x.detach(), hx)
        gradients = torch.autograd.grad(loss(*result), [p.gates for p in passes])
    directions = 2 if layer.bidirectional else 1
    found = {}
    for i, (p, dgates) in enumerate(zip(passes, gradients, strict=True)):
        with torch.no_grad():
            previous = _previous(p, directions)
            delta = _hidden_side(p, dgates, previous) if layer.mode == "GRU" else dgates
        for g in range(directions):
            name = f"weight_hh_l{i}{'_reverse' if g else ''}"
            found[name] = StepTerms(delta[:, :, g].detach(), previous[:, :, g].detach())
    return found


class _Pass(NamedTuple):
    """One layer's pass: gates (T, B, D, K), W_hh (D, K, P), b_hh (D, K) or None, h_0 (D, B, P), y (T, B, D, P)."""

    gates: Tensor
    w_hh: Tensor
    b_hh: Tensor | None
    h0: Tensor
    y: Tensor


def _forward(layer: Any, x: Tensor, hx: Any) -> tuple[list[_Pass], tuple[Tensor, Any]]:
    """Runs a layer by :mod:`rnnfast.functional`, its projected gates kept as nodes of the graph."""
    D = 2 if layer.bidirectional else 1
    lstm = layer.mode == "LSTM"
    x = x.transpose(0, 1) if layer.batch_first else x
    h0, c0 = hx if lstm and hx is not None else (hx, None)
    passes, last = [], []
    for i in range(layer.num_layers):

        def joined(name: str, i: int = i) -> Any:
            parameters = [getattr(layer, f"{name}_l{i}{'_reverse' if g else ''}", None) for g in range(D)]
            return None if parameters[0] is None else torch.stack(parameters)

        w_ih, w_hh, b_ih, b_hh = [joined(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        own = slice(i * D, (i + 1) * D)
        h = x.new_zeros(D, x.size(1), w_hh.size(-1)) if h0 is None else h0[own]
        gates = F.linear(x, w_ih.flatten(0, 1), None if b_ih is None else b_ih.flatten())
        gates = gates.unflatten(-1, (D, -1))
        options: dict[str, Any] = dict(direction="bidirectional" if D == 2 else "forward")
        if lstm:
            w_hr = joined("weight_hr")
            y, _, *states = functional.lstm(
                gates, w_hh, b_hh, h, None if c0 is None else c0[own], w_hr=w_hr, **options
            )
        elif layer.mode == "GRU":
            y, *states = functional.gru(gates, w_hh, b_hh, h, **options)
        else:
            y, *states = functional.elman(gates, w_hh, b_hh, h, nonlinearity=layer.nonlinearity, **options)
        passes.append(_Pass(gates, w_hh, b_hh, h, y))
        last.append(states)
        x = y.flatten(-2)
    states = [torch.cat(each) for each in zip(*last, strict=True)]
    output = x.transpose(0, 1) if layer.batch_first else x
    return passes, (output, tuple(states) if lstm else states[0])


def _previous(p: _Pass, directions: int) -> Tensor:
    """The state that each step began with, (T, B, D, P)."""
    groups = []
    for g in range(directions):
        h0, y = p.h0[g].unsqueeze(0), p.y[:, :, g]
        groups.append(torch.cat([y[1:], h0] if is_reversed(g, 2) else [h0, y[:-1]]))
    return torch.stack(groups, 2)


def _hidden_side(p: _Pass, dgates: Tensor, previous: Tensor) -> Tensor:
    """A GRU's dL/d(W_hh h + b_hh): of n's hidden side, which is inside the reset gate, it is r dL/dgates_n."""
    r_x, r_weight = p.gates.chunk(3, -1)[0], p.w_hh.chunk(3, 1)[0]
    a = torch.einsum("tbgp,gkp->tbgk", previous, r_weight)
    r = torch.sigmoid(r_x + a if p.b_hh is None else r_x + a + p.b_hh.chunk(3, -1)[0])
    d_r, d_z, d_n = dgates.chunk(3, -1)
    return torch.cat([d_r, d_z, r * d_n], -1)


__all__ = ["Contributions", "StepTerms", "step_terms", "weight_contributions"]
