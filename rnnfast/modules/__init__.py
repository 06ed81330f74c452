"""Drop-in recurrent modules."""

from .cells import RNNCell
from .layers import RNN

__all__ = ["RNN", "RNNCell"]
