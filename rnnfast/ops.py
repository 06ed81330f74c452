"""The operators: fake kernels, derivatives, and the choice between them and plain torch.

They are defined in ``csrc/ops.cpp``, which gives their shapes: ``torch.ops.rnnfast.recurrence`` is a layer of
any cell, with or without the projection of its input, and ``recurrence_bptt`` all its gradients. Here one
:class:`~torch.autograd.Function` makes a layer a single node of the autograd graph. What is differentiated again
is the reference, in plain torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

from . import _library, reference

# The first arguments of `recurrence`, in this order, may have gradients.
TENSORS = ("input", "w_ih", "w_hh", "w_hr", "b_ih", "b_hh", "h0", "c0")


def recurrence(
    input: Tensor,
    w_ih: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    cell: str,
    direction: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
    states: bool = False,
    clip: float | None = None,
    norms: Tensor | None = None,
) -> Any:
    """A layer of any cell, differentiable, by the fastest way that serves.

    Args: as in ``csrc/ops.cpp``; states: whether an LSTM's c of every step is wanted. The backward pass clips
        and fills `norms` (torch.func's transforms do not fill it).

    Returns:
        y and h_n; of an LSTM also c_n, and with `states` all c, (T, B, G, H) and so on.
    """
    args = (input, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0, cell, direction, batch_first, batch_sizes)
    if not _library.serves(input) or _transformed():
        noted = None if _transformed() else norms
        return _reference(*args, clip, noted)[: _results(cell, states)]
    precision = _library.precision(input.device, input.dtype) if input.is_cuda else None
    if _is_recorded(w_hh, input, w_ih, b_ih, b_hh, h0, c0, w_hr):
        return _apply(_Recurrence, *args, states, precision, clip, norms)
    results = _op(*args, states, precision=precision)
    return [*results[:3], results[4]] if states else results


def cell(
    input: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    cell: str,
) -> Any:
    """One step, differentiable: (B, I) and (B, H) to [h], of an LSTM [h, c].

    Where a gradient may be asked for it is torch's own operator, whose derivatives no Python slows.
    """
    args = (input, w_ih, w_hh, b_ih, b_hh, h, c)
    if _is_recorded(*args) or not _library.serves(input) or _transformed():
        weights = (w_ih, w_hh, b_ih, b_hh)
        return (
            torch._VF.lstm_cell(input, (h, c), *weights) if cell == "lstm" else [_CELLS[cell](input, h, *weights)]
        )
    return _op_cell(*args, cell)


_CELLS = {"elman_tanh": torch._VF.rnn_tanh_cell, "elman_relu": torch._VF.rnn_relu_cell, "gru": torch._VF.gru_cell}


def _results(cell: str, states: bool) -> int:
    """How many results :func:`recurrence` has."""
    return 3 + states if cell == "lstm" else 2


def _reference(
    input: Tensor,
    w_ih: Tensor | None,
    w_hh: Tensor,
    w_hr: Tensor | None,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    *args: Any,
) -> tuple[Tensor, ...]:
    """:func:`recurrence` in plain torch; of an LSTM, always with all c."""
    w_hh, w_hr = [w.unsqueeze(0) if w is not None and w.dim() == 2 else w for w in (w_hh, w_hr)]
    gate_shape = w_hh.shape[:2]
    bias = None if b_hh is None else b_hh.view(gate_shape)
    if w_ih is None:
        gates = input if b_ih is None else input + b_ih.view(gate_shape)
        return reference.recurrence(gates, w_hh, w_hr, bias, *args)
    gates = F.linear(input, w_ih, None if b_ih is None else b_ih.flatten()).unflatten(-1, gate_shape)
    y, *others = reference.recurrence(gates, w_hh, w_hr, bias, *args)
    return (y.flatten(-2), *others)


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

    The transforms do not come here. Dynamo cannot trace a Function whose backward calls torch.autograd.grad, as
    ours does for the second derivative: it breaks the graph here.
    """
    if torch.compiler.is_compiling():
        return _apply_outside_graph(function, *args)
    return super(Function, function).apply(*args)


@torch._disable_dynamo  # unlike torch.compiler.disable, does not import Dynamo before it is needed
def _apply_outside_graph(function: type[Function], *args: Any) -> Any:
    return super(Function, function).apply(*args)


class _Recurrence(Function):
    # What is kept is kept here, not in a setup_context of its own: that is a second call, which a small layer
    # feels, and serves only torch.func's transforms, which do not come here.
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        *inputs, cell, direction, batch_first, batch_sizes, states, precision, clip, norms = args
        results = _op(*args[:-4], True, precision=precision)
        count = _results(cell, False)
        ctx.options, ctx.precision = (cell, direction, batch_first), precision
        ctx.clip, ctx.norms = clip, norms
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, batch_sizes, results[0], *results[count:])
        return (*results[:count], results[4]) if states else tuple(results[:count])

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, *dcs: Tensor | None) -> tuple[Any, ...]:
        absent = (None,) * 8  # what is no tensor of TENSORS
        if dy is None and dh_n is None and not any(d is not None for d in dcs):
            return (None,) * len(TENSORS) + absent
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled() or _transformed() or _in_legacy_vmap(dy, dh_n, *dcs):
            return (*_by_reference(ctx, (dy, dh_n, *dcs)), *absent)
        input, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0, batch_sizes, y, *saved = ctx.saved_tensors
        dc_n, dc = (*dcs, None, None)[:2]
        wanted = sum(1 << i for i in range(len(TENSORS)) if needs[i])
        gradients = _op_bptt(
            dy,
            dh_n,
            dc_n,
            dc,
            None if w_ih is None else input,
            w_ih,
            w_hh,
            w_hr,
            h0,
            c0,
            y,
            saved,
            *ctx.options,
            batch_sizes,
            wanted,
            clip=ctx.clip,
            norms=ctx.norms,
            precision=ctx.precision,
        )
        each = [d if needed else None for d, needed in zip(gradients, needs, strict=False)]
        for i, bias in ((4, b_ih), (5, b_hh)):
            d = each[i]
            if d is not None and d.shape != bias.shape:
                each[i] = d.view(bias.shape)
        return (*each, *absent)


def _by_reference(ctx: Any, gradients: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """The gradients for :data:`TENSORS` as plain torch finds them, differentiable again."""
    again, count = torch.is_grad_enabled(), len(TENSORS)
    needs = ctx.needs_input_grad[:count]
    *inputs, batch_sizes = ctx.saved_tensors[: count + 1]
    with torch.enable_grad():
        # Views, so that nothing is differentiated beyond this layer.
        inputs = [t.view_as(t) if needed else t for t, needed in zip(inputs, needs, strict=True)]
        results = _reference(*inputs, *ctx.options, batch_sizes, ctx.clip, ctx.norms)
        given = [(r, d) for r, d in zip(results, gradients, strict=False) if d is not None]
        wanted = [t for t, needed in zip(inputs, needs, strict=True) if needed]
        found = iter(
            torch.autograd.grad(
                [r for r, _ in given], wanted, [d for _, d in given], create_graph=again, allow_unused=True
            )
        )
    return [next(found) if needed else None for needed in needs]


def _register_fakes() -> None:
    def groups(w: Tensor) -> int:
        return w.size(0) if w.dim() == 3 else 1

    def rows_of_batch(input: Tensor, h0: Tensor | None, batch_first: bool, batch_sizes: Tensor | None) -> Any:
        if h0 is not None:
            return h0.size(1)
        if batch_sizes is not None:  # as many as the first step has, a value not known here
            return torch.library.get_ctx().new_dynamic_size()
        return input.size(0 if batch_first else 1)

    @torch.library.register_fake("rnnfast::recurrence")
    def fake_recurrence(
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
        *args: Any,
        **reserved: Any,
    ) -> list[Tensor]:
        G, (K, P) = groups(w_hh), w_hh.shape[-2:]
        lead = input.shape[:-1] if w_ih is not None else input.shape[:-2]
        H = K // reference.GATES[cell]
        B = rows_of_batch(input, h0, batch_first, batch_sizes)
        shapes = [(*lead, G * P) if w_ih is not None else (*lead, G, P), (G, B, P)]
        if cell == "lstm":
            shapes += [(G, B, H)] + [(*lead, G, K), (*lead, G, H)] * saves
        if cell == "gru":
            shapes += [(*lead, G, K)] * saves
        if saves and (cell == "gru" or w_hr is not None):
            shapes += [(*lead, G, H)]
        return [input.new_empty(shape) for shape in shapes]

    @torch.library.register_fake("rnnfast::recurrence_int8")
    def fake_recurrence_int8(
        input: Tensor,
        w_ih: list[Tensor],
        w_hh: list[Tensor],
        w_hr: list[Tensor],
        b_ih: Tensor | None,
        b_hh: Tensor | None,
        h0: Tensor | None,
        c0: Tensor | None,
        cell: str,
        H: int,
        P: int,
        direction: int = 0,
        batch_first: bool = False,
        batch_sizes: Tensor | None = None,
    ) -> list[Tensor]:
        G, B = w_hh[0].size(0), rows_of_batch(input, h0, batch_first, batch_sizes)
        shapes = [(*input.shape[:-1], G * P), (G, B, P), *([(G, B, H)] if cell == "lstm" else [])]
        return [input.new_empty(shape) for shape in shapes]

    @torch.library.register_fake("rnnfast::recurrence_bptt")
    def fake_recurrence_bptt(
        dy: Tensor | None,
        dh_n: Tensor | None,
        dc_n: Tensor | None,
        dc: Tensor | None,
        input: Tensor | None,
        w_ih: Tensor | None,
        w_hh: Tensor,
        w_hr: Tensor | None,
        h0: Tensor | None,
        c0: Tensor | None,
        y: Tensor,
        saved: list[Tensor],
        cell: str,
        direction: int,
        batch_first: bool,
        batch_sizes: Tensor | None,
        needs: int,
        *args: Any,
        **reserved: Any,
    ) -> list[Tensor]:
        G, (K, P) = groups(w_hh), w_hh.shape[-2:]
        H = K // reference.GATES[cell]
        B = rows_of_batch(y, h0, batch_first, batch_sizes) if needs & 192 else 0
        gates = (*y.shape[:-2], G, K) if w_ih is None or input is None else input.shape
        bias = (K,) if G == 1 else (G, K)
        given = [None if w is None else w.shape for w in (w_ih, w_hh, w_hr)]
        shapes = [gates, *given, bias, bias, (G, B, P), (G, B, H) if cell == "lstm" else None]
        return [
            y.new_empty(shape if shape is not None and needs & 1 << i else (0,)) for i, shape in enumerate(shapes)
        ]

    @torch.library.register_fake("rnnfast::cell")
    def fake_cell(input: Tensor, w_ih: Tensor, w_hh: Tensor, *args: Any) -> list[Tensor]:
        state = (input.size(0), w_hh.size(1))
        return [input.new_empty(state) for _ in range(2 if args[-1] == "lstm" else 1)]


if _library.ISA is not None:
    _op = torch.ops.rnnfast.recurrence.default
    _op_bptt = torch.ops.rnnfast.recurrence_bptt.default
    _op_cell = torch.ops.rnnfast.cell.default
    _register_fakes()
