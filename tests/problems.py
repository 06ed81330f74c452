"""Random recurrences, and how closely results must agree."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rnnfast import reference

# Relative to the largest value; a 16-bit state is rounded once at each step.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}


@dataclass(frozen=True)
class Problem:
    """Arguments of the operators ``elman`` and ``elman_bptt``."""

    gates: Tensor
    w_hh: Tensor
    bias: Tensor | None
    h0: Tensor | None
    options: tuple[Any, ...]  # nonlinearity, direction, batch_first, batch_sizes
    dy: Tensor | None = None
    dh_n: Tensor | None = None

    def to(self, dtype):
        tensors = {name: value.to(dtype) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def forward(self, op):
        return op(self.gates, self.w_hh, self.bias, self.h0, *self.options)

    def bptt(self, op, y):
        return op(self.dy, self.dh_n, y, self.w_hh, *self.options)


def draw(
    T,
    B,
    H,
    G=1,
    dtype=torch.float64,
    *,
    nonlinearity="tanh",
    direction=0,
    layout="time",
    given=("bias", "h0", "dy", "dh_n"),
):
    """A random problem in layout "time", "batch" or "packed", with the optional arguments `given`.

    Values are drawn in `dtype`, so that its float64 copy is exact; w_hh does not expand, so that rounding errors
    do not grow from step to step.
    """
    batch_sizes = random_batch_sizes(T, B) if layout == "packed" else None
    shape = {"time": (T, B, G, H), "batch": (B, T, G, H)}.get(layout)
    if shape is None:
        shape = (int(batch_sizes.sum()), G, H)

    def some(name, *size):
        wanted = name == "gates" or name in given
        return torch.randn(size, dtype=torch.float64).to(dtype) if wanted else None

    w_hh = torch.randn(G, H, H, dtype=torch.float64) / H**0.5
    w_hh /= torch.linalg.matrix_norm(w_hh, 2, keepdim=True).clamp_min(1)
    return Problem(
        gates=some("gates", *shape),
        w_hh=w_hh.to(dtype),
        bias=some("bias", G, H),
        h0=some("h0", G, B, H),
        options=(nonlinearity, direction, layout == "batch", batch_sizes),
        dy=some("dy", *shape),
        dh_n=some("dh_n", G, B, H),
    )


def random_batch_sizes(T, B):
    """Active rows of each step of B sequences, the longest of T steps."""
    lengths = torch.cat([torch.tensor([T]), torch.randint(1, T + 1, (B - 1,))])
    return (lengths.unsqueeze(0) > torch.arange(T).unsqueeze(1)).sum(1)


def assert_close(actual, expected, tolerance=None, what="result", scale_of=None):
    """Compares with float64 values, relative to the largest of them or of `scale_of`.

    NaN and Inf must stand in the same places.
    """
    tolerance = tolerance or TOLERANCE[actual.dtype]
    actual, expected = actual.detach().double(), expected.detach().double()
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if actual.numel() == 0:
        return
    scale_of = expected if scale_of is None else scale_of
    finite = torch.isfinite(scale_of)
    scale = scale_of[finite].abs().max().clamp_min(1e-3) if finite.any() else torch.ones(())
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=tolerance * float(scale), equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


def check_against_oracle(problem):
    """Forward and BPTT operators against the reference in float64."""
    op = torch.ops.rnnfast
    exact = problem.to(torch.float64)
    y, h_n = problem.forward(op.elman)
    y64, h_n64 = exact.forward(reference.elman)
    assert_close(y, y64, what="y")
    assert_close(h_n, h_n64, what="h_n", scale_of=y64)
    # BPTT from the same states, so that a relu at its kink cannot differ.
    assert_close(problem.bptt(op.elman_bptt, y), exact.bptt(reference.elman_bptt, y.double()), what="dgates")
