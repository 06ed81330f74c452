"""ONNX: what layers become in a model that ``torch.onnx.export`` writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import _library
from ._program import needs

# ONNX's operator, its activations, and the order of its gates in terms of torch's: i o f g for i f g o, z r n for
# r z n (https://onnx.ai/onnx/operators/onnx__LSTM.html and onnx__GRU.html).
CELLS: dict[str, tuple[str, list[str], list[int]]] = {
    "elman_tanh": ("RNN", ["Tanh"], [0]),
    "elman_relu": ("RNN", ["Relu"], [0]),
    "lstm": ("LSTM", ["Sigmoid", "Tanh", "Tanh"], [0, 3, 1, 2]),
    "gru": ("GRU", ["Sigmoid", "Tanh"], [1, 0, 2]),
}
DIRECTIONS = ["forward", "reverse", "bidirectional"]


def translation_table() -> dict[Any, Callable[..., Any]]:
    """What ``torch.onnx.export(..., dynamo=True)`` needs to know of rnnfast's operators.

    A layer becomes one ONNX ``RNN``, ``LSTM`` or ``GRU`` node for each of its layers, with both directions; the
    axes of time and batch may be dynamic.

    Returns:
        For the argument ``custom_translation_table`` of :func:`torch.onnx.export`.

    Raises:
        ModuleNotFoundError: without the extra ``rnnfast[onnx]``.
        RuntimeError: where no kernels are built.
        NotImplementedError: in the export, for what ONNX's operators do not have: LSTMs with a projection or layer
            normalisation, packed sequences, noise.

    Example:
        >>> T, B = torch.export.Dim("T"), torch.export.Dim("B")
        >>> program = torch.onnx.export(
        ...     rnnfast.LSTM(10, 20).eval(),
        ...     (torch.randn(5, 3, 10),),
        ...     dynamo=True,
        ...     dynamic_shapes=({0: T, 1: B},),
        ...     custom_translation_table=rnnfast.onnx.translation_table(),
        ... )
        >>> program.save("lstm.onnx")
    """
    needs("onnxscript", "onnx")
    if _library.ISA is None:
        raise RuntimeError(f"translation_table: got no compiled library. {_library.HOW_TO_BUILD}")
    return {torch.ops.rnnfast.recurrence.default: _recurrence}


def _recurrence(
    input: Any,
    w_ih: Any,
    w_hh: Any,
    w_hr: Any,
    b_ih: Any,
    b_hh: Any,
    h0: Any,
    c0: Any,
    cell: str,
    direction: int = 0,
    batch_first: bool = False,
    batch_sizes: Any = None,
    saves: bool = False,
    stretches: Any = None,
    seed: Any = None,
    noise: Any = None,
    clip: float | None = None,
    precision: str | None = None,
    beside: int = 0,
) -> Any:
    """y, h_n, of an LSTM c_n: see ``csrc/ops.cpp``."""
    from onnxscript import opset18 as op

    refused = {
        "layer_norm": cell == "layer_norm_lstm",
        "w_hr": w_hr is not None,
        "batch_sizes": batch_sizes is not None or stretches is not None,
        "w_ih": w_ih is None,
        "saves": saves,
        "noise": noise is not None,
    }
    if any(refused.values()):
        name = next(name for name, is_so in refused.items() if is_so)
        raise NotImplementedError(
            {
                "w_hr": "w_hr: got an LSTM with a projection, which ONNX's LSTM does not have",
                "batch_sizes": "batch_sizes: got a packed sequence, expected a padded one for ONNX",
                "w_ih": "w_ih: got a recurrence over projected inputs, expected a layer for ONNX",
                "layer_norm": "layer_norm: got a layer-normalised LSTM, which ONNX's LSTM is not",
                "noise": "noise: got recurrent dropout or zoneout, which ONNX's layers do not have",
                "saves": "saves: got every step's cell state, which ONNX's LSTM does not return",
            }[name]
        )
    name, activations, order = CELLS[cell]
    G = 2 if direction == 2 else 1

    def by_gates(w: Any, columns: int) -> Any:
        """(G K, columns) and so on as (G, K, columns), gates in ONNX's order."""
        w = op.Reshape(w, op.Constant(value_ints=[G, len(order), -1, columns]))
        w = op.Gather(w, op.Constant(value_ints=order), axis=1) if len(order) > 1 else w
        return op.Reshape(w, op.Constant(value_ints=[G, -1, columns]))

    H = w_hh.shape[-1]
    bias = None
    if b_ih is not None or b_hh is not None:
        given = [b if b is not None else op.Mul(other, 0.0) for b, other in ((b_ih, b_hh), (b_hh, b_ih))]
        bias = op.Concat(*(op.Squeeze(by_gates(b, 1), op.Constant(value_ints=[2])) for b in given), axis=1)
    x = op.Transpose(input, perm=[1, 0, 2]) if batch_first else input
    weights = (by_gates(w_ih, w_ih.shape[-1]), by_gates(w_hh, H), bias)
    options = dict(activations=activations * G, direction=DIRECTIONS[direction], hidden_size=H)
    if name == "LSTM":
        y, *states = op.LSTM(x, *weights, None, h0, c0, **options)
    elif name == "GRU":
        y, *states = op.GRU(x, *weights, None, h0, linear_before_reset=1, **options)
    else:
        y, *states = op.RNN(x, *weights, None, h0, **options)
    # (T, G, B, H) to (T, B, G H) or (B, T, G H).
    y = op.Transpose(y, perm=[2, 0, 1, 3] if batch_first else [0, 2, 1, 3])
    return [op.Reshape(y, op.Constant(value_ints=[0, 0, G * H])), *states]


__all__ = ["translation_table"]
