"""What the models check about their arguments, each mistake told in one line."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def at_least(least: float, **values: float) -> None:
    """Raises ValueError unless every argument, given by name, is at least `least`."""
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name}: got {value}, expected at least {least}")


def one_of(choices: Iterable[str], **values: str) -> None:
    """Raises ValueError unless every argument, given by name, is one of `choices`."""
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(map(repr, choices))}")


def embed(embedding: nn.Embedding, **arguments: Tensor) -> Tensor:
    """The embeddings of one argument, given by name: tokens (B, T) become (B, T, E).

    Raises:
        ValueError: if they are no (B, T) integers.
        IndexError: on the CPU, where one is not in the vocabulary; elsewhere looking would make the device wait.
    """
    ((name, tokens),) = arguments.items()
    if tokens.dim() != 2 or tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"{name}: got {tokens.dtype} of shape {tuple(tokens.shape)}, expected torch.int64 of shape (B, T)"
        )
    try:
        return embedding(tokens)
    except IndexError:
        low, high, size = int(tokens.min()), int(tokens.max()), embedding.num_embeddings
        raise IndexError(f"{name}: got tokens from {low} to {high}, expected 0 to {size - 1}") from None


__all__ = ["at_least", "embed", "one_of"]
