"""Skip connections across time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._checks import at_least
from .backbone import State, each, recurrent_layer, zero_state


class Dilated(nn.Module):
    r"""A recurrence in which each step sees the state `dilation` steps before.

    .. math::
        h_t = f(x_t, h_{t-k})

    (Chang et al., "Dilated recurrent neural networks", arXiv:1710.02224.) A gradient crosses a distance of n steps
    in n / k. The k interleaved sequences do not see one another, so they are folded into the batch, and the layer
    runs T / k steps over k B rows: with the arithmetic of T steps over B, in fewer and larger pieces.

    Args:
        input_size: features of the input, I.
        hidden_size: units, H.
        dilation: how many steps back a step sees, k.
        cell, num_layers, dropout, layers: as in :func:`~rnnfast.models.recurrent_layer`; all layers have the same
            dilation.

    Shapes:
        * x: (B, T, I), of any T.
        * hx: (L, k B, H), of an LSTM two of them, zero if not given: the k states before the first step, the
          earliest first, each of B rows.
        * results: outputs (B, T, H), and the last k states like hx, from which the next call goes on.

    Raises:
        ValueError: for an unknown `cell` or `layers`, or a size below 1.

    Example:
        >>> outputs, h_n = Dilated(10, 32, 4)(torch.randn(8, 50, 10))
        >>> outputs.shape, h_n.shape
        (torch.Size([8, 50, 32]), torch.Size([1, 32, 32]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        dilation: int,
        *,
        cell: str = "rnn",
        num_layers: int = 1,
        dropout: float = 0.0,
        layers: str = "rnnfast",
    ) -> None:
        super().__init__()
        at_least(1, dilation=dilation)
        self.dilation = dilation
        self.rnn = recurrent_layer(
            cell, input_size, hidden_size, num_layers=num_layers, dropout=dropout, layers=layers
        )

    def forward(self, x: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        """Outputs of all steps, and the last `dilation` states."""
        if x.dim() != 3 or x.size(1) == 0:
            raise ValueError(f"x: got shape {tuple(x.shape)}, expected (B, T, I) with T at least 1")
        B, T, k = x.size(0), x.size(1), self.dilation
        rest = T % k
        outputs = []
        if k <= T:
            output, hx = self._folded(x[:, : T - rest], k, hx)
            outputs.append(output)
        if rest:
            # The states are a queue: the earliest ones take a step more each, and go to its end.
            queue = zero_state(self.rnn, k * B) if hx is None else hx
            output, stepped = self._folded(x[:, T - rest :], rest, each(lambda s: s[:, : rest * B], queue))
            outputs.append(output)
            hx = each(lambda s, new: torch.cat([s[:, rest * B :], new], 1), queue, stepped)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1), hx

    def _folded(self, x: Tensor, k: int, hx: State | None) -> tuple[Tensor, State]:
        """Runs k interleaved sequences of equal length, (B, n k, I), as rows of the batch."""
        rows = x.unflatten(1, (-1, k)).permute(2, 0, 1, 3).flatten(0, 1)
        output, state = self.rnn(rows, hx)
        return output.unflatten(0, (k, -1)).permute(1, 2, 0, 3).flatten(1, 2), state


__all__ = ["Dilated"]
