"""Layers and cells, differentiable, by the fastest way that serves.

The operators are defined in ``csrc/ops.cpp``, which gives their shapes: ``torch.ops.rnnfast.recurrence`` is a
layer of any cell, with or without the projection of its input, and ``recurrence_bptt`` all its gradients.

Of the mechanisms that torch has for derivatives, this is the one that serves everything: kernels at the
dispatcher's Autograd key (``_autograd.py``), batching rules (``_batching.py``) and fake kernels (``_fakes.py``),
all registered for the operators themselves. torch.compile, torch.export, TorchScript and torch.func then see a
single operator and need not look inside. ``torch.library.register_autograd`` would be the same, but does not work
under torch.func.grad; a :class:`~torch.autograd.Function` with ``setup_context``, ``vmap`` and ``jvp`` is traced
by Dynamo from the inside, which refuses ``jvp``, and is lost in an exported program. Eager calls, which need none
of this, go past the dispatcher's detour through Python: to the same Function, or below autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from . import _autograd, _library, reference, sequences
from ._noise import Rates
from ._torch import (
    apply,
    below_autograd,
    forward_mode_is_on,
    hidden_from_dynamo,
    in_forward_mode,
    is_compiling,
    is_traced_by_jit,
    transformed,
    without_autocast,
)
from .sequences import Stretches


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
    note: Callable[[Tensor], None] | None = None,
    every: int | None = None,
    stretches: Tensor | None = None,
    noise: Rates | None = None,
    seed: Tensor | None = None,
    beside: int = 0,
) -> Any:
    """A layer of any cell, differentiable.

    Args: as in ``csrc/ops.cpp``; states: whether an LSTM's c of every step is wanted; note: called by the backward
        pass with the norms of dL/dh_t, (T, B, G) and so on (not under torch.func's transforms); every: steps of a
        chunk whose beginning alone is kept for the backward pass (not when compiled or transformed, nor with
        `states`), None: all is kept; stretches: see :func:`takes_stretches`.

    Returns:
        y and h_n; of an LSTM also c_n, and with `states` all c, (T, B, G, H) and so on.
    """
    args = (input, w_ih, w_hh, w_hr, b_ih, b_hh, h0, c0, cell, direction, batch_first, batch_sizes)
    if not _library.serves(input) or in_forward_mode(args):
        norms = None if note is None or transformed() else _room_for_norms(input, w_ih, w_hh)
        if note is not None and norms is not None:
            note(norms)  # the backward pass fills it
        return _by_reference(args, states, norms, stretches, noise, seed, clip)
    precision = _library.precision(input.device, input.dtype) if input.is_cuda else None
    options: dict[str, Any] = {}
    if not (clip is None and precision is None and stretches is None and noise is None and beside == 0):
        options = dict(stretches=stretches, seed=seed, noise=noise, clip=clip, precision=precision, beside=beside)
    recorded = torch.is_grad_enabled() and _autograd.is_recorded(w_hh, input, w_ih, b_ih, b_hh, h0, c0, w_hr)
    if not is_dynamo_compiling() and transformed():
        # Samples are rows to the operators, but have the same noise, or seeds of their own.
        if seed is not None or cell == "layer_norm_lstm":
            return _by_reference(args, states, None, stretches, noise, seed, clip)
        results = _in_given_dtypes(*args, states, **options)
    elif is_compiling() or (recorded and is_traced_by_jit() is not None):
        if note is not None and torch.compiler.is_compiling():
            results = _apply_outside_graph(*args, states, options, note)
        else:
            results = _autograd.op(*args, states, **options)
    elif recorded and every is not None and not states and input.numel() > 0:
        results = apply(_checkpoint.Checkpointed, *args, options, note, every)
    elif recorded:
        results = apply(_autograd.Recurrence, *args, states, options, note)
    else:
        with below_autograd():
            results = _autograd.op(*args, states, **options)
    return [*results[:3], results[4]] if states else results


def _by_reference(
    args: Any, states: bool, norms: Any, stretches: Any, noise: Any, seed: Any, clip: float | None
) -> tuple[Tensor, ...]:
    """In plain torch."""
    options: dict[str, Any] = dict(clip=clip, norms=norms, stretches=stretches, noise=noise, seed=seed)
    return reference.layer(*args, **options)[: _autograd.results_of(args[8]) + states]


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
    recorded = torch.is_grad_enabled() and _autograd.is_recorded(*args)
    traced = is_traced_by_jit() is not None or (not is_dynamo_compiling() and transformed())
    if (recorded and not traced) or not _library.serves(input) or in_forward_mode(args):
        return _autograd.plain_cell(*args, cell)
    if traced or is_compiling():
        return _autograd.op_cell(*args, cell)
    with below_autograd():
        return _autograd.op_cell(*args, cell)


def rows_at(rows: Tensor, index: Tensor, inverse: Tensor, lead: tuple[int, ...]) -> Tensor:
    """The rows of an array (..., W) at `index`, zeros for -1, as (*lead, W); differentiable.

    Args: as in ``csrc/ops.cpp``; the device of `index` and `inverse` is that of `rows`.
    """
    if not (rows.is_cpu and _library.serves(rows)) or in_forward_mode((rows,)):
        return reference.rows_at(rows, index, lead)
    if is_dynamo_compiling() or transformed() or is_compiling() or is_traced_by_jit() is not None:
        return _autograd.op_rows_at(rows, index, inverse, lead)
    if torch.is_grad_enabled() and rows.requires_grad:
        return apply(_autograd.RowsAt, rows, index, inverse, lead)
    with below_autograd():
        return _autograd.op_rows_at(rows, index, inverse, lead)


def stretches(
    lengths: Tensor | None, reset: Tensor | None, steps: int, rows: int, batch_first: bool, packs: bool
) -> Stretches:
    """A padded batch cut into stretches; see ``csrc/ops.cpp``."""
    if _library.ISA is None:
        return sequences.stretches(lengths, reset, steps, rows, batch_first)
    return Stretches(*torch.ops.rnnfast.stretches(lengths, reset, steps, rows, batch_first, packs))


def takes_stretches(input: Tensor) -> bool:
    """Whether :func:`recurrence` takes a padded batch with stretches as they are: on the CPU, called eagerly.

    Elsewhere they are packed.
    """
    return (
        input.is_cpu
        and _library.serves(input)
        and not (is_compiling() or transformed() or is_traced_by_jit() is not None)
        and not forward_mode_is_on()
    )


def _room_for_norms(input: Tensor, w_ih: Tensor | None, w_hh: Tensor) -> Tensor:
    groups = w_hh.size(0) if w_hh.dim() == 3 else 1
    lead = input.shape[:-1] if w_ih is not None else input.shape[:-2]
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    return torch.full((*lead, groups), torch.nan, dtype=dtype, device=input.device)


@without_autocast  # whose state is what torch.func's transforms restore: too late in what they call
def _in_given_dtypes(*args: Any, **options: Any) -> Any:
    return _autograd.op(*args, **options)


@hidden_from_dynamo
def _apply_outside_graph(*args: Any) -> Any:
    return apply(_autograd.Recurrence, *args)


if _library.ISA is not None:
    from . import _batching, _checkpoint, _fakes

    _fakes.register()
    _batching.register()
    _registered = _autograd.register()
