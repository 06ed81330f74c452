"""Predicting what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import decoding
from ._checks import at_least, embed
from .backbone import State, detached, recurrent_layer


class Chunk(NamedTuple):
    """A piece of truncated BPTT: logits (B, t, V), what they should have predicted (B, t), and the state after."""

    logits: Tensor
    targets: Tensor
    state: State


class LanguageModel(nn.Module):
    r"""Predicts each next token, be it a character or a word.

    .. math::
        p(x_{t+1} \mid x_1, \dots, x_t) = \operatorname{softmax}(W h_t + b)

    with :math:`h_t` the state of a recurrence over embedded tokens (Mikolov et al., "Recurrent neural network
    based language model", Interspeech 2010; Graves, arXiv:1308.0850).

    Args:
        vocabulary: how many tokens there are, V.
        embedding_size: features of an embedded token, E.
        hidden_size: units, H.
        cell, num_layers, dropout, layers: as in :func:`~rnnfast.models.recurrent_layer`.

    Shapes:
        * tokens: (B, T) int64.
        * state: (L, B, H), of an LSTM two of them; zero if not given.
        * results: logits (B, T, V), those of step t for the token at t + 1, and the last state.

    Raises:
        ValueError: for an unknown `cell` or `layers`, or a size below 1.
        IndexError: for a token that is not in the vocabulary (on the CPU).

    Example:
        >>> model = LanguageModel(60, 64, 128, cell="lstm", num_layers=2, dropout=0.2)
        >>> logits, (h_n, c_n) = model(torch.randint(0, 60, (4, 50)))
        >>> logits.shape, h_n.shape
        (torch.Size([4, 50, 60]), torch.Size([2, 4, 128]))
    """

    def __init__(
        self,
        vocabulary: int,
        embedding_size: int,
        hidden_size: int,
        *,
        cell: str = "rnn",
        num_layers: int = 1,
        dropout: float = 0.0,
        layers: str = "rnnfast",
    ) -> None:
        super().__init__()
        at_least(1, vocabulary=vocabulary, embedding_size=embedding_size)
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        self.rnn = recurrent_layer(
            cell, embedding_size, hidden_size, num_layers=num_layers, dropout=dropout, layers=layers
        )
        self.readout = nn.Linear(hidden_size, vocabulary)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits for the token after each one given, and the last state."""
        states, last = self.states(tokens, state)
        return self.readout(states), last

    def states(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The last layer's states at every step, (B, T, H), and each layer's last one."""
        return self.rnn(embed(self.embedding, tokens=tokens), state)

    def step(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        """One step: tokens (B,) to logits (B, V) for those that follow, and the state after."""
        with decoding.evaluating(self):
            logits, state = self(tokens.unsqueeze(1), state)
        return logits.squeeze(1), state

    def chunks(self, tokens: Tensor, length: int, state: State | None = None) -> Iterator[Chunk]:
        """Truncated BPTT: goes along a long array, and gradients go back to the beginning of a chunk.

        The state is carried from chunk to chunk, cut off from the graph before (Williams and Peng, "An efficient
        gradient-based algorithm for on-line training of recurrent network trajectories", Neural Computation 2,
        1990). Call ``backward()`` and step the optimizer between chunks; the next one runs when it is asked for.

        Args:
            tokens: (B, T) int64, T at least 2; the last column is a target only.
            length: most steps of a chunk.
            state: to begin with, such as the one after the chunk where training stopped.

        Example:
            >>> model = LanguageModel(60, 16, 32)
            >>> for chunk in model.chunks(torch.randint(0, 60, (4, 1001)), length=100):
            ...     loss = nn.functional.cross_entropy(chunk.logits.flatten(0, 1), chunk.targets.flatten())
            ...     loss.backward()
        """
        at_least(1, length=length)
        if tokens.dim() != 2 or tokens.size(1) < 2:
            raise ValueError(f"tokens: got shape {tuple(tokens.shape)}, expected (B, T) with T at least 2")
        return self._chunks(tokens, length, state)

    def _chunks(self, tokens: Tensor, length: int, state: State | None) -> Iterator[Chunk]:
        inputs, targets = tokens[:, :-1].split(length, 1), tokens[:, 1:].split(length, 1)
        for given, following in zip(inputs, targets, strict=True):
            logits, last = self(given, state)
            state = detached(last)
            yield Chunk(logits, following, state)

    def stream(
        self,
        prompt: Tensor,
        *,
        state: State | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Draws tokens (B,) after a prompt, one at a time and without end, carrying the state.

        Args:
            prompt: (B, T) int64.
            state: before the prompt.
            temperature, top_k, top_p, generator: as in :func:`rnnfast.models.decoding.sampling`.

        Example:
            >>> from itertools import islice
            >>> model = LanguageModel(60, 16, 32)
            >>> tokens = [token.item() for token in islice(model.stream(torch.tensor([[7]])), 100)]
            >>> all(0 <= token < 60 for token in tokens)
            True
        """
        draw = decoding.sampling(temperature, top_k, top_p, generator)
        return decoding.stream(self.step, *self._after(prompt, state), draw)

    def generate(
        self, prompt: Tensor, length: int, *, state: State | None = None, method: str = "sample", **options: Any
    ) -> list[list[int]]:
        """Continues each row of a prompt.

        Args:
            prompt: (B, T) int64.
            length: tokens to add, the most where there is an end token.
            state: before the prompt.
            method, options: as in :func:`rnnfast.models.decoding.generate`: `end`, and `temperature`, `top_k`,
                `top_p` and `generator`, or `beam` and `length_penalty`.

        Returns:
            A list of tokens for each row.

        Example:
            >>> model = LanguageModel(60, 16, 32)
            >>> len(model.generate(torch.tensor([[7]]), 20, temperature=0.8)[0])
            20
        """
        logits, last = self._after(prompt, state)
        return decoding.generate(self.step, logits, last, max_length=length, method=method, **options)

    @torch.no_grad()
    def _after(self, prompt: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Logits (B, V) for what follows a prompt, and the state after it."""
        with decoding.evaluating(self):
            states, last = self.states(prompt, state)
        return self.readout(states[:, -1]), last


__all__ = ["Chunk", "LanguageModel"]
