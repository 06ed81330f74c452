"""The operators: fake kernels, derivatives, and the projection of the input.

They are defined in ``csrc/ops.cpp``, which gives their shapes: ``torch.ops.rnnfast.elman`` and ``elman_bptt`` are
the recurrence, whose input is projected already (``gates``, W_ih x); ``elman_layer`` and ``elman_layer_bptt``
include the projection and all gradients. Here one :class:`~torch.autograd.Function` makes a layer a single node of
the autograd graph; what is differentiated again is put together in Python.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

from . import _library, gemm, reference
from .sequences import Layout, is_reversed


def elman(
    input: Tensor,
    w_ih: Tensor | None,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    nonlinearity: str,
    direction: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """A layer of Elman recurrences, differentiable, by the fastest way that serves.

    Args:
        input: (T, B, I), (B, T, I) or packed (N, I); or gates (T, B, G, K) and so on where `w_ih` is None.
        w_ih: (G K, I) or None; w_hh: (G, K, H), or (K, H) where G is 1; b_ih, b_hh: (G K), (G, K) or None.
        h0: (G, B, H) or None. The others: as in ``csrc/ops.cpp``.

    Returns:
        y, (T, B, G H) and so on like `input`, or (T, B, G, H) where `w_ih` is None; and h_n, (G, B, H).
    """
    args = (input, w_ih, w_hh, b_ih, b_hh, h0, nonlinearity, direction, batch_first, batch_sizes)
    if not _library.serves(input) or _transformed():
        return _reference(*args)
    if _is_recorded(w_hh, input, w_ih, b_ih, b_hh, h0):
        return _apply(_Elman, *args)
    return _forward(*args)


def elman_cell(
    input: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h: Tensor,
    nonlinearity: str,
) -> Tensor:
    """One step of an Elman recurrence, differentiable: (B, I) and (B, H) to (B, H).

    Where a gradient may be asked for it is torch's own operator, whose derivatives no Python slows.
    """
    args = (input, w_ih, w_hh, b_ih, b_hh, h)
    if _is_recorded(*args) or not _library.serves(input) or _transformed():
        step = torch._VF.rnn_tanh_cell if nonlinearity == "tanh" else torch._VF.rnn_relu_cell
        return step(input, h, w_ih, w_hh, b_ih, b_hh)
    return _op_cell(*args, nonlinearity)


def _forward(input: Tensor, w_ih: Tensor | None, *args: Any) -> tuple[Tensor, Tensor]:
    """By the operators."""
    if w_ih is not None:
        return _op_layer(input, w_ih, *args, gemm.onednn())
    w_hh, b_ih, b_hh, *rest = args
    return _op(input, *_by_groups(w_hh, b_ih, b_hh), *rest)


def _reference(
    input: Tensor, w_ih: Tensor | None, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, *args: Any
) -> tuple[Tensor, Tensor]:
    """In plain torch."""
    w_hh, bias = _by_groups(w_hh, b_ih, b_hh)
    if w_ih is None:
        return reference.elman(input, w_hh, bias, *args)
    y, h_n = reference.elman(F.linear(input, w_ih).unflatten(-1, w_hh.shape[:2]), w_hh, bias, *args)
    return y.flatten(-2), h_n


def _by_groups(w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """w_hh, (G, K, H), and the bias, (G, K): torch's layers have two, which act as their sum."""
    w_hh = _with_groups(w_hh)
    bias = b_ih + b_hh if b_ih is not None and b_hh is not None else b_hh if b_ih is None else b_ih
    return w_hh, None if bias is None else bias.view(w_hh.shape[:2])


def _with_groups(w_hh: Tensor) -> Tensor:
    return w_hh.unsqueeze(0) if w_hh.dim() == 2 else w_hh


def _transformed() -> bool:
    """Whether forward-mode derivatives or torch.func transforms are at work.

    The operators have no rules for them; forward mode would silently lose its tangents.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _in_legacy_vmap(*tensors: Tensor | None) -> bool:
    """Whether a backward is run for many gradients at once, as by ``is_grads_batched=True``."""
    return any(t is not None and torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors)


def _is_recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done with these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


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
    # What is kept is kept here, not in a setup_context of its own: that is a second call, which a small layer
    # feels, and serves only torch.func's transforms, which do not come here.
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        y, h_n = _forward(*args)
        input, w_ih, w_hh, b_ih, b_hh, h0, *options, batch_sizes = args
        ctx.options = options
        ctx.bias_shapes = (None if b_ih is None else b_ih.shape, None if b_hh is None else b_hh.shape)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(None if w_ih is None else input, w_ih, w_hh, h0, y, batch_sizes)
        return y, h_n

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None and dh_n is None:
            return (None,) * 10
        input, w_ih, w_hh, h0, y, batch_sizes = ctx.saved_tensors
        options = (*ctx.options, batch_sizes)
        needs = ctx.needs_input_grad
        if w_ih is None or torch.is_grad_enabled() or _transformed() or _in_legacy_vmap(dy, dh_n):
            gradients = _gradients(dy, dh_n, input, w_ih, w_hh, h0, y, *options, needs=needs)
        else:
            wanted = needs[0] | needs[1] << 1 | needs[2] << 2 | needs[3] << 3 | needs[4] << 4 | needs[5] << 5
            gradients = _op_layer_bptt(dy, dh_n, input, w_ih, w_hh, h0, y, *options, wanted, gemm.onednn())
        each: list[Tensor | None] = [d if needed else None for d, needed in zip(gradients, needs, strict=False)]
        for i, shape in zip((3, 4), ctx.bias_shapes, strict=True):
            d = each[i]
            if d is not None and d.shape != shape:
                each[i] = d.view(shape)
        return (*each, None, None, None, None)


def _gradients(
    dy: Tensor | None,
    dh_n: Tensor | None,
    input: Tensor | None,
    w_ih: Tensor | None,
    w_hh_given: Tensor,
    h0: Tensor | None,
    y: Tensor,
    nonlinearity: str,
    direction: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
    *,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """What the operator ``elman_layer_bptt`` returns, differentiable; without w_ih the first is dgates."""
    w_hh = _with_groups(w_hh_given)
    G, K, H = w_hh.shape
    if w_ih is not None:
        y = y.view(*y.shape[:-1], G, H)
        dy = None if dy is None else dy.reshape(y.shape)
    dgates = _bptt(dy, dh_n, y, w_hh, nonlinearity, direction, batch_first, batch_sizes)
    layout = Layout(batch_first, batch_sizes)
    dx, dw_ih = dgates, None
    if w_ih is not None and input is not None:
        rows = dgates.view(-1, G * K)
        dx = (rows @ w_ih).view(input.shape)
        dw_ih = rows.T @ input.reshape(-1, input.size(-1)) if needs[1] else None
    dw_hh = db_ih = db_hh = dh0 = None
    if needs[2]:
        dw_hh = recurrent_weight_gradient(dgates, y, h0, direction, layout).view(w_hh_given.shape)
    if needs[3] or needs[4]:
        db_ih = dgates.sum(tuple(range(dgates.dim() - 2)))
        # Gradients that come later are added in place, so each parameter's is a tensor of its own.
        db_hh = db_ih.clone() if needs[3] else db_ih
    if needs[5]:
        dh0 = initial_state_gradient(dgates, w_hh, direction, layout)
    return dx, dw_ih, dw_hh, db_ih, db_hh, dh0


def _bptt(dy: Tensor | None, dh_n: Tensor | None, *args: Any) -> Tensor:
    if _transformed() or _in_legacy_vmap(dy, dh_n):
        return reference.elman_bptt(dy, dh_n, *args)
    if torch.is_grad_enabled():
        return _apply(_ElmanBPTT, dy, dh_n, *args)
    return _op_bptt(dy, dh_n, *args)


def initial_state_gradient(dgates: Tensor, w_hh: Tensor, direction: int, layout: Layout) -> Tensor:
    """dh_0 = W_hh^T dgates of each row's first step in order of processing, (G, B, H)."""
    first = [
        (layout.last if is_reversed(g, direction) else layout.first)(dgates)[:, g] for g in range(w_hh.size(0))
    ]
    return torch.stack([d @ w for d, w in zip(first, w_hh.unbind(0), strict=True)])


def recurrent_weight_gradient(
    dgates: Tensor, states: Tensor, h0: Tensor | None, direction: int, layout: Layout
) -> Tensor:
    """dW_hh = sum over t of dgates_t h_{t-1}^T, one GEMM for each group and one for its initial state."""
    if h0 is None and layout.steps_in(states) == 1:
        return dgates.new_zeros(dgates.shape[-2:] + states.shape[-1:])
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
        return _op_bptt(*args)

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


def _batch(rows: Tensor, h0: Tensor | None, batch_first: bool, batch_sizes: Tensor | None) -> Any:
    """The number of rows of a batch, for fake kernels."""
    if h0 is not None:
        return h0.size(1)
    if batch_sizes is not None:  # as many as the first step has, a value not known here
        return torch.library.get_ctx().new_dynamic_size()
    return rows.size(0 if batch_first else 1)


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
        batch = _batch(gates, h0, batch_first, batch_sizes)
        return gates.new_empty(gates.shape), gates.new_empty((w_hh.size(0), batch, w_hh.size(-1)))

    @torch.library.register_fake("rnnfast::elman_bptt")
    def fake_elman_bptt(dy: Tensor | None, dh_n: Tensor | None, y: Tensor, *args: Any, **reserved: Any) -> Tensor:
        return y.new_empty(y.shape)

    @torch.library.register_fake("rnnfast::elman_layer")
    def fake_elman_layer(
        input: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        h0: Tensor | None,
        nonlinearity: str,
        direction: int = 0,
        batch_first: bool = False,
        batch_sizes: Tensor | None = None,
        onednn: bool = False,
    ) -> tuple[Tensor, Tensor]:
        G = w_hh.size(0) if w_hh.dim() == 3 else 1
        y = input.new_empty((*input.shape[:-1], w_ih.size(0)))
        return y, input.new_empty((G, _batch(input, h0, batch_first, batch_sizes), w_hh.size(-1)))

    @torch.library.register_fake("rnnfast::elman_cell")
    def fake_elman_cell(input: Tensor, w_ih: Tensor, w_hh: Tensor, *args: Any) -> Tensor:
        return input.new_empty((input.size(0), w_hh.size(0)))

    @torch.library.register_fake("rnnfast::elman_layer_bptt")
    def fake_elman_layer_bptt(
        dy: Tensor | None,
        dh_n: Tensor | None,
        input: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        h0: Tensor | None,
        y: Tensor,
        nonlinearity: str,
        direction: int,
        batch_first: bool,
        batch_sizes: Tensor | None,
        needs: int,
        onednn: bool = False,
    ) -> tuple[Tensor, ...]:
        G = w_hh.size(0) if w_hh.dim() == 3 else 1
        bias = (w_ih.size(0),) if G == 1 else (G, w_ih.size(0) // G)
        h0_shape = (G, _batch(input, h0, batch_first, batch_sizes) if needs & 32 else 0, w_hh.size(-1))
        shapes = (input.shape, w_ih.shape, w_hh.shape, bias, bias, h0_shape)
        return tuple(input.new_empty(shape if needs & 1 << i else (0,)) for i, shape in enumerate(shapes))


if _library.ISA is not None:
    _op = torch.ops.rnnfast.elman.default
    _op_bptt = torch.ops.rnnfast.elman_bptt.default
    _op_cell = torch.ops.rnnfast.elman_cell.default
    _op_layer = torch.ops.rnnfast.elman_layer.default
    _op_layer_bptt = torch.ops.rnnfast.elman_layer_bptt.default
    _register_fakes()
