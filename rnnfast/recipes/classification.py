"""Rows of tokens with a class each: what programs that classify have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._program import needs
from .order import Order
from .training import Task, generator
from .vocabulary import UNKNOWN, padded


@dataclass(frozen=True)
class Labelled:
    """Rows of tokens, each with its class.

    Shapes: tokens (N, T), lengths (N,), classes (N,), all int64.
    """

    tokens: Tensor
    lengths: Tensor
    classes: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], classes: Sequence[int]) -> Labelled:
        return cls(*padded(rows), torch.tensor(classes))

    def __len__(self) -> int:
        return len(self.classes)

    def rows(self, indices: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Some rows, no longer than they need be."""
        lengths = self.lengths[indices]
        return self.tokens[indices, : int(lengths.max())], lengths, self.classes[indices]


class ClassifierTask(Task):
    """Trains a model from tokens (B, T) and lengths (B,) to logits (B, C).

    Args:
        model: such as :class:`rnnfast.models.SequenceClassifier`.
        train: to train on; held_out: to evaluate on.
        hidden: probability of a token's being hidden from the model in training, so that it does not rely on any.
        weights: (C,), of each class in the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Labelled,
        held_out: Labelled,
        *,
        batch_size: int,
        seed: int,
        hidden: float = 0.0,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__(model)
        self.train_on, self.held_out, self.seed, self.hidden, self.weights = train, held_out, seed, hidden, weights
        self.order = Order(len(train), batch_size, seed, train.lengths)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, some of them hidden, lengths and classes."""
        tokens, lengths, classes = self.train_on.rows(self.order[step])
        hidden = torch.rand(tokens.shape, generator=generator(self.seed, step)) < self.hidden
        return torch.where(hidden & (tokens > UNKNOWN), UNKNOWN, tokens), lengths, classes

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
        """Weighted cross-entropy."""
        tokens, lengths, classes = batch
        weights = None if self.weights is None else self.weights.to(classes.device)
        return F.cross_entropy(model(tokens, lengths), classes, weight=weights, reduction="sum"), len(classes)

    def evaluate(self) -> dict[str, float]:
        """Accuracy and macro-F1 on the held-out rows."""
        return scores(self.held_out.classes, predict([self.model], self.held_out).argmax(1))


@torch.no_grad()
def predict(models: Sequence[nn.Module], data: Labelled) -> Tensor:
    """Probabilities (N, C), the mean of all models'."""
    found = []
    for rows in torch.arange(len(data)).split(512):
        tokens, lengths, _ = data.rows(rows)
        place = next(models[0].parameters()).device
        found.append(sum(model(tokens.to(place), lengths).softmax(1) for model in models).cpu() / len(models))
    return torch.cat(found)


def scores(truth: Tensor, found: Tensor) -> dict[str, float]:
    """Accuracy, and the mean of the F1 of all classes that occur in either."""
    metrics = needs("sklearn.metrics", "recipes")
    f1 = metrics.f1_score(truth.numpy(), found.numpy(), average="macro", zero_division=0.0)
    return {"accuracy": float((truth == found).float().mean()), "macro-F1": float(f1)}


__all__ = ["ClassifierTask", "Labelled", "predict", "scores"]
