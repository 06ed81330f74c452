"""What layers and cells share."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast_dtype(input: Tensor) -> torch.dtype | None:
    """The dtype that autocast asks for, or None where it is off or leaves `input` alone (float64)."""
    device = input.device.type
    if not torch._C._is_any_autocast_enabled() or not torch.is_autocast_enabled(device):
        return None
    if input.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(device)


def cast(tensor: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    """`tensor` in `dtype`, where both are given."""
    return tensor if tensor is None or dtype is None else tensor.to(dtype)
