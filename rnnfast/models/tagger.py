"""One answer for each step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._program import needs
from ._checks import at_least, embed
from .backbone import recurrent_layer, run, valid
from .decoding import evaluating


class Tagger(nn.Module):
    r"""Many to many, a tag for each token: embedded tokens, a recurrence, and a readout of every state.

    Without a CRF each tag is chosen by itself; with one, whole sequences of tags are scored,

    .. math::
        \log p(y \mid x) = \sum_t \bigl(A_{y_{t-1} y_t} + (W h_t + b)_{y_t}\bigr) - \log Z(x)

    with a learned matrix A of transitions (Lafferty, McCallum and Pereira, ICML 2001; on a bidirectional LSTM:
    Huang, Xu and Yu, arXiv:1508.01991; the library that computes it: pytorch-crf). Rows shorter than T are
    packed, so what stands beyond their length never counts.

    Args:
        vocabulary: how many tokens there are.
        embedding_size: features of an embedded token, E.
        hidden_size: units, H.
        tags: how many tags there are, K.
        crf: whether there is a conditional random field on top.
        embedding: what embeds tokens in place of a table, from (B, T, ...) to (B, T, E); `vocabulary` is then of
            no effect.
        cell, num_layers, bidirectional, dropout, layers: as in :func:`~rnnfast.models.recurrent_layer`.

    Shapes:
        * tokens: (B, T) int64, with an `embedding` of your own whatever it takes.
        * lengths: (B,) int64, valid steps of each row, 1 to T; None if all are.
        * result: logits (B, T, K), with a CRF the scores without transitions.

    Raises:
        ValueError: for an unknown `cell` or `layers`, a size below 1, or lengths that do not fit.
        IndexError: for a token that is not in the vocabulary (on the CPU).
        rnnfast._program.UserError: if a CRF is asked for and pytorch-crf is missing.

    Example:
        >>> model = Tagger(1000, 32, 64, 9, cell="lstm")
        >>> tokens, lengths = torch.randint(0, 1000, (2, 6)), torch.tensor([6, 3])
        >>> loss = model.loss(tokens, torch.randint(0, 9, (2, 6)), lengths)
        >>> [len(tags) for tags in model.decode(tokens, lengths)]
        [6, 3]
    """

    def __init__(
        self,
        vocabulary: int,
        embedding_size: int,
        hidden_size: int,
        tags: int,
        *,
        cell: str = "rnn",
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
        crf: bool = False,
        embedding: nn.Module | None = None,
        layers: str = "rnnfast",
    ) -> None:
        super().__init__()
        at_least(1, vocabulary=vocabulary, embedding_size=embedding_size, tags=tags)
        self.embedding = nn.Embedding(vocabulary, embedding_size) if embedding is None else embedding
        self.rnn = recurrent_layer(
            cell,
            embedding_size,
            hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            layers=layers,
        )
        self.readout = nn.Linear(hidden_size * (2 if bidirectional else 1), tags)
        self.crf: Any = needs("torchcrf", "crf").CRF(tags, batch_first=True) if crf else None

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits, (B, T, K)."""
        x = embed(self.embedding, tokens=tokens) if self._table else self.embedding(tokens)
        states, _ = run(self.rnn, x, None, lengths)
        return self.readout(states)

    def loss(self, tokens: Tensor, tags: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood per valid token of true tags, (B, T) int64; padding may hold anything."""
        if tags.shape != tokens.shape[:2]:
            raise ValueError(f"tags: got shape {tuple(tags.shape)}, expected {tuple(tokens.shape[:2])}, as tokens")
        logits, mask = self(tokens, lengths), self._mask(tokens, lengths)
        if self.crf is None:
            return F.cross_entropy(logits[mask], tags[mask])
        return -self.crf(logits, tags.masked_fill(~mask, 0), mask=mask, reduction="token_mean")

    @torch.no_grad()
    def decode(self, tokens: Tensor, lengths: Tensor | None = None) -> list[list[int]]:
        """The most probable tags of each row, as many as it has tokens; with a CRF by Viterbi's algorithm."""
        with evaluating(self):
            logits, mask = self(tokens, lengths), self._mask(tokens, lengths)
        if self.crf is not None:
            return self.crf.decode(logits, mask=mask)
        best, steps = logits.argmax(-1).tolist(), mask.sum(1).tolist()
        return [row[:length] for row, length in zip(best, steps, strict=True)]

    @property
    def _table(self) -> bool:
        return isinstance(self.embedding, nn.Embedding)

    def _mask(self, tokens: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is None:
            return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return valid(lengths.to(tokens.device), tokens.size(1))


__all__ = ["Tagger"]
