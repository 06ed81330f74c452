"""One step of a recurrence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import ops
from ._common import autocast_dtype, cast, weights

_WEIGHTS = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


def _step(module: Any, cell: str, input: Tensor, states: tuple[Tensor, ...] | None) -> Any:
    """The next states of a cell, batched or not, after the checks that torch's operators make."""
    is_batched = input.dim() == 2
    if not is_batched:
        input = input.unsqueeze(0)
        states = None if states is None else tuple([s.unsqueeze(0) for s in states])
    if states is None:
        zeros = input.new_zeros(input.size(0), module.hidden_size)
        states = (zeros, zeros) if cell == "lstm" else (zeros,)
    if input.size(1) != module.input_size:
        raise RuntimeError(f"input has inconsistent input_size: got {input.size(1)} expected {module.input_size}")
    for i, state in enumerate(states):
        if input.size(0) != state.size(0):
            raise RuntimeError(
                f"Input batch size {input.size(0)} doesn't match hidden{i} batch size {state.size(0)}"
            )
        if state.size(1) != module.hidden_size:
            raise RuntimeError(
                f"hidden{i} has inconsistent hidden_size: got {state.size(1)}, expected {module.hidden_size}"
            )

    dtype = autocast_dtype(input)
    w_ih, w_hh, b_ih, b_hh = weights(module, _WEIGHTS)
    if dtype is not None:
        input, w_ih, w_hh = [t.to(dtype) for t in (input, w_ih, w_hh)]
        b_ih, b_hh, states = cast(b_ih, dtype), cast(b_hh, dtype), tuple([s.to(dtype) for s in states])
    h, c = states if cell == "lstm" else (states[0], None)
    new = ops.cell(input, w_ih, w_hh, b_ih, b_hh, h, c, cell)
    return new if is_batched else [s.squeeze(0) for s in new]


def _check_ranks(name: str, input: Tensor, hx: Tensor | None) -> None:
    if input.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
    if hx is not None and hx.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")


class _Cell:
    def __prepare_scriptable__(self) -> Any:
        """What torch.jit.script takes in place of the cell."""
        from .scripting import scriptable

        return scriptable(self)


class RNNCell(_Cell, torch.nn.RNNCell):
    r"""One step of an Elman RNN: a drop-in for :class:`torch.nn.RNNCell`.

    .. math::
        h' = f(W_{ih} x + b_{ih} + W_{hh} h + b_{hh})

    Args:
        input_size: features of the input, I.
        hidden_size: units, H.
        bias: whether there are biases.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        device, dtype: of the parameters.

    Shapes:
        * input: (B, I) or (I).
        * hx: (B, H) or (H); zero if not given.
        * result: the next state, like hx.

    Raises:
        ValueError: for an input or hx of wrong rank.
        RuntimeError: for sizes, dtypes or a nonlinearity that do not fit.

    Example:
        >>> cell = rnnfast.RNNCell(10, 20)
        >>> h = None
        >>> for x in torch.randn(6, 3, 10):
        ...     h = cell(x, h)
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state."""
        _check_ranks("RNNCell", input, hx)
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return _step(self, f"elman_{self.nonlinearity}", input, None if hx is None else (hx,))[0]


class LSTMCell(_Cell, torch.nn.LSTMCell):
    r"""One step of an LSTM: a drop-in for :class:`torch.nn.LSTMCell`. For the formulas see :class:`LSTM`.

    Args:
        input_size: features of the input, I.
        hidden_size: units, H.
        bias: whether there are biases.
        device, dtype: of the parameters.

    Shapes:
        * input: (B, I) or (I).
        * hx: a pair h, c of (B, H) or (H); zero if not given.
        * result: the next h and c, like hx.

    Raises:
        ValueError: for an input or hx of wrong rank.
        RuntimeError: for sizes or dtypes that do not fit.

    Example:
        >>> cell = rnnfast.LSTMCell(10, 20)
        >>> hx = None
        >>> for x in torch.randn(6, 3, 10):
        ...     hx = cell(x, hx)
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The next h and c."""
        _check_ranks("LSTMCell", input, None)
        for i, state in enumerate(hx or ()):
            if state.dim() not in (1, 2):
                raise ValueError(f"LSTMCell: Expected hx[{i}] to be 1D or 2D, got {state.dim()}D instead")
        h, c = _step(self, "lstm", input, hx)
        return h, c


class GRUCell(_Cell, torch.nn.GRUCell):
    r"""One step of a GRU: a drop-in for :class:`torch.nn.GRUCell`. For the formulas see :class:`GRU`.

    Args:
        input_size: features of the input, I.
        hidden_size: units, H.
        bias: whether there are biases.
        device, dtype: of the parameters.

    Shapes:
        * input: (B, I) or (I).
        * hx: (B, H) or (H); zero if not given.
        * result: the next state, like hx.

    Raises:
        ValueError: for an input or hx of wrong rank.
        RuntimeError: for sizes or dtypes that do not fit.

    Example:
        >>> cell = rnnfast.GRUCell(10, 20)
        >>> h = None
        >>> for x in torch.randn(6, 3, 10):
        ...     h = cell(x, h)
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next state."""
        _check_ranks("GRUCell", input, hx)
        return _step(self, "gru", input, None if hx is None else (hx,))[0]


__all__ = ["GRUCell", "LSTMCell", "RNNCell"]
