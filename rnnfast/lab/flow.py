"""How much of a gradient arrives at an earlier step, whatever the layer."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .figures import panels
from .training import outputs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Values of one backward's cotangent: the batch of copies is cut into pieces of about this size.
_CHUNK = 2**22


@dataclass
class GradientFlow:
    """Norms of the derivatives of each step's output by one step's input.

    Args:
        norms: of step t = 0, 1, ...
        source: the step of the input.
    """

    norms: list[float]
    source: int = 0

    @property
    def ratio(self) -> float:
        """The last step's norm over that of the source's own step; NaN where the latter is 0."""
        first = self.norms[self.source]
        return self.norms[-1] / first if first > 0 else math.nan

    @property
    def per_step(self) -> float:
        """The factor that a step multiplies the norm by, see :func:`factor_per_step`."""
        return factor_per_step([math.log(v) if v > 0 else -math.inf for v in self.norms[self.source :]])

    def draw(self) -> Figure:
        """The norms on a logarithmic axis."""
        figure, (axes,) = panels()
        axes.semilogy([v or math.nan for v in self.norms])
        axes.set(xlabel="step t", ylabel=f"norm of the derivative of output t by input {self.source}")
        return figure


def factor_per_step(logs: Sequence[float]) -> float:
    """The factor that each step multiplies a norm by: from the slope of a line through its natural logarithms.

    Norms of 0 are left out; 0 where fewer than two others are left.
    """
    points = [(t, v) for t, v in enumerate(logs) if math.isfinite(v)]
    return math.exp(statistics.linear_regression(*zip(*points, strict=True)).slope) if len(points) > 1 else 0.0


def gradient_flow(
    layer: nn.Module, x: Tensor, cotangents: Tensor | None = None, *, source: int = 0
) -> GradientFlow:
    r"""The norm of d out_t / d x_source for all t at once.

    .. math::
        norm_t^2 = \sum_{k, b} \Bigl\lVert v_k^\top \frac{\partial out_{t,b}}{\partial x_{source,b}} \Bigr\rVert^2

    over the rows b of the batch, which must not depend on one another, and the cotangents :math:`v_k`. A unit
    vector asks for one unit's gradient, a vector of ones for that of the sum over units, the identity matrix for
    the Frobenius norm of the whole Jacobian, and K random vectors of variance 1 / K for an estimate of it
    (Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1989) that costs K / O as much.

    Args:
        layer: RNN, LSTM or GRU of rnnfast or torch.nn in either layout, or any module from (B, T, I) to
            (B, T, O); of a tuple the first result counts. Dropout is off while it runs.
        x: (B, T, I), or (T, B, I) if the layer says so.
        cotangents: (K, O), or (O,) for one; unit 0 if not given.
        source: the step of the input. Steps before it have norm 0, unless the layer also runs backwards.

    Raises:
        ValueError: for a source that is no step, or cotangents that do not fit the outputs.

    Example:
        >>> flow = gradient_flow(rnnfast.RNN(10, 32, batch_first=True), torch.randn(1, 50, 10))
        >>> len(flow.norms), flow.per_step < 1
        (50, True)
    """
    time = _time_axis(layer)
    source = _checked(source, x.size(time))
    x = x.detach().transpose(0, 1 - time)

    def run(inputs: Tensor) -> Tensor:
        return outputs_of(layer, inputs.transpose(0, 1 - time)).transpose(0, 1 - time)

    with without_dropout(layer), torch.enable_grad():
        norms = _norms(run, x, cotangents, source)
    return GradientFlow(norms.tolist(), source)


def _norms(run: Any, x: Tensor, cotangents: Tensor | None, source: int) -> Tensor:
    """(T,) norms by one vector-Jacobian product over T K copies of the batch, each with its own cotangent.

    On two Zen 4 cores, T = 50, B = 1, H = 32, an rnnfast.RNN takes 1.5 ms so, since copies of rows run on the fast
    kernels; T backward passes take 7, is_grads_batched 21 and forward mode over the 10 inputs 46, these two in
    plain torch. torch.nn.RNN: 7, 55, 16 and 24.
    """
    B, T, _ = x.shape
    with torch.no_grad():
        O = run(x[:1]).size(-1)  # noqa: E741 (the field's name)
    v = torch.eye(1, O) if cotangents is None else torch.atleast_2d(cotangents)
    if v.dim() != 2 or v.size(1) != O:
        raise ValueError(f"cotangents: got shape {tuple(v.shape)}, expected (K, {O})")
    K, v = v.size(0), v.to(x)
    found = []
    for copies in torch.arange(T * K, device=x.device).split(max(1, _CHUNK // (B * T * O))):
        n = len(copies)
        inputs = x.repeat(n, 1, 1).requires_grad_()
        outputs = run(inputs)
        cotangent = outputs.new_zeros(n, B, T, O)
        cotangent[torch.arange(n), :, copies // K] = v[copies % K].unsqueeze(1)
        (gradient,) = torch.autograd.grad(outputs, inputs, cotangent.flatten(0, 1))
        found.append(torch.linalg.vector_norm(gradient[:, source].reshape(n, -1), dim=1))
    return torch.linalg.vector_norm(torch.cat(found).view(T, K), dim=1)


def jacobian_flow(layer: nn.Module, x: Tensor, *, source: int = 0) -> GradientFlow:
    r"""The Frobenius norm of the whole Jacobian d out_t / d x_source for all t, by forward mode.

    What :func:`gradient_flow` finds with the identity matrix for cotangents, here with one tangent for each of the
    I inputs: on two Zen 4 cores, T = 50, B = 1, I = 10, H = 32, an rnnfast.RNN takes 46 ms so instead of 52, an
    LSTM 86 instead of 295, a GRU 43 instead of 109, though it runs in plain torch. Where I is more than some
    hundred, random cotangents are the way.

    Args:
        layer, x, source: as in :func:`gradient_flow`.

    Example:
        >>> flow = jacobian_flow(rnnfast.GRU(3, 8, batch_first=True), torch.randn(2, 20, 3))
        >>> len(flow.norms)
        20
    """
    time = _time_axis(layer)
    x = x.detach()
    source = _checked(source, x.size(time))
    B, inputs = x.size(1 - time), x.size(-1)

    def outputs(at_source: Tensor) -> Tensor:
        before, _, after = x.split([source, 1, x.size(time) - source - 1], time)
        return outputs_of(layer, torch.cat([before, at_source.unsqueeze(time), after], time))

    def along(tangent: Tensor) -> Tensor:
        return torch.func.jvp(outputs, (x.select(time, source),), (tangent.expand(B, -1),))[1]

    with without_dropout(layer), _no_fused_layers():
        derivatives = torch.func.vmap(along)(torch.eye(inputs).to(x))
    norms = torch.linalg.vector_norm(derivatives.detach().movedim(time + 1, 0).flatten(1), dim=1)
    return GradientFlow(norms.tolist(), source)


@contextlib.contextmanager
def _no_fused_layers() -> Iterator[None]:
    """Has torch.nn's layers run without oneDNN and cuDNN, which have no forward mode for them."""
    # Neither torch.backends.mkldnn.enabled, which code may freeze (torch's tests do), nor its flags(), which set
    # TF32, too, with a warning.
    switches: Any = {
        torch._C._set_mkldnn_enabled: torch._C._get_mkldnn_enabled(),
        torch._C._set_cudnn_enabled: torch._C._get_cudnn_enabled(),
    }
    try:
        for switch in switches:
            switch(False)
        yield
    finally:
        for switch, before in switches.items():
            switch(before)


def _time_axis(layer: nn.Module) -> int:
    return 1 if getattr(layer, "batch_first", True) else 0


def _checked(source: int, steps: int) -> int:
    if not -steps <= source < steps:
        raise ValueError(f"source: got {source}, expected a step of the {steps} that there are")
    return source % steps


@contextlib.contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Has no dropout in or between layers; not by ``eval()``, in which cuDNN has no backward."""
    before = [(m, m.dropout) for m in module.modules() if isinstance(m, nn.RNNBase)]
    drops = [m for m in module.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
    try:
        for layer, _ in before:
            layer.dropout = 0.0
        for drop in drops:
            drop.eval()
        yield
    finally:
        for layer, dropout in before:
            layer.dropout = dropout
        for drop in drops:
            drop.train()


__all__ = ["GradientFlow", "factor_per_step", "gradient_flow", "jacobian_flow", "without_dropout"]
