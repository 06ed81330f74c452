"""A readout at every step: of a recurrence, and of the memoryless network that it is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._checks import at_least
from .backbone import State, recurrent_layer


class ReadoutRNN(nn.Module):
    r"""A stack of recurrences that is read out at every step.

    .. math::
        y_t = W_{hy} h_t + b_y

    with :math:`h_t` the last layer's state (Elman, "Finding structure in time", Cognitive Science 14, 1990).

    Args:
        input_size: features of the input, I.
        hidden_size: units, H.
        output_size: features of the output, O.
        cell, num_layers, bidirectional, dropout, layers: as in :func:`~rnnfast.models.recurrent_layer`.

    Shapes:
        * x: (B, T, I).
        * hx: (D L, B, H), of an LSTM two of them; zero if not given.
        * results: outputs (B, T, O), and h_n or (h_n, c_n) like hx.

    Raises:
        ValueError: for an unknown `cell` or `layers`, or a size below 1.

    Example:
        >>> model = ReadoutRNN(10, 32, 5, num_layers=2)
        >>> outputs, h_n = model(torch.randn(4, 20, 10))
        >>> outputs.shape, h_n.shape
        (torch.Size([4, 20, 5]), torch.Size([2, 4, 32]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        cell: str = "rnn",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        layers: str = "rnnfast",
    ) -> None:
        super().__init__()
        at_least(1, output_size=output_size)
        self.rnn = recurrent_layer(
            cell,
            input_size,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            layers=layers,
        )
        self.readout = nn.Linear(hidden_size * (2 if bidirectional else 1), output_size)

    def forward(self, x: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        """Outputs of all steps, and the last state."""
        states, last = self.rnn(x, hx)
        return self.readout(states), last


class Feedforward(nn.Module):
    r"""A network without memory: every step is seen alone.

    .. math::
        y_t = W_2 \operatorname{relu}(W_1 x_t + b_1) + b_2

    The baseline that must fail where an answer depends on other steps.

    Args:
        input_size: features of the input, I.
        hidden_size: units, H.
        output_size: features of the output, O.

    Shapes:
        * x: (B, T, I), or anything that ends in I.
        * result: (B, T, O), like x.

    Raises:
        ValueError: for a size below 1, or an input of another size.

    Example:
        >>> Feedforward(10, 32, 5)(torch.randn(4, 20, 10)).shape
        torch.Size([4, 20, 5])
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__()
        at_least(1, input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        self.hidden = nn.Linear(input_size, hidden_size)
        self.readout = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of all steps."""
        if x.size(-1) != self.hidden.in_features:
            raise ValueError(f"x: got {x.size(-1)} features, expected {self.hidden.in_features}")
        return self.readout(torch.relu(self.hidden(x)))


__all__ = ["Feedforward", "ReadoutRNN"]
