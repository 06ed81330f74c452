"""The recurrences as differentiable functions."""

from __future__ import annotations

from torch import Tensor

from . import ops

DIRECTIONS = {"forward": 0, "reverse": 1, "bidirectional": 2}


def elman(
    gates: Tensor,
    w_hh: Tensor,
    bias: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    direction: str = "forward",
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The recurrence of an Elman RNN over inputs that are projected already.

    .. math::
        h_t = f(gates_t + bias + W_{hh} h_{t-1}), \qquad gates_t = W_{ih} x_t + b_{ih}

    (Elman, "Finding structure in time", Cognitive Science 14, 1990; in the form of :class:`torch.nn.RNN`).
    T steps, B rows of the batch, H units, G groups: independent recurrences that run side by side, for
    instance the two directions of a bidirectional layer.

    Args:
        gates: (T, B, G, H); (B, T, G, H) with `batch_first`; (N, G, H) with `batch_sizes`.
            float32, float64, bfloat16 or float16; 16-bit sums are formed in float32.
        w_hh: (G, H, H), of the dtype and device of `gates`, as all others.
        bias: (G, H) or None.
        h0: initial state (G, B, H); None stands for zeros and is faster.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        direction: ``"forward"``, ``"reverse"`` (from the last step to the first), or ``"bidirectional"``
            (odd groups in reverse).
        batch_first: whether the batch is the first axis of padded arrays.
        batch_sizes: (T,) int64 on the CPU, active rows of each step, for packed arrays
            (:class:`torch.nn.utils.rnn.PackedSequence`).

    The group axis may be left out of all arguments where G is 1; it is then missing from the results too.

    Returns:
        All states, in the layout of `gates`, and each row's last one in order of processing, (G, B, H).
        Both are differentiable, any number of times (beyond the first by plain torch, step by step).

    Raises:
        ValueError: for an unknown `nonlinearity` or `direction`.
        RuntimeError: if shapes, dtypes or devices do not fit; the message names the argument.

    Example:
        >>> x, w_ih, w_hh = torch.randn(100, 8, 32), torch.randn(64, 32), torch.randn(64, 64) / 8
        >>> y, h_n = rnnfast.functional.elman(x @ w_ih.T, w_hh)
        >>> y.shape, h_n.shape
        (torch.Size([100, 8, 64]), torch.Size([8, 64]))
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity: got {nonlinearity!r}, expected 'tanh' or 'relu'")
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: got {direction!r}, expected one of {', '.join(map(repr, DIRECTIONS))}")
    options = (nonlinearity, DIRECTIONS[direction], batch_first, batch_sizes)
    if w_hh.dim() != 2:
        return ops.elman(gates, w_hh, bias, h0, *options)
    if direction == "bidirectional":
        raise ValueError("direction: got 'bidirectional' without a group axis, expected w_hh of (2, H, H)")
    y, h_n = ops.elman(
        gates.unsqueeze(-2),
        w_hh.unsqueeze(0),
        None if bias is None else bias.unsqueeze(0),
        None if h0 is None else h0.unsqueeze(0),
        *options,
    )
    return y.squeeze(-2), h_n.squeeze(0)


__all__ = ["elman"]
