"""One step of a recurrence."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ._common import autocast_dtype, cast, weight


class RNNCell(torch.nn.RNNCell):
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
        if input.dim() not in (1, 2):
            raise ValueError(f"RNNCell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"RNNCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        is_batched = input.dim() == 2
        if not is_batched:
            input = input.unsqueeze(0)
            hx = None if hx is None else hx.unsqueeze(0)
        if hx is None:
            hx = input.new_zeros(input.size(0), self.hidden_size)
        self._check(input, hx)

        dtype = autocast_dtype(input)
        w_ih, w_hh = weight(self, "weight_ih"), weight(self, "weight_hh")
        b_ih, b_hh = weight(self, "bias_ih"), weight(self, "bias_hh")
        if dtype is not None:
            input, hx, w_ih, w_hh = [t.to(dtype) for t in (input, hx, w_ih, w_hh)]
            b_ih, b_hh = cast(b_ih, dtype), cast(b_hh, dtype)
        h = ops.elman_cell(input, w_ih, w_hh, b_ih, b_hh, hx, self.nonlinearity)
        return h if is_batched else h.squeeze(0)

    def _check(self, input: Tensor, hx: Tensor) -> None:
        """Raises what torch raises for the same mistake."""
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        if input.size(1) != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {input.size(1)} expected {self.input_size}"
            )
        if input.size(0) != hx.size(0):
            raise RuntimeError(f"Input batch size {input.size(0)} doesn't match hidden0 batch size {hx.size(0)}")
        if hx.size(1) != self.hidden_size:
            raise RuntimeError(
                f"hidden0 has inconsistent hidden_size: got {hx.size(1)}, expected {self.hidden_size}"
            )


__all__ = ["RNNCell"]
