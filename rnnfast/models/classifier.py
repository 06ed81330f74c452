"""One answer for a whole sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._checks import at_least, embed, one_of
from .backbone import State, last_hidden, recurrent_layer, run, valid

POOLINGS = ("last", "mean", "max")


class SequenceClassifier(nn.Module):
    r"""Many to one: tokens are embedded, go through a recurrence, and one summary of its states is read out.

    .. math::
        y = W \operatorname{pool}(h_1, \dots, h_n) + b

    with n a row's own length. Rows shorter than T are packed, so what stands beyond their length never counts.

    Args:
        vocabulary: how many tokens there are.
        embedding_size: features of an embedded token, E.
        hidden_size: units, H.
        classes: how many answers there are, C.
        pooling: ``"last"``, the state after each direction's last valid step; ``"mean"`` or ``"max"`` of the
            states of all valid steps.
        cell, num_layers, bidirectional, dropout, layers: as in :func:`~rnnfast.models.recurrent_layer`.

    Shapes:
        * tokens: (B, T) int64.
        * lengths: (B,) int64, valid steps of each row, 1 to T; None if all are.
        * result: logits (B, C).

    Raises:
        ValueError: for an unknown `cell`, `layers` or `pooling`, a size below 1, or lengths that do not fit.
        IndexError: for a token that is not in the vocabulary (on the CPU).

    Example:
        >>> model = SequenceClassifier(10_000, 128, 256, 2, cell="lstm")
        >>> model(torch.randint(0, 10_000, (8, 50)), torch.randint(1, 51, (8,))).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        vocabulary: int,
        embedding_size: int,
        hidden_size: int,
        classes: int,
        *,
        cell: str = "rnn",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pooling: str = "last",
        layers: str = "rnnfast",
    ) -> None:
        super().__init__()
        at_least(1, vocabulary=vocabulary, embedding_size=embedding_size, classes=classes)
        one_of(POOLINGS, pooling=pooling)
        self.pooling = pooling
        self.bidirectional = bidirectional
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.rnn = recurrent_layer(
            cell,
            embedding_size,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            layers=layers,
        )
        self.readout = nn.Linear(hidden_size * (2 if bidirectional else 1), classes)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits, (B, C)."""
        states, last = self._run(tokens, lengths)
        return self.readout(self._pooled(states, last, lengths))

    def states(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The last layer's states at every step, (B, T, D H); zero beyond each row's length."""
        return self._run(tokens, lengths)[0]

    def _run(self, tokens: Tensor, lengths: Tensor | None) -> tuple[Tensor, State]:
        return run(self.rnn, embed(self.embedding, tokens=tokens), None, lengths)

    def _pooled(self, states: Tensor, last: State, lengths: Tensor | None) -> Tensor:
        if self.pooling == "last":
            return last_hidden(last, bidirectional=self.bidirectional)
        if lengths is None:
            return states.mean(1) if self.pooling == "mean" else states.amax(1)
        lengths = lengths.to(states.device)
        if self.pooling == "mean":  # states are zero beyond the length
            return states.sum(1) / lengths.unsqueeze(1)
        return states.masked_fill(~valid(lengths, states.size(1)).unsqueeze(2), -torch.inf).amax(1)


__all__ = ["POOLINGS", "SequenceClassifier"]
