"""Derivatives of the operators.

They are kernels of the operators' own, at the dispatcher's Autograd key, so that whatever calls an operator gets
them: layers, exported and compiled programs, TorchScript, torch.func. First derivatives are the operator
``recurrence_bptt``; its derivatives, and forward mode, are those of the reference, in plain torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from . import _library, reference
from ._noise import Rates
from ._torch import (
    KernelsFunction,
    apply,
    below_autograd,
    differentiable,
    hidden_from_dynamo,
    in_forward_mode,
    in_legacy_vmap,
    transformed,
    unwrap_dead_wrappers,
    without_autocast,
)

if _library.ISA is not None:
    op = torch.ops.rnnfast.recurrence.default
    op_bptt = torch.ops.rnnfast.recurrence_bptt.default
    op_cell = torch.ops.rnnfast.cell.default
    op_rows_at = torch.ops.rnnfast.rows_at.default

# The first arguments of `recurrence`, in this order, may have gradients.
TENSORS = ("input", "w_ih", "w_hh", "w_hr", "b_ih", "b_hh", "h0", "c0")
# What else recurrence_bptt may return, as places in its results.
GATES, INNER, NORMS = 8, 9, 10
# Options that say how a GPU is to run a recurrence, not which.
ON_GPU = ("precision", "beside")


def results_of(cell: str) -> int:
    """How many results a layer has: y, h_n, of an LSTM c_n."""
    return 3 if cell in reference.HAVE_C else 2


def is_recorded(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done with these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


@contextmanager
def _for_outer_transforms() -> Iterator[None]:
    """Outer transforms of torch.func differentiate as well, though a Function's forward pass is not recorded."""
    with below_autograd(), torch.enable_grad():
        yield


def _to_what_is_below() -> Any:
    """Where a Function calls its operator."""
    return _for_outer_transforms() if transformed() else below_autograd()


def is_differentiated(*args: Any) -> bool:
    """Whether what a backward pass does with these may be differentiated in its turn."""
    return torch.is_grad_enabled() or transformed() or in_forward_mode(args)


def _bptt(*args: Any, **options: Any) -> list[Tensor]:
    """The operator, past its derivatives where no one can ask for them."""
    if is_differentiated(*args):
        return op_bptt(*args, **options)
    with below_autograd():
        return op_bptt(*args, **options)


class Recurrence(KernelsFunction):
    """The operator ``recurrence``, its tensors first; the backward pass calls `note`."""

    # What is kept is kept here, not in a setup_context of its own: that is a second call, which a small layer
    # feels.
    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        *inputs, cell, direction, batch_first, batch_sizes, saves, options, note = args
        with _to_what_is_below():
            results = op(*args[:12], True, **options)
        count = results_of(cell)
        ctx.layout, ctx.options, ctx.note = (cell, direction, batch_first), options, note
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, batch_sizes, results[0], *results[count:])
        if saves:
            place_of_c = 4 if cell in reference.HAVE_C else None
            ctx.mark_non_differentiable(*(t for i, t in enumerate(results) if i >= count and i != place_of_c))
            return tuple(results)
        return tuple(results[:count])

    @staticmethod
    @without_autocast
    def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, *others: Tensor | None) -> tuple[Any, ...]:
        absent = (None,) * 7  # what is no tensor of TENSORS
        count = results_of(ctx.layout[0])
        dc_n = others[0] if count == 3 else None
        dc = others[2] if count == 3 and len(others) > 1 else None
        by = (dy, dh_n, dc_n, dc)
        if all(d is None for d in by):
            return (None,) * len(TENSORS) + absent
        needs = ctx.needs_input_grad[: len(TENSORS)]
        kept, options = ctx.saved_tensors, ctx.options  # once: torch.utils.checkpoint rebuilds them here
        inputs, (batch_sizes, y, *saved) = kept[: len(TENSORS)], kept[len(TENSORS) :]
        if in_legacy_vmap(*by):
            given = (*ctx.layout, batch_sizes)
            return (*by_reference(inputs, by, given, needs, torch.is_grad_enabled(), options), *absent)
        wanted = sum(1 << i for i, needed in enumerate(needs) if needed) | (ctx.note is not None) << NORMS
        gradients = _bptt(*by, *inputs, y, saved, *ctx.layout, batch_sizes, wanted, **options)
        if ctx.note is not None:
            ctx.note(gradients[NORMS].detach())
        each = [d if needed else None for d, needed in zip(gradients, needs, strict=False)]
        for i in (4, 5):
            d, bias = each[i], inputs[i]
            if d is not None and d.shape != bias.shape:
                each[i] = d.view(bias.shape)
        return (*each, *absent)


class Bptt(KernelsFunction):
    """The operator ``recurrence_bptt``; y and `saved` are not differentiated, for the inputs determine them."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, ...]:
        *arguments, options = args
        with _to_what_is_below():
            results = op_bptt(*arguments, **options)
        *_, cell, direction, batch_first, batch_sizes, needs = arguments
        ctx.given, ctx.needs, ctx.options = (cell, direction, batch_first), needs, options
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*arguments[:12], batch_sizes)
        ctx.mark_non_differentiable(*(t for i, t in enumerate(results) if i == NORMS or not needs & 1 << i))
        return tuple(results)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *vs: Tensor | None) -> tuple[Any, ...]:
        # What a transform that has ended wrapped still says that it has gradients.
        *tensors, batch_sizes = unwrap_dead_wrappers(ctx.saved_tensors)
        again, asked = torch.is_grad_enabled(), ctx.needs_input_grad[:12]
        with torch.enable_grad():
            tensors = [_its_own(t) for t in tensors]
            needs = [bool(ctx.needs & 1 << i) for i in range(NORMS)]
            given = (*ctx.given, batch_sizes)
            gradients = by_reference(tensors[4:], tensors[:4], given, needs, True, ctx.options)
            pairs = zip(gradients, vs, strict=False)
            of = [(g, v.view(g.shape)) for g, v in pairs if v is not None and g is not None and g.requires_grad]
            wanted = [t for t, needed in zip(tensors, asked, strict=True) if needed]
            found = _gradients_of(of, wanted, again)
        each = iter(found)
        return (*(next(each) if needed else None for needed in asked), *(None,) * 8)


class RowsAt(KernelsFunction):
    """The operator ``rows_at``, linear: its gradient goes where the rows came from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor, lead: Sequence[int]) -> Tensor:
        ctx.save_for_backward(index, inverse)
        ctx.lead = rows.shape[:-1]
        with _to_what_is_below():
            return op_rows_at(rows, index, inverse, lead)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        index, inverse = ctx.saved_tensors
        if in_legacy_vmap(gradient):
            return reference.rows_at(gradient, inverse, ctx.lead), None, None, None
        with nullcontext() if is_differentiated(gradient) else below_autograd():
            return op_rows_at(gradient, inverse, index, ctx.lead), None, None, None


def _bias_shape(w_hh: Tensor, bias: Tensor) -> tuple[int, ...]:
    """That of a bias's gradient, which the operator returns: (K), of several groups (G, K)."""
    G = w_hh.size(0) if w_hh.dim() == 3 else 1
    return (bias.numel(),) if G == 1 else (G, bias.numel() // G)


def _its_own(t: Tensor | None) -> Tensor | None:
    """A view, so that nothing is differentiated beyond it; one that has gradients."""
    if t is None:
        return None
    return t.view_as(t) if t.requires_grad else differentiable(t.detach())


def _gradients_of(of: list[tuple[Tensor, Tensor]], wanted: list[Tensor], create_graph: bool) -> Any:
    """What torch.autograd.grad finds, which refuses to look for nothing."""
    if not of or not wanted:
        return [None] * len(wanted)
    results, by = zip(*of, strict=True)
    return torch.autograd.grad(results, wanted, by, create_graph=create_graph, allow_unused=True)


@without_autocast
def by_reference(
    inputs: Any,
    by: Any,
    given: tuple[Any, ...],
    needs: Any,
    create_graph: bool,
    options: dict[str, Any],
) -> list[Any]:
    """The gradients that recurrence_bptt returns, but for norms, as plain torch finds them.

    Args:
        inputs: :data:`TENSORS`; by: dy, dh_n, dc_n, dc; given: cell, direction, batch_first, batch_sizes;
        needs: whether each of :data:`TENSORS`, and maybe of what follows, is wanted; options: the operator's.
    """
    _, _, w_hh = inputs[:3]
    H = w_hh.size(-2) // reference.GATES[given[0]]
    with torch.enable_grad():
        tensors = [_its_own(t) if needed else t for t, needed in zip(inputs, needs, strict=False)]
        # Zeros, whose gradients are those of what they are added to.
        like = inputs[0].new_zeros
        lead = inputs[0].shape[: -1 if inputs[1] is not None else -2]
        G = w_hh.size(0) if w_hh.dim() == 3 else 1
        more = [*needs[GATES:], False, False][:2]
        added = differentiable(like((*lead, G, w_hh.size(-2)))) if more[0] else None
        inner = differentiable(like((*lead, G, H))) if more[1] and given[0] == "gru" else None
        options = {name: value for name, value in options.items() if name not in ON_GPU}
        results = reference.layer(*tensors, *given, added=added, inner=inner, **options)
        of = [(r, d) for r, d in zip(results, by, strict=False) if d is not None and r.requires_grad]
        places = [*zip(tensors, needs, strict=False), (added, added is not None), (inner, inner is not None)]
        found = iter(_gradients_of(of, [t for t, needed in places if needed], create_graph))
    return [next(found) if needed else None for _, needed in places]


def _recurrence_kernel(
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
    stretches: Tensor | None = None,
    seed: Tensor | None = None,
    *,
    noise: Rates | None = None,
    clip: float | None = None,
    precision: str | None = None,
    beside: int = 0,
) -> list[Tensor]:
    on_gpu = dict(precision=precision, beside=beside)
    options = dict(stretches=stretches, seed=seed, noise=noise, clip=clip)
    tensors, layout = (input, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0), (cell, direction, batch_first, batch_sizes)
    if in_forward_mode(tensors):
        if saves:
            raise RuntimeError("saves: got True in forward-mode differentiation, which has no use for it")
        return list(reference.layer(*tensors, *layout, **options)[: results_of(cell)])
    if is_recorded(*tensors):
        return list(apply(Recurrence, *tensors, *layout, saves, {**options, **on_gpu}, None))
    with below_autograd():
        return op(*tensors, *layout, saves, **options, **on_gpu)


def _bptt_kernel(*args: Any, **options: Any) -> list[Tensor]:
    by, inputs, given, needs = args[:4], args[4:12], args[14:18], args[18]
    # Left out where they are None.
    options |= zip(("stretches", "seed"), args[19:], strict=False)
    if in_forward_mode(args):
        each = [bool(needs & 1 << i) for i in range(NORMS)]
        gradients = by_reference(list(inputs), by, given, each, torch.is_grad_enabled(), options)
        for i in (4, 5):
            if gradients[i] is not None:
                gradients[i] = gradients[i].view(_bias_shape(inputs[2], gradients[i]))
        return [args[12].new_empty(0) if g is None else g for g in [*gradients, None]]
    if is_recorded(*args[:12]):
        return list(apply(Bptt, *args[:19], options))
    with below_autograd():
        return op_bptt(*args[:19], **options)


# torch's own, whose derivatives no Python slows.
_CELLS = {"elman_tanh": torch._VF.rnn_tanh_cell, "elman_relu": torch._VF.rnn_relu_cell, "gru": torch._VF.gru_cell}


def plain_cell(
    input: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    cell: str,
) -> Any:
    """The operator ``cell`` by torch's operators."""
    weights = (w_ih, w_hh, b_ih, b_hh)
    return torch._VF.lstm_cell(input, (h, c), *weights) if cell == "lstm" else [_CELLS[cell](input, h, *weights)]


def _cell_kernel(*args: Any) -> list[Tensor]:
    if transformed():  # which have no rules for all of torch's cells
        input, w_ih, w_hh, b_ih, b_hh, h, c, name = args
        h0, c0 = [None if s is None else s.unsqueeze(0) for s in (h, c)]
        _, *states = op(input.unsqueeze(0), w_ih, w_hh, None, b_ih, b_hh, h0, c0, name)
        return [s.squeeze(0) for s in states]
    if in_forward_mode(args) or is_recorded(*args[:7]):
        return list(plain_cell(*args))
    with below_autograd():
        return op_cell(*args)


def _rows_at_kernel(rows: Tensor, index: Tensor, inverse: Tensor, lead: Sequence[int]) -> Tensor:
    if in_forward_mode((rows,)):
        return reference.rows_at(rows, index, lead)
    if is_recorded(rows):
        return apply(RowsAt, rows, index, inverse, lead)
    with below_autograd():
        return op_rows_at(rows, index, inverse, lead)


def register() -> torch.library.Library:
    """For all operators that have derivatives; for as long as what is returned is kept."""
    library = torch.library.Library("rnnfast", "IMPL")
    kernels = {
        "recurrence": _recurrence_kernel,
        "recurrence_bptt": _bptt_kernel,
        "cell": _cell_kernel,
        "rows_at": _rows_at_kernel,
    }
    for name, kernel in kernels.items():
        # Dynamo, which sees the operators, would look into these when it runs what it compiled.
        library.impl(name, hidden_from_dynamo(kernel), "Autograd")
    return library
