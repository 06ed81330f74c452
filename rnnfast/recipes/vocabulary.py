"""Tokens as numbers, and rows of them as one padded tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

PADDING, UNKNOWN = 0, 1
_SPECIAL = ("<padding>", "<unknown>")


class Vocabulary:
    """Numbers tokens: 0 pads, 1 stands for any that is not known, the others follow in the order given.

    Args:
        tokens: the known ones.

    Example:
        >>> Vocabulary("abc").encode("cat")
        [4, 2, 1]
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = list(tokens)
        self._numbers = {token: i for i, token in enumerate(self.tokens, len(_SPECIAL))}

    def __len__(self) -> int:
        return len(_SPECIAL) + len(self.tokens)

    def __getitem__(self, token: str) -> int:
        """A token's number."""
        return self._numbers.get(token, UNKNOWN)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of tokens, for instance of a string's characters."""
        return [self[token] for token in tokens]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Tokens of numbers."""
        return [(*_SPECIAL, *self.tokens)[number] for number in numbers]


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of numbers as tokens (B, T) and lengths (B,), T being the longest row's.

    Example:
        >>> padded([[5, 6, 7], [8]])
        (tensor([[5, 6, 7],
                [8, 0, 0]]), tensor([3, 1]))
    """
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lengths.max())), PADDING)
    for row, numbers in enumerate(rows):
        tokens[row, : len(numbers)] = torch.tensor(numbers)
    return tokens, lengths


__all__ = ["PADDING", "UNKNOWN", "Vocabulary", "padded"]
