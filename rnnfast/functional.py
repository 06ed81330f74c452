"""The recurrences as differentiable functions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import ops
from .reference import GATES
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
        h_t = f(gates_t + W_{hh} h_{t-1} + bias), \qquad gates_t = W_{ih} x_t + b_{ih}

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
    return _run(f"elman_{nonlinearity}", gates, w_hh, None, bias, h0, None, direction, batch_first, batch_sizes)


def lstm(
    gates: Tensor,
    w_hh: Tensor,
    bias: Tensor | None = None,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    *,
    w_hr: Tensor | None = None,
    direction: str = "forward",
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""The recurrence of an LSTM over inputs that are projected already; every step's h and c are results.

    .. math::
        i, f, o = \sigma(gates_t + W_{hh} h_{t-1} + bias), \quad g = \tanh(\text{likewise}), \quad
        c_t = f c_{t-1} + i g, \quad h_t = W_{hr}\, o \tanh(c_t)

    with gates in the order i f g o, and without :math:`W_{hr}` unless it is given (Hochreiter and Schmidhuber,
    "Long short-term memory", Neural Computation 9, 1997; Gers, Schmidhuber and Cummins 2000; Sak, Senior and
    Beaufays 2014; in the form of :class:`torch.nn.LSTM`).

    Args:
        gates: (T, B, G, 4 H), W_ih x + b_ih; for other layouts and dtypes see :func:`elman`.
        w_hh: (G, 4 H, P), where P is H without `w_hr`.
        bias: (G, 4 H) or None.
        h0, c0: initial states (G, B, P) and (G, B, H), or None for zeros.
        w_hr: (G, P, H) or None: a projection of the state to P units.
        direction, batch_first, batch_sizes, and leaving out the group axis: as in :func:`elman`.

    Returns:
        All h (T, B, G, P) and all c (T, B, G, H) in the layout of `gates`, then each row's last h (G, B, P) and
        c (G, B, H). All four are differentiable. c is carried in float32 where the dtype has 16 bits, and
        rounded to it as a result.

    Raises:
        ValueError: for an unknown `direction`.
        RuntimeError: as :func:`elman`.

    Example:
        >>> x, w_ih, w_hh = torch.randn(100, 8, 32), torch.randn(256, 32), torch.randn(256, 64) / 8
        >>> h, c, h_n, c_n = rnnfast.functional.lstm(x @ w_ih.T, w_hh)
        >>> c.shape, c_n.shape
        (torch.Size([100, 8, 64]), torch.Size([8, 64]))
    """
    options = (direction, batch_first, batch_sizes)
    h, h_n, c_n, c = _run("lstm", gates, w_hh, w_hr, bias, h0, c0, *options)
    return h, c, h_n, c_n


def gru(
    gates: Tensor,
    w_hh: Tensor,
    bias: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    direction: str = "forward",
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The recurrence of a GRU over inputs that are projected already.

    .. math::
        a = W_{hh} h_{t-1} + bias, \quad r, z = \sigma(gates_{t} + a), \quad
        n = \tanh(gates_{t,n} + r a_n), \quad h_t = (1 - z) n + z h_{t-1}

    with gates in the order r z n (Cho et al., "Learning phrase representations using RNN encoder-decoder",
    arXiv:1406.1078; in the form of :class:`torch.nn.GRU`, whose reset gate multiplies :math:`a_n`).

    Args:
        gates: (T, B, G, 3 H), W_ih x + b_ih; for other layouts and dtypes see :func:`elman`.
        w_hh: (G, 3 H, H).
        bias: b_hh, (G, 3 H) or None.
        h0, direction, batch_first, batch_sizes, and leaving out the group axis: as in :func:`elman`.

    Returns:
        All states, in the layout of `gates`, and each row's last one in order of processing, (G, B, H).

    Raises:
        ValueError: for an unknown `direction`.
        RuntimeError: as :func:`elman`.

    Example:
        >>> x, w_ih, w_hh = torch.randn(100, 8, 32), torch.randn(192, 32), torch.randn(192, 64) / 8
        >>> y, h_n = rnnfast.functional.gru(x @ w_ih.T, w_hh)
        >>> y.shape, h_n.shape
        (torch.Size([100, 8, 64]), torch.Size([8, 64]))
    """
    return _run("gru", gates, w_hh, None, bias, h0, None, direction, batch_first, batch_sizes)


def _run(
    cell: str,
    gates: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    direction: str,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> Any:
    """Any of them, once its arguments are found to fit: what :func:`rnnfast.ops.recurrence` returns."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: got {direction!r}, expected one of {', '.join(map(repr, DIRECTIONS))}")
    _check(GATES[cell], gates, w_hh, w_hr, bias, h0, c0, batch_first, batch_sizes)
    options = (cell, DIRECTIONS[direction], batch_first, batch_sizes, cell == "lstm")
    if w_hh.dim() == 3:
        return ops.recurrence(gates, None, w_hh, w_hr, None, bias, h0, c0, *options)
    if direction == "bidirectional":
        raise ValueError("direction: got 'bidirectional' without a group axis, expected w_hh of (2, K, H)")
    h0, c0 = [None if s is None else s.unsqueeze(0) for s in (h0, c0)]
    results = ops.recurrence(gates.unsqueeze(-2), None, w_hh, w_hr, None, bias, h0, c0, *options)
    y, *last = results[:3]
    return [y.squeeze(-2), *(s.squeeze(0) for s in last), *(s.squeeze(-2) for s in results[3:])]


def _check(
    n: int,
    gates: Tensor,
    w_hh: Tensor,
    w_hr: Tensor | None,
    bias: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    batch_first: bool,
    batch_sizes: Tensor | None,
) -> None:
    """Every argument against the shapes that follow from w_hh's, with n gates, told in the caller's own axes."""
    rows = "H" if n == 1 else f"{n} H"
    K, P = w_hh.shape[-2:] if w_hh.dim() in (2, 3) else (0, 0)
    if w_hh.dim() not in (2, 3) or K % n != 0 or (w_hr is None and n * P != K):
        columns = "H" if w_hr is None else "P"
        raise RuntimeError(
            f"w_hh: got shape {tuple(w_hh.shape)}, expected ({rows}, {columns}) or (G, {rows}, {columns})"
        )
    groups, H = list(w_hh.shape[:-2]), K // n
    lead = "N" if batch_sizes is not None else "B, T" if batch_first else "T, B"
    rank = lead.count(",") + 1 + len(groups) + 1
    if gates.dim() != rank or list(gates.shape[-1 - len(groups) :]) != [*groups, K]:
        expected = ", ".join([lead, *map(str, [*groups, K])])
        raise RuntimeError(f"gates: got shape {tuple(gates.shape)}, expected ({expected}) to go with w_hh")
    if Layout(batch_first, batch_sizes).steps_in(gates) == 0:
        raise RuntimeError("gates: got a sequence of 0 steps, expected at least 1")
    batch = int(batch_sizes[0]) if batch_sizes is not None else gates.size(0 if batch_first else 1)
    expected_shapes = {
        "w_hr": (w_hr, (*groups, P, H)),
        "bias": (bias, (*groups, K)),
        "h0": (h0, (*groups, batch, P)),
        "c0": (c0, (*groups, batch, H)),
    }
    for name, (given, shape) in expected_shapes.items():
        if given is not None and tuple(given.shape) != shape:
            raise RuntimeError(f"{name}: got shape {tuple(given.shape)}, expected {shape}")
    for name, (given, _) in {"w_hh": (w_hh, ()), **expected_shapes}.items():
        if given is not None and (given.dtype != gates.dtype or given.device != gates.device):
            raise RuntimeError(
                f"{name}: got {given.dtype} on {given.device}, expected {gates.dtype} on {gates.device}, as gates"
            )


__all__ = ["elman", "gru", "lstm"]
