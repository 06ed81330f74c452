"""A model that tells of what language a name is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...models import recurrent_layer, run, valid
from ..classification import ClassifierTask

NEXT = 1.0  # the weight of next characters in the loss
LONGEST = 4  # characters of an n-gram


class Ngrams(nn.Module):
    r"""What the n-grams of one to four characters speak for, by themselves: a linear model.

    .. math::
        y = \frac{1}{\sqrt{n}} \sum_{t=1}^n \sum_{k=1}^4 u(x_{t-k+1}, \dots, x_t)

    The vectors u are found by a hash, so that there are as many as `buckets`, whatever n-grams there are
    (Bojanowski et al., "Enriching word vectors with subword information", arXiv:1607.04606).

    Args:
        classes: what they speak for, C; buckets: different vectors.

    Shapes:
        * tokens: (B, T) int64; present: (B, T) bool, which of them there are.
        * result: logits (B, C).
    """

    def __init__(self, classes: int, buckets: int = 2**16) -> None:
        super().__init__()
        self.vectors = nn.Embedding(buckets, classes)
        nn.init.zeros_(self.vectors.weight)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Logits."""
        each = self.vectors(self.rows(tokens)).sum(2).masked_fill(~present.unsqueeze(2), 0)
        return each.sum(1) / present.sum(1, keepdim=True).sqrt()

    def rows(self, tokens: Tensor) -> Tensor:
        """The vector of each n-gram that ends at a token, (B, T, 4)."""
        before = F.pad(tokens, (LONGEST - 1, 0))
        code, found = torch.zeros_like(tokens), []
        for k in range(LONGEST):
            begin = LONGEST - 1 - k
            code = (code * 1_000_003 + before[:, begin : begin + tokens.size(1)] + 1) % (2**31 - 1)
            found.append((code * 2_654_435_761 >> 7) % self.vectors.num_embeddings)
        return torch.stack(found, 2)


class NameModel(nn.Module):
    r"""Reads a name in both directions and tells its language; in training also which character comes next.

    .. math::
        y = W \max_t [\overrightarrow h_t; \overleftarrow h_t] + b + y_{n-grams}

    Frequent n-grams are learnt by heart in a linear model (:class:`Ngrams`), the rest is left to the recurrence
    (Cheng et al., "Wide & deep learning for recommender systems", arXiv:1606.07792). Telling the next character is
    of no use by itself: it has the states learn what names are made of, those of languages with few names among
    them (Rei, "Semi-supervised multitask learning for sequence labeling", arXiv:1704.07156).

    Args:
        vocabulary, classes: how many characters and languages there are.
        embedding_size, hidden_size: features of a character, E; units of each direction, H.
        cell, layers: see :func:`rnnfast.models.recurrent_layer`.
        dropout: of the states that answers are read from; of embedded characters half as much.

    Shapes:
        * tokens: (B, T) int64; lengths: (B,) int64; targets: like tokens.
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
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.rnn = recurrent_layer(cell, embedding_size, hidden_size, bidirectional=True, layers=layers)
        self.readout = nn.Linear(2 * hidden_size, classes)
        self.ngrams = Ngrams(classes)
        self.after = nn.Linear(hidden_size, vocabulary)
        self.before = nn.Linear(hidden_size, vocabulary)
        self.dropout, self.blur = nn.Dropout(dropout), nn.Dropout(dropout / 2)

    def forward(
        self, tokens: Tensor, lengths: Tensor, targets: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits; with `targets`, the characters themselves, also what it costs to tell each from those before
        it, and from those behind it.
        """
        states, _ = run(self.rnn, self.blur(self.embedding(tokens)), None, lengths)
        present = valid(lengths.to(tokens.device), tokens.size(1))
        largest = states.masked_fill(~present.unsqueeze(2), -torch.inf).amax(1)
        logits = self.readout(self.dropout(largest)) + self.ngrams(tokens, present)
        if targets is None:
            return logits
        forward, backward = self.dropout(states).chunk(2, 2)
        both = present[:, 1:]  # a character and the one before it
        after = F.cross_entropy(self.after(forward[:, :-1][both]), targets[:, 1:][both])
        before = F.cross_entropy(self.before(backward[:, 1:][both]), targets[:, :-1][both])
        return logits, after + before


class NameTask(ClassifierTask):
    """Classes and next characters."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
        """Weighted cross-entropy of the class, and that of the next character in both directions."""
        tokens, lengths, classes = batch
        logits, characters = model(tokens, lengths, tokens)
        weights = None if self.weights is None else self.weights.to(classes.device)
        of_classes = F.cross_entropy(logits, classes, weight=weights, reduction="sum")
        return of_classes + NEXT * characters * len(classes), len(classes)


__all__ = ["NameModel", "NameTask"]
