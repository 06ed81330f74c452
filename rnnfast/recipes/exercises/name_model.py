"""A model that tells of what language a name is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models import recurrent_layer, run, valid
from ..classification import ClassifierTask

NEXT = 0.3  # the weight of next characters in the loss


class NgramEmbedding(nn.Module):
    """Embeds each character with the pair that it ends and the triple that it is the middle of.

    (Bojanowski et al., "Enriching word vectors with subword information", arXiv:1607.04606: n-grams are hashed, so
    that none is unknown, and their vectors summed.)

    Args:
        vocabulary: how many characters there are; embedding_size: features, E.
        buckets: for pairs, and as many for triples.

    Shapes:
        * tokens: (B, T) int64, 0 where there is none; result: (B, T, E).
    """

    def __init__(self, vocabulary: int, embedding_size: int, buckets: int = 2**14) -> None:
        super().__init__()
        self.buckets = buckets
        self.single = nn.Embedding(vocabulary, embedding_size, padding_idx=0)
        self.pair = nn.Embedding(buckets, embedding_size)
        self.triple = nn.Embedding(buckets, embedding_size)
        for rare in (self.pair, self.triple):  # they begin as small corrections
            nn.init.normal_(rare.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Features of each character."""
        around = F.pad(tokens, (1, 1))
        before, after = around[:, :-2], around[:, 2:]
        pair = (before * 1009 + tokens * 9176) % self.buckets
        triple = (before * 7919 + tokens * 104729 + after * 15485863) % self.buckets
        return self.single(tokens) + self.pair(pair) + self.triple(triple)


class NameModel(nn.Module):
    r"""Reads a name in both directions and tells its language; in training also which character comes next.

    .. math::
        y = W [\max_t z_t; \operatorname{mean}_t z_t] + b, \qquad
        z_t = [\overrightarrow h_t; \overleftarrow h_t; x_t]

    with x_t the embedded characters. Telling the next character is of no use by itself: it has the states learn
    what names are made of, those of languages with few names among them (Rei, "Semi-supervised multitask learning
    for sequence labeling", arXiv:1704.07156).

    Args:
        vocabulary, classes: how many characters and languages there are.
        embedding_size, hidden_size: features of a character, E; units of each direction, H.
        cell, layers: see :func:`rnnfast.models.recurrent_layer`.
        dropout: of embedded characters, and of what answers are read from.

    Shapes:
        * tokens: (B, T) int64, 0 beyond the lengths; lengths: (B,) int64; targets: like tokens.
        * result: logits (B, classes); with `targets` also the mean cross-entropy of next characters, a scalar.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        *,
        embedding_size: int,
        hidden_size: int,
        cell: str,
        dropout: float,
        layers: str,
    ) -> None:
        super().__init__()
        self.embedding = NgramEmbedding(vocabulary, embedding_size)
        self.rnn = recurrent_layer(cell, embedding_size, hidden_size, bidirectional=True, layers=layers)
        self.readout = nn.Linear(2 * (2 * hidden_size + embedding_size), classes)
        self.after = nn.Linear(hidden_size, vocabulary)
        self.before = nn.Linear(hidden_size, vocabulary)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, lengths: Tensor, targets: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits; with `targets`, the characters themselves, also what it costs to tell each from those before
        it, and from those behind it.
        """
        lengths = lengths.to(tokens.device)
        features = self.dropout(self.embedding(tokens))
        states, _ = run(self.rnn, features, None, lengths)
        present = valid(lengths, tokens.size(1))
        logits = self.readout(self.dropout(_pooled(torch.cat([states, features], 2), present, lengths)))
        if targets is None:
            return logits
        forward, backward = self.dropout(states).chunk(2, 2)
        both = present[:, 1:]  # a character and the one before it
        after = F.cross_entropy(self.after(forward[:, :-1][both]), targets[:, 1:][both])
        before = F.cross_entropy(self.before(backward[:, 1:][both]), targets[:, :-1][both])
        return logits, after + before


def _pooled(x: Tensor, present: Tensor, lengths: Tensor) -> Tensor:
    """The largest and the mean of each feature over the steps that a row has: (B, T, F) to (B, 2 F)."""
    absent = ~present.unsqueeze(2)
    largest = x.masked_fill(absent, -torch.inf).amax(1)
    return torch.cat([largest, x.masked_fill(absent, 0).sum(1) / lengths.unsqueeze(1)], 1)


class NameTask(ClassifierTask):
    """Classes, and with a smaller weight next characters."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
        """Weighted cross-entropy of the class, and that of the next character in both directions."""
        tokens, lengths, classes = batch
        logits, characters = model(tokens, lengths, tokens)
        weights = None if self.weights is None else self.weights.to(classes.device)
        of_classes = F.cross_entropy(logits, classes, weight=weights, reduction="sum")
        return of_classes + NEXT * characters * len(classes), len(classes)


__all__ = ["NameModel", "NameTask"]
