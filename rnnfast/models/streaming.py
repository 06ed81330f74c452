"""A filter of sampled signals that goes on from block to block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from .._library import forced_plan
from .backbone import State, recurrent_layer


class StreamingFilter(nn.Module):
    r"""A recurrence over samples that learns what is done to a signal, such as by an amplifier.

    .. math::
        y_t = x_t + w \cdot h_t + b

    (Wright, Damskägg and Välimäki, "Real-time black-box modelling with recurrent neural networks", DAFx 2019.)

    Its state is all that it remembers: a signal that comes in blocks, of whatever lengths, comes out as it would
    whole. On the CPU the two have the same bits, for each row is computed by one worker, in one order.

    Args:
        hidden_size: units, H.
        cell, layers: as in :func:`~rnnfast.models.recurrent_layer`.

    Shapes:
        * samples: (B, T), of each row T samples, usually from -1 to 1.
        * state: (1, B, H), of an LSTM two of them; None where a signal begins.
        * results: filtered samples (B, T), and the state after the last one.

    Raises:
        ValueError: for an unknown `cell` or `layers`, a size below 1, or samples of another shape.

    Example:
        >>> filter, signal = StreamingFilter(16), torch.randn(1, 1000)
        >>> first, state = filter.step(signal[:, :64])
        >>> second, state = filter.step(signal[:, 64:128], state)
        >>> torch.equal(torch.cat((first, second), 1), filter.step(signal)[0][:, :128])
        True
    """

    def __init__(self, hidden_size: int, *, cell: str = "lstm", layers: str = "rnnfast") -> None:
        super().__init__()
        self.rnn = recurrent_layer(cell, 1, hidden_size, layers=layers)
        self.readout = nn.Linear(hidden_size, 1)

    def forward(self, samples: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Filtered samples, and the state to go on from."""
        if samples.dim() != 2 or samples.size(1) == 0:
            raise ValueError(f"samples: got shape {tuple(samples.shape)}, expected (B, T) with T at least 1")
        output, state = self.rnn(samples.unsqueeze(-1), state)
        # Row by row and not as a product of matrices, whose order of adding depends on how many rows there are.
        weighed = (output * self.readout.weight[0]).sum(-1)
        return samples + weighed + self.readout.bias, state

    @torch.no_grad()
    def step(self, block: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The same for the next block, (B, T), to listen to and not to learn from."""
        with one_way():
            return self(block, state)

    def stream(self, blocks: Iterable[Tensor], state: State | None = None) -> Iterator[Tensor]:
        """Filters blocks as they come, the state carried between them.

        Args:
            blocks: each (B, T), T as it happens to be.
            state: from which the first goes on.

        Yields:
            For each block the filtered one.

        Example:
            >>> signal = torch.randn(1, 1000)
            >>> whole = torch.cat(list(StreamingFilter(8).stream(signal.split(64, 1))), 1)
        """
        for block in blocks:
            filtered, state = self.step(block, state)
            yield filtered


def one_way() -> contextlib.AbstractContextManager[None]:
    """The same plan for any number of steps, so that the order of adding does not depend on it.

    Otherwise a few steps read the weights as they lie, and many rearrange them first.
    """
    return forced_plan(schedule="batch_split", weights="packed", workers=1)


__all__ = ["StreamingFilter"]
