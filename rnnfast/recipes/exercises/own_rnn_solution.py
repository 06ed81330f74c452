"""The exercise "own RNN" solved: an Elman RNN in plain torch, one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MyRNN(nn.Module):
    r"""An Elman RNN.

    .. math::
        h_t = \tanh(W_{ih} x_t + W_{hh} h_{t-1} + b)

    Args:
        input_size: features of the input, I; hidden_size: units, H.

    Shapes:
        * x: (B, T, I); h_0: (B, H), zero if not given.
        * outputs: (B, T, H), every step's state; h_n: (B, H), the last.

    Example:
        >>> outputs, h_n = MyRNN(10, 20)(torch.randn(3, 5, 10))
        >>> outputs.shape, h_n.shape
        (torch.Size([3, 5, 20]), torch.Size([3, 20]))
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_map = nn.Linear(input_size, hidden_size)
        self.state_map = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Every step's state, and the last."""
        h = x.new_zeros(x.size(0), self.state_map.in_features) if h_0 is None else h_0
        outputs = []
        for projected in self.input_map(x).unbind(1):
            h = torch.tanh(projected + self.state_map(h))
            outputs.append(h)
        return torch.stack(outputs, 1), h


__all__ = ["MyRNN"]
