"""The recurrences as differentiable functions."""

from __future__ import annotations

from torch import Tensor

from . import ops
from .sequences import Layout

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
        h0: initial state (G, B, H); None stands for zeros and is faster: the first step then has no matrix
            product, so it does not read w_hh.
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
        RuntimeError: if shapes, dtypes or devices do not fit, or there is no step; the message names the
            argument.

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
    _check(gates, w_hh, bias, h0, batch_first, batch_sizes)
    if w_hh.dim() == 3:
        return ops.elman(gates, None, w_hh, bias, None, h0, *options)
    if direction == "bidirectional":
        raise ValueError("direction: got 'bidirectional' without a group axis, expected w_hh of (2, H, H)")
    h0 = None if h0 is None else h0.unsqueeze(0)
    y, h_n = ops.elman(gates.unsqueeze(-2), None, w_hh, bias, None, h0, *options)
    return y.squeeze(-2), h_n.squeeze(0)


def _check(
    gates: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    h0: Tensor | None,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> None:
    """Every argument against the shapes that follow from w_hh's, told in the caller's own axes."""
    if w_hh.dim() not in (2, 3) or w_hh.size(-1) != w_hh.size(-2):
        raise RuntimeError(f"w_hh: got shape {tuple(w_hh.shape)}, expected (H, H) or (G, H, H)")
    *groups, H, _ = w_hh.shape
    lead = "N" if batch_sizes is not None else "B, T" if batch_first else "T, B"
    rank = lead.count(",") + 1 + len(groups) + 1
    if gates.dim() != rank or list(gates.shape[-1 - len(groups) :]) != [*groups, H]:
        expected = ", ".join([lead, *map(str, [*groups, H])])
        raise RuntimeError(f"gates: got shape {tuple(gates.shape)}, expected ({expected}) to go with w_hh")
    if Layout(batch_first, batch_sizes).steps_in(gates) == 0:
        raise RuntimeError("gates: got a sequence of 0 steps, expected at least 1")
    batch = int(batch_sizes[0]) if batch_sizes is not None else gates.size(0 if batch_first else 1)
    for name, given, shape in (("bias", bias, (*groups, H)), ("h0", h0, (*groups, batch, H))):
        if given is not None and tuple(given.shape) != shape:
            raise RuntimeError(f"{name}: got shape {tuple(given.shape)}, expected {shape}")
    for name, given in (("w_hh", w_hh), ("bias", bias), ("h0", h0)):
        if given is not None and (given.dtype != gates.dtype or given.device != gates.device):
            raise RuntimeError(
                f"{name}: got {given.dtype} on {given.device}, expected {gates.dtype} on {gates.device}, as gates"
            )


__all__ = ["elman"]
