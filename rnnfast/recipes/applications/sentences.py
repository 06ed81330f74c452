"""Words as numbers and as the pieces that they are spelt with, so that words never seen are not all alike."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..vocabulary import PADDING, UNKNOWN, Vocabulary

SHORTEST, LONGEST = 3, 5  # characters of a piece
PIECES = 24  # of a word at most
BUCKETS = 2**14


class Spelt:
    """Numbers words: each is its number in a vocabulary and those of its pieces, found by a hash.

    (Bojanowski et al., "Enriching word vectors with subword information", arXiv:1607.04606.)

    Args:
        vocabulary: of words.

    Example:
        >>> Spelt(Vocabulary(["film"])).encode(["film", "films"])[:, 0]
        tensor([2, 1])
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.vocabulary) + BUCKETS

    def word(self, word: str) -> list[int]:
        """A word's number and its pieces', 0 where there are fewer than may be: (1 + PIECES,)."""
        if word not in self._known:
            whole = f"<{word}>"
            pieces = [
                whole[i : i + n] for n in range(SHORTEST, LONGEST + 1) for i in range(max(0, len(whole) - n + 1))
            ]
            numbers = [len(self.vocabulary) + zlib.crc32(piece.encode()) % BUCKETS for piece in pieces[:PIECES]]
            self._known[word] = [self.vocabulary[word], *numbers, *[PADDING] * (PIECES - len(numbers))]
        return self._known[word]

    def encode(self, words: Sequence[str]) -> Tensor:
        """Words as numbers (T, 1 + PIECES)."""
        return torch.tensor([self.word(word) for word in words])


class SpeltEmbedding(nn.Module):
    """The sum of a word's vector and the mean of its pieces'.

    Args:
        numbers: how many there are, of words and pieces; size: of a vector, E.

    Shapes:
        * tokens: (B, T, 1 + PIECES), as :class:`Spelt` numbers them.
        * result: (B, T, E).
    """

    def __init__(self, numbers: int, size: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(numbers, size, padding_idx=PADDING)
        nn.init.normal_(self.vectors.weight, std=0.3)
        with torch.no_grad():
            self.vectors.weight[PADDING] = 0

    def forward(self, tokens: Tensor) -> Tensor:
        """Embedded words."""
        count = (tokens[..., 1:] != PADDING).sum(-1, keepdim=True).clamp(min=1)
        pieces = self.vectors(tokens[..., 1:]).sum(-2) / count
        return self.vectors(tokens[..., 0]) + pieces


def hide(tokens: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Tokens (B, T, 1 + PIECES), some words replaced by one that is not known and has no pieces."""
    hidden = (torch.rand(tokens.shape[:2], generator=random) < share) & (tokens[..., 0] != PADDING)
    found = tokens.masked_fill(hidden.unsqueeze(2), PADDING)
    found[..., 0].masked_fill_(hidden, UNKNOWN)
    return found


__all__ = ["BUCKETS", "PIECES", "Spelt", "SpeltEmbedding", "hide"]
