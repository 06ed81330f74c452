"""One sequence becomes another."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import decoding
from ._checks import at_least, embed
from .attention import Attention, Memory
from .backbone import State, each, hidden, recurrent_layer, run, valid
from .language import LanguageModel


class Bridge(nn.Module):
    r"""Makes one direction's states of those of two, with a linear map for each layer's pair; tanh for h.

    .. math::
        h = \tanh(W_h [\overrightarrow h; \overleftarrow h] + b_h), \qquad
        c = W_c [\overrightarrow c; \overleftarrow c] + b_c

    Args:
        hidden_size: units, H.
        is_pair: whether a state is an LSTM's pair.

    Shapes:
        * state: (2 L, B, H); the result: (L, B, H).
    """

    def __init__(self, hidden_size: int, is_pair: bool) -> None:
        super().__init__()
        self.h = nn.Linear(2 * hidden_size, hidden_size)
        self.c = nn.Linear(2 * hidden_size, hidden_size) if is_pair else None

    def forward(self, state: State) -> State:
        """The state of one direction."""
        state = each(_side_by_side, state)
        h = torch.tanh(self.h(hidden(state)))
        return h if self.c is None else (h, self.c(state[1]))


def _side_by_side(h: Tensor) -> Tensor:
    """(2 L, B, H) to (L, B, 2 H)."""
    return h.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2)


class Encoded(NamedTuple):
    """A source once it is encoded: the decoder's initial state, and the memory that it attends to."""

    state: State
    memory: Memory | None


class Seq2Seq(nn.Module):
    r"""Many to many: an encoder reads the source, and a decoder that starts from its last state writes the target.

    (Sutskever, Vinyals and Le, arXiv:1409.3215; Cho et al., arXiv:1406.1078.) With attention, each of the
    decoder's states looks at all of the encoder's: see :class:`~rnnfast.models.Attention`, which also says where
    it departs from the papers so that the decoder stays one call of a fused layer. With two directions the
    encoder's last states go through a learned map to the decoder's.

    Args:
        source_vocabulary, target_vocabulary: how many tokens each side has; the target's, V, includes the
            tokens that start and end it.
        embedding_size: features of an embedded token, E.
        hidden_size: units, H, of the encoder's every direction and of the decoder.
        bidirectional: whether the encoder reads in both directions.
        attention: None, ``"bahdanau"``, ``"luong"`` or ``"scaled_luong"``.
        cell, num_layers, dropout, layers: as in :func:`~rnnfast.models.recurrent_layer`, of both sides.

    Shapes:
        * source: (B, S) int64.
        * target: (B, T) int64, what the decoder is given in training: the start token, then the true ones.
        * lengths: (B,) int64, valid steps of each source, 1 to S; None if all are. Padding beyond them never
          counts. Targets may be padded at will, since no step sees a later one.
        * result: logits (B, T, V), those of step t for what follows target token t.

    Raises:
        ValueError: for an unknown `cell`, `layers` or `attention`, a size below 1, or lengths that do not fit.
        IndexError: for a token that is not in the vocabulary (on the CPU).

    Example:
        >>> model = Seq2Seq(10_000, 8_000, 256, 512, attention="luong")
        >>> model(torch.randint(0, 10_000, (16, 30)), torch.randint(0, 8_000, (16, 25))).shape
        torch.Size([16, 25, 8000])
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        embedding_size: int,
        hidden_size: int,
        *,
        cell: str = "rnn",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        attention: str | None = None,
        layers: str = "rnnfast",
    ) -> None:
        super().__init__()
        at_least(1, source_vocabulary=source_vocabulary, target_vocabulary=target_vocabulary)
        options: dict[str, Any] = dict(cell=cell, num_layers=num_layers, dropout=dropout, layers=layers)
        at_least(1, embedding_size=embedding_size)
        self.embedding = nn.Embedding(source_vocabulary, embedding_size)
        self.encoder = recurrent_layer(
            input_size=embedding_size, hidden_size=hidden_size, bidirectional=bidirectional, **options
        )
        self.bridge = Bridge(hidden_size, cell == "lstm") if bidirectional else None
        self.decoder = LanguageModel(target_vocabulary, embedding_size, hidden_size, **options)
        memory_size = hidden_size * (2 if bidirectional else 1)
        self.attention = None if attention is None else Attention(attention, hidden_size, memory_size)

    def forward(self, source: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits with teacher forcing, (B, T, V)."""
        state, memory = self.encode(source, lengths)
        states = self._states(target, state)
        return self.decoder.readout(states if self.attention is None else self.attention(states, memory)[0])

    @torch.no_grad()
    def weights(self, source: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
        """How each decoder step attends to the source, (B, T, S), without dropout.

        For the weights of what :meth:`decode` wrote, give the start token and those tokens as the target.

        Raises:
            ValueError: if the model has no attention.
        """
        if self.attention is None:
            raise ValueError("attention: got None, expected a model with 'bahdanau' or 'luong'")
        with decoding.evaluating(self):
            state, memory = self.encode(source, lengths)
            return self.attention(self._states(target, state), memory)[1]

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> Encoded:
        """The decoder's initial state and the memory of a source; computed once for all steps of decoding."""
        states, last = run(self.encoder, embed(self.embedding, source=source), None, lengths)
        state = last if self.bridge is None else self.bridge(last)
        if self.attention is None:
            return Encoded(state, None)
        padding = None if lengths is None else ~valid(lengths.to(states.device), states.size(1))
        return Encoded(state, self.attention.memory(states, padding))

    def _states(self, target: Tensor, state: State) -> Tensor:
        """The decoder's states (B, T, H) with teacher forcing."""
        rows = hidden(state).size(1)
        if len(target) != rows:
            raise ValueError(f"target: got {len(target)} rows, expected {rows}, as source")
        return self.decoder.rnn(embed(self.decoder.embedding, target=target), state)[0]

    @torch.no_grad()
    def decode(
        self,
        source: Tensor,
        lengths: Tensor | None = None,
        *,
        start: int,
        end: int | None,
        max_length: int,
        beam: int = 1,
        **options: Any,
    ) -> list[list[int]]:
        """Writes a target for each source.

        Args:
            source, lengths: see the class.
            start: the token that the decoder is given first.
            end: the token that ends a target, left out of the result; None if there is none.
            max_length: the most tokens of a target, the end token included.
            beam: 1 takes the most probable token at each step, more is the width of a beam search.
            options: as in :func:`rnnfast.models.decoding.generate`: `method="sample"` and its `temperature` and
                so on to draw targets, `length_penalty` of beam search.

        Example:
            >>> model = Seq2Seq(20, 12, 16, 32, cell="gru", bidirectional=True, attention="bahdanau")
            >>> targets = model.decode(torch.randint(0, 20, (3, 7)), start=0, end=1, max_length=9, beam=4)
            >>> len(targets)
            3
        """
        with decoding.evaluating(self):
            state, memory = self.encode(source, lengths)

            def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
                states, last = self.decoder.states(tokens.unsqueeze(1), state)
                if self.attention is not None:
                    # The beginnings that a beam search follows in a row share its memory: (B, K, H) queries.
                    queries = states.reshape(len(source), -1, states.size(2))
                    states = self.attention(queries, memory)[0].view_as(states)
                return self.decoder.readout(states.squeeze(1)), last

            logits, state = step(source.new_full((len(source),), start), state)
            options.setdefault("method", "beam" if beam > 1 else "greedy")
            return decoding.generate(step, logits, state, max_length=max_length, end=end, beam=beam, **options)


__all__ = ["Bridge", "Encoded", "Seq2Seq"]
