"""Skip connections across layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._checks import at_least
from .backbone import State, each, hidden, recurrent_layer, run


class ResidualStack(nn.Module):
    r"""Recurrences stacked so that each one adds to what it is given.

    .. math::
        y^l_t = y^{l-1}_t + h^l_t

    (He et al., arXiv:1512.03385; between recurrences: Wu et al., arXiv:1609.08144, section 3.1.) What the first
    layer is given has I features, so it is added there only where I equals D H.

    Args:
        input_size: features of the input, I.
        hidden_size: units, H.
        num_layers: recurrences stacked on one another, L.
        cell, bidirectional, layers: as in :func:`~rnnfast.models.recurrent_layer`.
        dropout: probability of dropping a value of h on its way into the sum, in training, but for the last layer.

    Shapes:
        * x: (B, T, I).
        * hx: (D L, B, H), of an LSTM two of them; zero if not given.
        * lengths: (B,) int64, valid steps of each row, 1 to T; None if all are.
        * results: outputs (B, T, D H), and each layer's last state like hx.

    Raises:
        ValueError: for an unknown `cell` or `layers`, a size below 1, or lengths that do not fit.

    Example:
        >>> outputs, h_n = ResidualStack(10, 64, 4)(torch.randn(8, 50, 10))
        >>> outputs.shape, h_n.shape
        (torch.Size([8, 50, 64]), torch.Size([4, 8, 64]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        cell: str = "rnn",
        bidirectional: bool = False,
        dropout: float = 0.0,
        layers: str = "rnnfast",
    ) -> None:
        super().__init__()
        at_least(1, num_layers=num_layers)
        self.directions = 2 if bidirectional else 1
        sizes = [input_size] + [hidden_size * self.directions] * (num_layers - 1)
        self.rnns = nn.ModuleList(
            recurrent_layer(cell, size, hidden_size, bidirectional=bidirectional, layers=layers) for size in sizes
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, hx: State | None = None, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Outputs of the last layer's sum at all steps, and each layer's last state."""
        if hx is not None and hidden(hx).size(0) != len(self.rnns) * self.directions:
            expected = len(self.rnns) * self.directions
            raise ValueError(f"hx: got states of {hidden(hx).size(0)} recurrences, expected {expected}")
        last = []
        for i, rnn in enumerate(self.rnns):
            own = (
                None if hx is None else each(lambda s, i=i: s[i * self.directions : (i + 1) * self.directions], hx)
            )
            h, state = run(rnn, x, own, lengths)
            last.append(state)
            if i < len(self.rnns) - 1:
                h = self.dropout(h.contiguous())  # masks follow the order in memory, which is torch.nn's own
            x = x + h if x.size(2) == h.size(2) else h
        return x, each(lambda *states: torch.cat(states), *last)


__all__ = ["ResidualStack"]
