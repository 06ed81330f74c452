"""Drop-in recurrent layers for PyTorch, faster than torch.nn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import functional, reference
from ._library import CudaLimits, build_info, forced_plan, plan
from ._version import __version__
from .convert import convert, revert
from .modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .quantized import quantize_weights
from .truncated import tbptt

if TYPE_CHECKING:
    from . import export, initialization, lab, models, onnx

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "CudaLimits",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "__version__",
    "build_info",
    "convert",
    "export",
    "forced_plan",
    "functional",
    "initialization",
    "lab",
    "models",
    "onnx",
    "plan",
    "quantize_weights",
    "reference",
    "revert",
    "tbptt",
]


def __getattr__(name: str) -> Any:
    """What stands on the layers is imported when it is asked for."""
    if name in ("export", "initialization", "lab", "models", "onnx"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
