"""Drop-in recurrent layers for PyTorch, faster than torch.nn."""

from . import functional, reference
from ._library import CudaLimits, build_info, forced_plan, plan
from ._version import __version__
from .convert import convert, revert
from .modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .quantized import quantize_weights

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
    "forced_plan",
    "functional",
    "plan",
    "quantize_weights",
    "reference",
    "revert",
]
