"""The raw operators: fake kernels and derivatives.

``torch.ops.rnnfast.elman`` and ``elman_bptt`` are defined in ``csrc/ops.cpp``, which gives their shapes. Their
input is projected already (``gates``, W_ih x), so what is left is the recurrence alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from . import _library, reference
from .sequences import Layout, is_reversed


def elman(
    gates: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    nonlinearity: str,
    direction: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The differentiable recurrence, by the fastest way that serves. Shapes as in ``csrc/ops.cpp``."""
    args = (gates, w_hh, bias, h0, nonlinearity, direction, batch_first, batch_sizes)
    if not _library.serves(gates.device, gates.dtype) or _transformed():
        return reference.elman(*args)
    if torch.is_grad_enabled() and _any_requires_grad(gates, w_hh, bias, h0):
        return _apply(_Elman, *args)
    return torch.ops.rnnfast.elman(*args)


def _transformed() -> bool:
    """Whether forward-mode derivatives or torch.func transforms are at work.

    The operators have no rules for them; forward mode would silently lose its tangents.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _in_legacy_vmap(*tensors: Tensor | None) -> bool:
    """Whether a backward is run for many gradients at once, as by ``is_grads_batched=True``."""
    return any(t is not None and torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors)


def _any_requires_grad(*tensors: Tensor | None) -> bool:
    return any(t is not None and t.requires_grad for t in tensors)


def _apply(function: type[Function], *args: Any) -> Any:
    """``function.apply``, without the binding of the signature that it does on each call for torch.func's sake.

    The transforms do not come here. Dynamo cannot trace a Function whose backward calls another, as ours do for
    the second derivative: it breaks the graph here.
    """
    if torch.compiler.is_compiling():
        return _apply_outside_graph(function, *args)
    return super(Function, function).apply(*args)


@torch._disable_dynamo  # unlike torch.compiler.disable, does not import Dynamo before it is needed
def _apply_outside_graph(function: type[Function], *args: Any) -> Any:
    return super(Function, function).apply(*args)


class _Elman(Function):
    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        return torch.ops.rnnfast.elman(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, w_hh, _, h0, ctx.nonlinearity, ctx.direction, ctx.batch_first, batch_sizes = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[0], w_hh, h0, batch_sizes)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None) -> tuple[Tensor | None, ...]:
        y, w_hh, h0, batch_sizes = ctx.saved_tensors
        layout = Layout(ctx.batch_first, batch_sizes)
        needs_gates, needs_w_hh, needs_bias, needs_h0 = ctx.needs_input_grad[:4]
        if dy is None and dh_n is None:
            return (None,) * 8
        args = (dy, dh_n, y, w_hh, ctx.nonlinearity, ctx.direction, ctx.batch_first, batch_sizes)
        if _transformed() or _in_legacy_vmap(dy, dh_n):
            dgates = reference.elman_bptt(*args)
        elif torch.is_grad_enabled():
            dgates = _apply(_ElmanBPTT, *args)
        else:
            dgates = torch.ops.rnnfast.elman_bptt(*args)

        dw_hh = dbias = dh0 = None
        if needs_w_hh:
            dw_hh = recurrent_weight_gradient(dgates, y, h0, ctx.direction, layout)
        if needs_bias:
            dbias = dgates.sum(tuple(range(dgates.dim() - 2)))
        if needs_h0:
            entering = [
                (layout.last if is_reversed(g, ctx.direction) else layout.first)(dgates)[:, g]
                for g in range(w_hh.size(0))
            ]
            dh0 = torch.stack([d @ w for d, w in zip(entering, w_hh.unbind(0), strict=True)])
        return dgates if needs_gates else None, dw_hh, dbias, dh0, None, None, None, None


def recurrent_weight_gradient(
    dgates: Tensor, states: Tensor, h0: Tensor | None, direction: int, layout: Layout
) -> Tensor:
    """dW_hh = sum over t of dgates_t h_{t-1}^T, one GEMM for each group and one for its initial state."""
    gradients = []
    for g in range(dgates.size(-2)):
        if is_reversed(g, direction):
            entering, going_on, before = layout.last, layout.earlier, layout.later
        else:
            entering, going_on, before = layout.first, layout.later, layout.earlier
        dw = going_on(dgates)[:, g].T @ before(states)[:, g]
        if h0 is not None:
            dw = torch.addmm(dw, entering(dgates)[:, g].T, h0[g])
        gradients.append(dw)
    return gradients[0].unsqueeze(0) if len(gradients) == 1 else torch.stack(gradients)


class _ElmanBPTT(Function):
    """BPTT as a function of its own, so that it has a derivative: that of the reference, in plain torch."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return torch.ops.rnnfast.elman_bptt(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        dy, dh_n, y, w_hh, *ctx.options, batch_sizes = inputs
        ctx.save_for_backward(dy, dh_n, y, w_hh, batch_sizes)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, batch_sizes = ctx.saved_tensors  # dy, dh_n, y, w_hh
        wanted = [i for i in range(len(tensors)) if ctx.needs_input_grad[i]]

        def bptt(*some: Tensor) -> Tensor:
            args: list[Any] = [*tensors, *ctx.options, batch_sizes]
            for i, t in zip(wanted, some, strict=True):
                args[i] = t
            return reference.elman_bptt(*args)

        _, vjp = torch.func.vjp(bptt, *(tensors[i] for i in wanted))
        gradients: list[Tensor | None] = [None] * 8
        for i, gradient in zip(wanted, vjp(v), strict=True):
            gradients[i] = gradient
        return tuple(gradients)


def _register_fakes() -> None:
    @torch.library.register_fake("rnnfast::elman")
    def fake_elman(
        gates: Tensor,
        w_hh: Tensor,
        bias: Tensor | None,
        h0: Tensor | None,
        nonlinearity: str,
        direction: int = 0,
        batch_first: bool = False,
        batch_sizes: Tensor | None = None,
        **reserved: Any,
    ) -> tuple[Tensor, Tensor]:
        if h0 is not None:
            batch: Any = h0.size(1)
        elif batch_sizes is not None:  # the batch is as large as the first step, a value not known here
            batch = torch.library.get_ctx().new_dynamic_size()
        else:
            batch = gates.size(0 if batch_first else 1)
        return gates.new_empty(gates.shape), gates.new_empty((w_hh.size(0), batch, w_hh.size(-1)))

    @torch.library.register_fake("rnnfast::elman_bptt")
    def fake_elman_bptt(dy: Tensor | None, dh_n: Tensor | None, y: Tensor, *args: Any, **reserved: Any) -> Tensor:
        return y.new_empty(y.shape)


if _library.ISA is not None:
    _register_fakes()
