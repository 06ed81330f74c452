"""What the operators return for tensors without values: shapes, for tracing and for the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .reference import GATES, HAVE_C


def _groups(w: Tensor) -> int:
    return w.size(0) if w.dim() == 3 else 1


def _rows_of_batch(input: Tensor, h0: Tensor | None, batch_first: bool, batch_sizes: Tensor | None) -> Any:
    if h0 is not None:
        return h0.size(1)
    if batch_sizes is not None:  # as many as the first step has: a value, which only a meta tensor's companion has
        return int(batch_sizes[0]) if type(batch_sizes) is Tensor else torch.library.get_ctx().new_dynamic_size()
    return input.size(0 if batch_first else 1)


def _recurrence(
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
    noise: Sequence[float] | None = None,
    **options: Any,
) -> list[Tensor]:
    G, (K, P) = _groups(w_hh), w_hh.shape[-2:]
    lead = input.shape[:-1] if w_ih is not None else input.shape[:-2]
    H = K // GATES[cell]
    B = _rows_of_batch(input, h0, batch_first, batch_sizes) if stretches is None else stretches.size(1)
    shapes = [(*lead, G * P) if w_ih is not None else (*lead, G, P), (G, B, P)]
    if cell in HAVE_C:
        shapes += [(G, B, H)] + [(*lead, G, K), (*lead, G, H)] * saves
    elif cell == "gru" or any((noise or ())[seed is None :]):  # without a seed nothing is dropped
        shapes += [(*lead, G, K)] * saves
    if saves and (cell in ("gru", "layer_norm_lstm") or w_hr is not None):
        shapes += [(*lead, G, H)]
    if saves and cell == "layer_norm_lstm":
        shapes += [(*lead, G, K), (*lead, G, 2)]
    return [input.new_empty(shape) for shape in shapes]


def _recurrence_int8(
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
    G, B = w_hh[0].size(0), _rows_of_batch(input, h0, batch_first, batch_sizes)
    shapes = [(*input.shape[:-1], G * P), (G, B, P), *([(G, B, H)] if cell == "lstm" else [])]
    return [input.new_empty(shape) for shape in shapes]


def _recurrence_bptt(
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
    stretches: Tensor | None = None,
    seed: Tensor | None = None,
    **options: Any,
) -> list[Tensor]:
    G, (K, P) = _groups(w_hh), w_hh.shape[-2:]
    H = K // GATES[cell]
    B = 0
    if needs & 192:
        B = _rows_of_batch(y, h0, batch_first, batch_sizes) if stretches is None else stretches.size(1)
    lead = y.shape[:-1] if w_ih is not None else y.shape[:-2]
    gates, norm = (*lead, G, K), cell == "layer_norm_lstm"
    vector = K + 2 * H if norm else K
    bias = (vector,) if G == 1 else (G, vector)
    given = [None if w is None else w.shape for w in (w_ih, w_hh, w_hr)]
    shapes = [gates if w_ih is None or input is None else input.shape, *given, bias, bias, (G, B, P)]
    inner = gates if norm else (*lead, G, H) if cell == "gru" else None
    shapes += [(G, B, H) if cell in HAVE_C else None, gates, inner, gates[:-1]]
    norms = torch.float64 if y.dtype == torch.float64 else torch.float32
    dtypes = [y.dtype] * (len(shapes) - 1) + [norms]
    return [
        y.new_empty(shape, dtype=dtype) if shape is not None and needs & 1 << i else y.new_empty(0)
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    ]


def _cell(input: Tensor, w_ih: Tensor, w_hh: Tensor, *args: Any) -> list[Tensor]:
    state = (input.size(0), w_hh.size(1))
    return [input.new_empty(state) for _ in range(2 if args[-1] == "lstm" else 1)]


def _rows_at(rows: Tensor, index: Tensor, inverse: Tensor, lead: Sequence[int]) -> Tensor:
    return rows.new_empty(*lead, rows.size(-1))


def _stretches(
    lengths: Tensor | None, reset: Tensor | None, steps: int, rows: int, batch_first: bool, packs: bool
) -> list[Tensor]:
    T, N, S = [torch.library.get_ctx().new_dynamic_size() for _ in range(3)]  # as the values are
    places = steps * rows if packs else 0
    numbers = [torch.empty(n, dtype=torch.int64) for n in (T, N, places, (3, S))]
    flags = [torch.empty(shape, dtype=torch.bool) for shape in ((2, S), (rows,))]
    return [*numbers, flags[0], torch.empty(2, rows, dtype=torch.int64), flags[1]]


def register() -> None:
    """For all operators."""
    named = {
        "recurrence": _recurrence,
        "recurrence_bptt": _recurrence_bptt,
        "recurrence_int8": _recurrence_int8,
        "cell": _cell,
        "rows_at": _rows_at,
        "stretches": _stretches,
    }
    for name, fake in named.items():
        torch.library.register_fake(f"rnnfast::{name}", fake)
