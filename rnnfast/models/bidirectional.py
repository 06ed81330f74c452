"""Seeing what comes after as well as what came before."""

from __future__ import annotations

from torch import Tensor, nn

from .backbone import State, recurrent_layer, run


class BidirectionalEncoder(nn.Module):
    r"""Encodes each step in the light of all others: one recurrence runs from the start, another from the end.

    .. math::
        y_t = [\overrightarrow h_t; \overleftarrow h_t]

    (Schuster and Paliwal, "Bidirectional recurrent neural networks", IEEE Transactions on Signal Processing 45,
    1997.) Rows shorter than T are packed: each one's second recurrence begins at its own last step.

    Args:
        input_size: features of the input, I.
        hidden_size: units of each direction, H.
        cell, num_layers, dropout, layers: as in :func:`~rnnfast.models.recurrent_layer`.

    Shapes:
        * x: (B, T, I).
        * hx: (2 L, B, H), of an LSTM two of them; zero if not given.
        * lengths: (B,) int64, valid steps of each row, 1 to T; None if all are.
        * results: outputs (B, T, 2 H), zero beyond each row's length, and the last states like hx.

    Raises:
        ValueError: for an unknown `cell` or `layers`, a size below 1, or lengths that do not fit.

    Example:
        >>> outputs, h_n = BidirectionalEncoder(10, 32)(torch.randn(4, 20, 10))
        >>> outputs.shape, h_n.shape
        (torch.Size([4, 20, 64]), torch.Size([2, 4, 32]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        cell: str = "rnn",
        num_layers: int = 1,
        dropout: float = 0.0,
        layers: str = "rnnfast",
    ) -> None:
        super().__init__()
        self.rnn = recurrent_layer(
            cell,
            input_size,
            hidden_size,
            num_layers=num_layers,
            bidirectional=True,
            dropout=dropout,
            layers=layers,
        )

    def forward(self, x: Tensor, hx: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Outputs of all steps, and the last states of both directions."""
        return run(self.rnn, x, hx, lengths)


__all__ = ["BidirectionalEncoder"]
