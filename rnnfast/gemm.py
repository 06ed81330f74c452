"""Products with an input's many rows, by the faster of torch's two libraries.

torch's ``linear`` in float32 runs on MKL, which on other makers' CPUs reaches half to three quarters of the peak;
oneDNN, equally part of torch, comes near it (Zen 4, two threads, 6400 x 1024 x 1024: 95 against 188 GF/s). Small
products do not pay oneDNN's start.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Multiplications from which on oneDNN was the faster.
WORTH_ONEDNN = 5e7


def _onednn_linear(x: Tensor, w: Tensor) -> Tensor:
    """x w^T by oneDNN; the operator that torch.compile uses for it."""
    return torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")


def _has_onednn() -> bool:
    """Whether this torch has oneDNN, and the operator in the form that is known here."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        x, w = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])
        return bool(_onednn_linear(x, w).item() == 11.0)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False


HAS_ONEDNN = _has_onednn()


def _suits_onednn(x: Tensor, w: Tensor, rows: int) -> bool:
    return (
        HAS_ONEDNN
        and rows * w.size(0) * w.size(1) >= WORTH_ONEDNN
        and x.dtype == w.dtype == torch.float32
        and x.device.type == w.device.type == "cpu"
        and torch.backends.mkldnn.enabled
        and not torch.is_grad_enabled()  # the operator has no derivative
    )


def linear(x: Tensor, w: Tensor) -> Tensor:
    """x w^T for x (..., K) and w (M, K)."""
    if _suits_onednn(x, w, x.numel() // max(1, x.size(-1))):
        return _onednn_linear(x, w)
    return F.linear(x, w)


def matmul(x: Tensor, w: Tensor) -> Tensor:
    """x w for x (N, M) and w (M, K)."""
    if _suits_onednn(x, w, x.size(0)):
        return _onednn_linear(x, w.T)
    return x @ w
