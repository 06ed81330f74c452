"""Attention of a decoder to every state of an encoder."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ._checks import one_of

ATTENTIONS = ("bahdanau", "luong", "scaled_luong")


class Memory(NamedTuple):
    """What is attended to: values (B, S, M), their keys (B, S, H), and which of the S are padding (B, S)."""

    values: Tensor
    keys: Tensor
    padding: Tensor | None


class Attention(nn.Module):
    r"""Lets every state of a decoder look at all the states of an encoder.

    .. math::
        a_{tj} &= \operatorname{softmax}_j \operatorname{score}(s_t, m_j) \\
        \tilde s_t &= \tanh\bigl(W_c \bigl[\textstyle\sum_j a_{tj} m_j;\, s_t\bigr]\bigr)

    with one of three scores:

    .. math::
        \text{luong: } s_t^\top W m_j, \qquad \text{scaled\_luong: } s_t^\top W m_j / \sqrt H, \qquad
        \text{bahdanau: } v^\top \tanh(W s_t + U m_j)

    the multiplicative "general" score of Luong, Pham and Manning (arXiv:1508.04025), the same scaled as in Vaswani
    et al. (arXiv:1706.03762), and the additive one of Bahdanau, Cho and Bengio (arXiv:1409.0473). Products grow
    with H: unscaled, with hundreds of units, their softmax soon takes one position alone and learns no more.

    All come after the decoder's recurrence, as in Luong et al., and are not fed back into it; Bahdanau et al.
    query with the state before and feed what they find into the next step. So the decoder stays one call of a
    fused layer, and all its steps attend in one batched product.

    Args:
        score: ``"luong"``, ``"scaled_luong"`` or ``"bahdanau"``.
        hidden_size: features of the decoder's states, H.
        memory_size: features of the encoder's states, M.

    Shapes:
        * states: (B, T, H), the queries.
        * memory: from :meth:`memory`, S positions.
        * results: the states with what they found, (B, T, H), and the weights (B, T, S), each row summing to 1
          and zero on padding.

    Raises:
        ValueError: for an unknown score.

    Example:
        >>> attention = Attention("luong", 8, 16)
        >>> memory = attention.memory(torch.randn(2, 5, 16))
        >>> states, weights = attention(torch.randn(2, 3, 8), memory)
        >>> states.shape, weights.shape
        (torch.Size([2, 3, 8]), torch.Size([2, 3, 5]))
    """

    def __init__(self, score: str, hidden_size: int, memory_size: int) -> None:
        super().__init__()
        one_of(ATTENTIONS, attention=score)
        self.keys = nn.Linear(memory_size, hidden_size, bias=False)
        self.additive = score == "bahdanau"
        self.scale = 1 / math.sqrt(hidden_size) if score == "scaled_luong" else 1.0
        if self.additive:
            self.query = nn.Linear(hidden_size, hidden_size, bias=False)
            self.score = nn.Linear(hidden_size, 1, bias=False)
        self.combine = nn.Linear(memory_size + hidden_size, hidden_size, bias=False)

    def memory(self, values: Tensor, padding: Tensor | None = None) -> Memory:
        """What is to be attended to: values (B, S, M), and where they are padding (B, S); computed once."""
        return Memory(values, self.keys(values), padding)

    def forward(self, states: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """The states with what they found in memory, and the weights."""
        weights = self._scores(states, memory).softmax(-1)
        return torch.tanh(self.combine(torch.cat([weights @ memory.values, states], -1))), weights

    def _scores(self, states: Tensor, memory: Memory) -> Tensor:
        if self.additive:
            sums = self.query(states).unsqueeze(2) + memory.keys.unsqueeze(1)
            scores = self.score(torch.tanh(sums)).squeeze(-1)
        else:
            scores = (self.scale * states) @ memory.keys.transpose(1, 2)
        return scores if memory.padding is None else scores.masked_fill(memory.padding.unsqueeze(1), -torch.inf)


__all__ = ["ATTENTIONS", "Attention", "Memory"]
