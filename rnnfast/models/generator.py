"""One vector becomes a sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import decoding
from ._checks import at_least
from .backbone import State
from .language import LanguageModel


class SequenceGenerator(nn.Module):
    r"""One to many: a language model whose initial state is made of a vector, such as an image's features.

    .. math::
        h_0 = \tanh(W_h v + b_h), \qquad c_0 = W_c v + b_c

    for each of its layers (Xu et al., arXiv:1502.03044, section 3.1.2; Vinyals et al., arXiv:1411.4555).

    Args:
        feature_size: of the vector, F.
        hidden_size: units, H.
        vocabulary: how many tokens there are, V.
        embedding_size: features of an embedded token, H if not given.
        start, end: the tokens that come before and after each sequence.
        cell, num_layers, dropout, layers: as in :func:`~rnnfast.models.recurrent_layer`.

    Shapes:
        * features: (B, F).
        * tokens: (B, T) int64, what the model is given in training: `start`, then the true tokens.
        * result: logits (B, T, V), those of step t for what follows token t.

    Raises:
        ValueError: for an unknown `cell` or `layers`, a size below 1, `start` or `end` outside the vocabulary, or
            features that do not fit.
        IndexError: for a token that is not in the vocabulary (on the CPU).

    Example:
        >>> model = SequenceGenerator(2048, 64, 1000, cell="gru")
        >>> model(torch.randn(4, 2048), torch.randint(0, 1000, (4, 20))).shape
        torch.Size([4, 20, 1000])
    """

    def __init__(
        self,
        feature_size: int,
        hidden_size: int,
        vocabulary: int,
        *,
        cell: str = "rnn",
        num_layers: int = 1,
        dropout: float = 0.0,
        embedding_size: int | None = None,
        start: int = 0,
        end: int = 1,
        layers: str = "rnnfast",
    ) -> None:
        super().__init__()
        at_least(1, feature_size=feature_size, vocabulary=vocabulary)
        for name, token in (("start", start), ("end", end)):
            if not 0 <= token < vocabulary:
                raise ValueError(f"{name}: got {token}, expected 0 to {vocabulary - 1}")
        self.start, self.end = start, end
        size = hidden_size if embedding_size is None else embedding_size
        self.decoder = LanguageModel(
            vocabulary, size, hidden_size, cell=cell, num_layers=num_layers, dropout=dropout, layers=layers
        )
        self.h = nn.Linear(feature_size, num_layers * hidden_size)
        self.c = nn.Linear(feature_size, num_layers * hidden_size) if cell == "lstm" else None

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Logits with teacher forcing, (B, T, V)."""
        return self.decoder(tokens, self.initial_state(features))[0]

    def initial_state(self, features: Tensor) -> State:
        """What the language model begins with, (L, B, H), of an LSTM two of them."""
        if features.dim() != 2 or features.size(1) != self.h.in_features:
            raise ValueError(f"features: got shape {tuple(features.shape)}, expected (B, {self.h.in_features})")
        h = torch.tanh(self._by_layer(self.h(features)))
        return h if self.c is None else (h, self._by_layer(self.c(features)))

    def _by_layer(self, values: Tensor) -> Tensor:
        return values.unflatten(1, (self.decoder.rnn.num_layers, -1)).transpose(0, 1).contiguous()

    @torch.no_grad()
    def generate(
        self, features: Tensor, max_length: int, *, method: str = "greedy", **options: Any
    ) -> list[list[int]]:
        """Writes a sequence for each vector.

        Args:
            features: (B, F).
            max_length: the most tokens of a sequence, the end token included.
            method, options: as in :func:`rnnfast.models.decoding.generate`: ``"greedy"``; ``"sample"`` with
                `temperature`, `top_k`, `top_p` and `generator`; or ``"beam"`` with `beam` and `length_penalty`.

        Returns:
            For each row its tokens, without `start` and `end`.

        Example:
            >>> model = SequenceGenerator(16, 32, 50)
            >>> captions = model.generate(torch.randn(3, 16), 10, method="beam", beam=5)
            >>> max(map(len, captions)) <= 10
            True
        """
        first = torch.full((len(features),), self.start, device=features.device)
        logits, state = self.decoder.step(first, self.initial_state(features))
        return decoding.generate(
            self.decoder.step, logits, state, max_length=max_length, end=self.end, method=method, **options
        )


__all__ = ["SequenceGenerator"]
