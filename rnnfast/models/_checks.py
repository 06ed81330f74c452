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


def checked_lengths(lengths: Tensor, batch: int, steps: int) -> Tensor:
    """`lengths` on the CPU, where packing needs them, once they are found to fit (batch, steps)."""
    if lengths.shape != (batch,) or lengths.is_floating_point():
        given = f"{lengths.dtype} of shape {tuple(lengths.shape)}"
        raise ValueError(f"lengths: got {given}, expected torch.int64 of shape ({batch},)")
    lengths = lengths.cpu()
    for row, length in enumerate(lengths.tolist()):
        if not 1 <= length <= steps:
            raise ValueError(f"lengths: got {length} in row {row}, expected 1 to {steps}")
    return lengths


__all__ = ["at_least", "checked_lengths", "embed", "one_of"]
