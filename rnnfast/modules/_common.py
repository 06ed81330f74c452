"""What layers and cells share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._torch import any_autocast


def autocast_dtype(input: Tensor) -> torch.dtype | None:
    """The dtype that autocast asks for, or None where it is off or leaves `input` alone (float64)."""
    if not any_autocast():
        return None
    device = input.device.type
    if not torch.is_autocast_enabled(device):
        return None
    if input.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(device)


def cast(tensor: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    """`tensor` in `dtype`, where both are given."""
    return tensor if tensor is None or dtype is None else tensor.to(dtype)


def weights(module: torch.nn.Module, names: list[str]) -> list[Any]:
    """Weights by name; see :func:`weight`."""
    own = module._parameters
    try:
        return [own[name] for name in names]
    except KeyError:
        return [weight(module, name) for name in names]


def weight(module: torch.nn.Module, name: str) -> Any:
    """A weight by name, read at each call so that parametrizations and functional calls are seen."""
    found = module._parameters.get(name)  # much quicker than getattr, which finds the others
    return getattr(module, name) if found is None else found
